//! The bytes of a key from its text: 32 bytes as base64 (what `openclaw keys new` prints) or as 64 hexadecimal digits.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

use super::Encryption;
use crate::secret::Secret;

/// AES-256.
const KEY_BYTES: usize = 32;

impl Encryption {
    /// The bytes of a key; `None` for an id that is not in the ring. Never fails for a loaded configuration, whose keys
    /// were checked.
    #[must_use]
    pub fn key(&self, id: &str) -> Option<Zeroizing<[u8; 32]>> {
        decode(self.keys.get(id)?.expose())
    }
}

/// A new key, as `openclaw keys new` prints it.
#[must_use]
pub fn new_key() -> Zeroizing<String> {
    Zeroizing::new(STANDARD.encode(Zeroizing::new(rand::random::<[u8; KEY_BYTES]>())))
}

pub(super) fn check(text: &str) -> Result<Secret, String> {
    match decode(text) {
        Some(_) => Ok(Secret::new(text)),
        None => Err("is not a key: 32 bytes as base64 or hexadecimal; `openclaw keys new` makes one".to_owned()),
    }
}

fn decode(text: &str) -> Option<Zeroizing<[u8; KEY_BYTES]>> {
    let bytes = if text.len() == 2 * KEY_BYTES {
        hex::decode(text).ok()
    } else {
        STANDARD.decode(text).ok()
    };
    let bytes = Zeroizing::new(bytes?);
    <[u8; KEY_BYTES]>::try_from(bytes.as_slice()).ok().map(Zeroizing::new)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_32_bytes_in_base64_or_hexadecimal() {
        let bytes: [u8; 32] = std::array::from_fn(|index| u8::try_from(index).unwrap_or_default());
        for text in [STANDARD.encode(bytes), hex::encode(bytes), hex::encode_upper(bytes)] {
            assert_eq!(decode(&text).as_deref(), Some(&bytes), "{text}");
        }
        for text in [
            String::new(),
            STANDARD.encode([0; 31]),
            STANDARD.encode([0; 33]),
            "g".repeat(64),
            "hunter2".into(),
        ] {
            let sentence = check(&text).err();
            assert!(
                sentence.is_some_and(|it| text.is_empty() || !it.contains(&text)),
                "{text}"
            );
        }
    }
}
