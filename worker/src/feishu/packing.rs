//! What an answer is packed in although nobody asked for it: gateways and proxies compress what they like, and some take the
//! header off again. A success that cannot be read is a message of which nobody knows whether it was sent.

use std::io::Read;

use bytes::Bytes;
use http::header::{CONTENT_ENCODING, HeaderMap};
use openclaw_common::outside;

/// Encodings around one another, at most; nobody honest applies more than one.
const LAYERS: usize = 3;
const GZIP: &[u8] = &[0x1f, 0x8b];
const ZSTD: &[u8] = &[0x28, 0xb5, 0x2f, 0xfd];
/// Some servers begin JSON with it, and no reader of JSON takes it.
const BYTE_ORDER_MARK: &[u8] = &[0xef, 0xbb, 0xbf];

/// The body as it was before it was packed, at most `longest` bytes; else a sentence's end that says why not.
pub(super) fn unpack(headers: &HeaderMap, body: Bytes, longest: usize) -> Result<Bytes, String> {
    let mut body = body;
    for name in encodings(headers, &body)? {
        // Something on the way has unpacked it and left the header.
        if is_json(&body) {
            break;
        }
        body = layer(&name, &body, longest)?;
    }
    if body.starts_with(BYTE_ORDER_MARK) {
        body = body.slice(BYTE_ORDER_MARK.len()..);
    }
    Ok(body)
}

/// What the body is packed in, the outermost first: as the headers say, else as it shows itself.
fn encodings(headers: &HeaderMap, body: &[u8]) -> Result<Vec<String>, String> {
    let values = headers.get_all(CONTENT_ENCODING).iter();
    let names = values.flat_map(|value| {
        String::from_utf8_lossy(value.as_bytes())
            .split(',')
            .map(str::to_owned)
            .collect::<Vec<_>>()
    });
    let named = names.map(|name| name.trim().to_ascii_lowercase());
    let mut named: Vec<String> = named.filter(|name| !name.is_empty() && name != "identity").collect();
    if named.len() > LAYERS {
        return Err("it is packed too many times over".to_owned());
    }
    named.reverse();
    if named.is_empty() {
        let shown = [(GZIP, "gzip"), (ZSTD, "zstd")];
        named.extend(
            shown
                .iter()
                .filter(|(magic, _)| body.starts_with(magic))
                .map(|(_, name)| (*name).to_owned()),
        );
    }
    Ok(named)
}

fn layer(name: &str, packed: &[u8], longest: usize) -> Result<Bytes, String> {
    let read = |reader: &mut dyn Read| read_at_most(name, reader, longest);
    match name {
        "gzip" | "x-gzip" => read(&mut flate2::read::MultiGzDecoder::new(packed)),
        // Half the world leaves out the wrapping that the standard wants.
        "deflate" => match read(&mut flate2::read::ZlibDecoder::new(packed)) {
            Err(fault) if fault == broken(name) => read(&mut flate2::read::DeflateDecoder::new(packed)),
            read => read,
        },
        "br" => read(&mut brotli_decompressor::Decompressor::new(packed, 4096)),
        "zstd" => {
            let reader = ruzstd::decoding::StreamingDecoder::new(packed);
            read(&mut reader.map_err(|_| broken(name))?)
        }
        _ => Err(format!(
            "it is encoded as `{}`, which is not known here",
            outside::quoted(name)
        )),
    }
}

fn read_at_most(name: &str, reader: &mut dyn Read, longest: usize) -> Result<Bytes, String> {
    let mut unpacked = Vec::new();
    let limit = u64::try_from(longest).unwrap_or(u64::MAX).saturating_add(1);
    reader
        .take(limit)
        .read_to_end(&mut unpacked)
        .map_err(|_| broken(name))?;
    if unpacked.len() > longest {
        return Err("it is too large".to_owned());
    }
    Ok(unpacked.into())
}

fn broken(name: &str) -> String {
    format!("it is not what its encoding `{name}` says")
}

/// Whether it begins as an answer does. Nothing that is packed begins so: gzip, zlib and zstd have beginnings of their own, and
/// what Brotli and DEFLATE begin with for such a text is another byte.
fn is_json(body: &[u8]) -> bool {
    body.strip_prefix(BYTE_ORDER_MARK).unwrap_or(body).starts_with(b"{")
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
    use std::io::Write as _;

    use flate2::Compression;
    use flate2::write::{DeflateEncoder, GzEncoder, ZlibEncoder};
    use http::HeaderValue;

    use super::*;

    const LONGEST: usize = 200;
    const JSON: &[u8] = br#"{"code":0,"msg":"success","data":{"message_id":"om_1"}}"#;

    fn gzip(plain: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(plain).unwrap();
        encoder.finish().unwrap()
    }

    fn zlib(plain: &[u8]) -> Vec<u8> {
        let mut encoder = ZlibEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(plain).unwrap();
        encoder.finish().unwrap()
    }

    fn deflate(plain: &[u8]) -> Vec<u8> {
        let mut encoder = DeflateEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(plain).unwrap();
        encoder.finish().unwrap()
    }

    /// One stored block and an empty last one (RFC 7932 §9.2).
    fn brotli(plain: &[u8]) -> Vec<u8> {
        let head = (u32::try_from(plain.len()).unwrap() - 1) << 4 | 1 << 20;
        [&head.to_le_bytes()[..3], plain, &[3]].concat()
    }

    /// A frame of one raw block (RFC 8878 §3.1).
    fn zstd(plain: &[u8]) -> Vec<u8> {
        let length = u8::try_from(plain.len()).unwrap();
        let block = u32::from(length) << 3 | 1;
        [ZSTD, &[0x20, length], &block.to_le_bytes()[..3], plain].concat()
    }

    fn unpacked(encoding: &[&str], body: &[u8]) -> Result<Bytes, String> {
        let mut headers = HeaderMap::new();
        for value in encoding {
            headers.append(CONTENT_ENCODING, HeaderValue::from_str(value).unwrap());
        }
        unpack(&headers, Bytes::copy_from_slice(body), LONGEST)
    }

    #[test]
    fn whatever_an_answer_is_packed_in_it_is_read() {
        for (encoding, body) in [
            (&["gzip"][..], gzip(JSON)),
            (&["X-GZip"], gzip(JSON)),
            (&["deflate"], zlib(JSON)),
            (&["deflate"], deflate(JSON)),
            (&["br"], brotli(JSON)),
            (&["zstd"], zstd(JSON)),
            (&["identity"], JSON.to_vec()),
            (&[""], JSON.to_vec()),
            (&["br, gzip"], gzip(&brotli(JSON))),
            (&["br", "gzip"], gzip(&brotli(JSON))),
        ] {
            assert_eq!(unpacked(encoding, &body).unwrap(), JSON, "{encoding:?}");
        }
    }

    #[test]
    fn a_header_that_is_missing_or_left_behind_does_not_hide_the_answer() {
        assert_eq!(unpacked(&[], &gzip(JSON)).unwrap(), JSON);
        assert_eq!(unpacked(&[], &zstd(JSON)).unwrap(), JSON);
        for left_behind in ["gzip", "br", "deflate", "zstd", "lzma"] {
            assert_eq!(unpacked(&[left_behind], JSON).unwrap(), JSON, "{left_behind}");
        }
        let marked = [BYTE_ORDER_MARK, JSON].concat();
        assert_eq!(unpacked(&[], &marked).unwrap(), JSON);
        assert_eq!(unpacked(&["gzip"], &gzip(&marked)).unwrap(), JSON);
    }

    #[test]
    fn what_cannot_be_unpacked_says_why() {
        let cut = &gzip(JSON)[..30];
        for (encoding, body, says) in [
            ("gzip", cut, "not what its encoding `gzip` says"),
            ("zstd", b"no frame", "`zstd`"),
            ("lzma", b"anything", "`lzma`, which is not known"),
            ("gzip, gzip, gzip, gzip", cut, "too many times"),
        ] {
            let fault = unpacked(&[encoding], body).unwrap_err();
            assert!(fault.contains(says), "{fault}");
        }
    }

    #[test]
    fn a_small_answer_that_unpacks_to_a_huge_one_is_not_read() {
        let bomb = vec![b' '; 100 * LONGEST];
        for (encoding, body) in [
            ("gzip", gzip(&bomb)),
            ("deflate", zlib(&bomb)),
            ("deflate", deflate(&bomb)),
        ] {
            assert_eq!(
                unpacked(&[encoding], &body).unwrap_err(),
                "it is too large",
                "{encoding}"
            );
        }
        let twice = gzip(&gzip(&vec![b' '; 100_000]));
        assert_eq!(unpacked(&["gzip, gzip"], &twice).unwrap_err(), "it is too large");
        assert_eq!(unpacked(&["gzip"], &gzip(&[b' '; LONGEST])).unwrap().len(), LONGEST);
    }
}
