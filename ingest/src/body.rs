//! The request's body, bounded in size and time.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, HttpBody as _};
use axum::http::{HeaderMap, header};
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt as _;

use crate::overload::{Overload, Permit};
use crate::reply::{Code, Refusal};
use crate::verify;

/// For the whole body (`docs/design/delivery.md` §10): a third of Feishu's 3 s.
const READ: Duration = Duration::from_secs(1);
/// What is read and thrown away behind the limit, so that a client that is still sending sees the answer and not a reset.
const DISCARD: usize = 1024 * 1024;

/// How long a body may be, in bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Longest {
    /// `security.max_body`
    pub(crate) any: usize,
    /// One that comes without a signature although it needs one: nothing but a challenge is worth reading then.
    pub(crate) unsigned: Option<usize>,
}

impl Longest {
    /// Why a body of so many bytes is not read, if it is not.
    fn refuses(self, bytes: usize) -> Option<Refusal> {
        if bytes > self.any {
            return Some(too_large(self.any));
        }
        self.unsigned.is_some_and(|limit| bytes > limit).then(verify::unsigned)
    }
}

/// The body of a request of `client` as it came over the wire, and the right to handle it: only now is there anything to do.
pub(crate) async fn read(
    headers: &HeaderMap,
    mut body: Body,
    longest: Longest,
    client: IpAddr,
    overload: &Arc<Overload>,
) -> Result<(Bytes, Permit), Refusal> {
    // No decompression, so no decompression bombs.
    if let Some(encoding) = headers.get(header::CONTENT_ENCODING)
        && !encoding.as_bytes().eq_ignore_ascii_case(b"identity")
    {
        return Err(Refusal::new(
            Code::UnsupportedEncoding,
            "content-encoding is not supported: send the body as it is",
        ));
    }
    let reading = async {
        // hyper answers `Expect: 100-continue` when the body is first read: not before its announced length is right.
        if let Some(refusal) = announced(headers).and_then(|length| longest.refuses(length)) {
            if !headers.contains_key(header::EXPECT) {
                discard(&mut body).await;
            }
            return Err(refusal);
        }
        let mut permit = overload.permit(client);
        let whole = collect(&mut body, longest, &mut permit).await;
        let refusal = match whole {
            Ok(whole) => {
                permit.enter()?;
                return Ok((whole, permit));
            }
            Err(refusal) => refusal,
        };
        drop(permit);
        if matches!(refusal.code, Code::TooLarge | Code::BadSignature) {
            discard(&mut body).await;
        }
        Err(refusal)
    };
    tokio::time::timeout(READ, reading)
        .await
        .unwrap_or_else(|_| Err(Refusal::malformed("the body did not arrive within 1 s")))
}

fn announced(headers: &HeaderMap) -> Option<usize> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

async fn collect(body: &mut Body, longest: Longest, permit: &mut Permit) -> Result<Bytes, Refusal> {
    // Nearly every body is one chunk, which is used without a copy.
    let Some(first) = next(body).await? else {
        return Ok(Bytes::new());
    };
    take(first.len(), 0, longest, permit)?;
    if body.is_end_stream() {
        return Ok(first);
    }
    let cut = permit.arrives();
    let whole = rest(body, first, longest, permit);
    let whole = cut.run_until_cancelled(whole).await;
    let whole = whole.unwrap_or_else(|| Err(Refusal::unavailable()))?;
    permit.arrived()?;
    Ok(whole)
}

/// The chunks behind the first one.
async fn rest(body: &mut Body, first: Bytes, longest: Longest, permit: &mut Permit) -> Result<Bytes, Refusal> {
    let Some(second) = next(body).await? else {
        return Ok(first);
    };
    let mut whole = BytesMut::from(first);
    let mut chunk = Some(second);
    while let Some(more) = chunk {
        take(more.len(), whole.len(), longest, permit)?;
        whole.extend_from_slice(&more);
        chunk = next(body).await?;
    }
    Ok(whole.freeze())
}

/// Takes a chunk on, behind `before` bytes.
fn take(chunk: usize, before: usize, longest: Longest, permit: &mut Permit) -> Result<(), Refusal> {
    match longest.refuses(before + chunk) {
        Some(refusal) => Err(refusal),
        None => permit.grow(chunk),
    }
}

async fn next(body: &mut Body) -> Result<Option<Bytes>, Refusal> {
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| Refusal::malformed("the body ended early"))?;
        if let Ok(data) = frame.into_data() {
            return Ok(Some(data));
        }
    }
    Ok(None)
}

async fn discard(body: &mut Body) {
    let mut left = DISCARD;
    while let Ok(Some(chunk)) = next(body).await {
        match left.checked_sub(chunk.len()) {
            Some(rest) => left = rest,
            None => return,
        }
    }
}

fn too_large(limit: usize) -> Refusal {
    Refusal::new(
        Code::TooLarge,
        format!("the body is larger than {limit} bytes (`security.max_body`)"),
    )
}
