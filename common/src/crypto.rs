//! Feishu's signature and encryption (`docs/design/feishu-protocol.md` §2 and §3): pure functions over bytes.
//!
//! | what | how |
//! |---|---|
//! | event, new callback | `hex(SHA-256(timestamp ‖ nonce ‖ encrypt_key ‖ body))`; not an HMAC |
//! | old card callback | `hex(SHA-1(timestamp ‖ nonce ‖ verification_token ‖ body))` |
//! | body | `base64(iv ‖ AES-256-CBC(SHA-256(encrypt_key), iv, PKCS#7(plaintext)))` |
//!
//! `body` is always the request body as it came over the wire: a JSON round trip would change it.

use aes::Aes256;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use cbc::cipher::block_padding::Pkcs7;
use cbc::cipher::{BlockModeDecrypt, BlockModeEncrypt, KeyIvInit};
use sha1::Sha1;
use sha2::digest::Output;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

/// AES block, and therefore IV, in bytes.
const BLOCK: usize = 16;

/// The body was not made with this key, or was damaged. One error for every cause: a caller that told them apart would
/// be a padding oracle. The sender's fault; the same bytes never decrypt later.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the body cannot be decrypted")]
pub struct DecryptError;

/// The signature of an event or a new callback, lowercase hex.
#[must_use]
pub fn signature_sha256(timestamp: &str, nonce: &str, encrypt_key: &str, body: &[u8]) -> String {
    hex::encode(digest::<Sha256>(timestamp, nonce, encrypt_key, body))
}

/// The signature of an old card callback (`card.action.trigger_v1`), lowercase hex.
#[must_use]
pub fn signature_sha1(timestamp: &str, nonce: &str, verification_token: &str, body: &[u8]) -> String {
    hex::encode(digest::<Sha1>(timestamp, nonce, verification_token, body))
}

/// Whether `signature` is exactly [`signature_sha256`] of the rest. Constant time in the signature.
#[must_use]
pub fn verify_sha256(signature: &str, timestamp: &str, nonce: &str, encrypt_key: &str, body: &[u8]) -> bool {
    matches_hex::<64>(signature, &digest::<Sha256>(timestamp, nonce, encrypt_key, body))
}

/// Whether `signature` is exactly [`signature_sha1`] of the rest. Constant time in the signature.
#[must_use]
pub fn verify_sha1(signature: &str, timestamp: &str, nonce: &str, verification_token: &str, body: &[u8]) -> bool {
    matches_hex::<40>(signature, &digest::<Sha1>(timestamp, nonce, verification_token, body))
}

/// Whether two secrets are equal. Constant time in their content, not in their length.
#[must_use]
pub fn same_secret(left: &str, right: &str) -> bool {
    left.as_bytes().ct_eq(right.as_bytes()).into()
}

fn digest<D: Digest>(timestamp: &str, nonce: &str, secret: &str, body: &[u8]) -> Output<D> {
    D::new()
        .chain_update(timestamp)
        .chain_update(nonce)
        .chain_update(secret)
        .chain_update(body)
        .finalize()
}

/// Compares as text, so that exactly one spelling of a signature is right. `N` is twice the digest's length.
fn matches_hex<const N: usize>(signature: &str, digest: &[u8]) -> bool {
    let mut expected = [0; N];
    hex::encode_to_slice(digest, &mut expected).is_ok() && signature.as_bytes().ct_eq(&expected).into()
}

/// The value of `{"encrypt": …}` for a plaintext. `iv` must be random for every call.
#[must_use]
pub fn encrypt(encrypt_key: &str, iv: [u8; 16], plaintext: &[u8]) -> String {
    let key = key(encrypt_key);
    let ciphertext = cbc::Encryptor::<Aes256>::new((&*key).into(), &iv.into()).encrypt_padded_vec::<Pkcs7>(plaintext);
    STANDARD.encode([&iv[..], &ciphertext].concat())
}

/// The plaintext behind the value of `{"encrypt": …}`; valid UTF-8.
///
/// # Errors
/// When it is not standard base64 with padding, not an IV plus whole blocks, the PKCS#7 padding is not exact, or the
/// plaintext is not UTF-8.
pub fn decrypt(encrypt_key: &str, ciphertext: &str) -> Result<Vec<u8>, DecryptError> {
    let mut data = STANDARD.decode(ciphertext).map_err(|_| DecryptError)?;
    if data.len() < 2 * BLOCK || data.len() % BLOCK != 0 {
        return Err(DecryptError);
    }
    let key = key(encrypt_key);
    let (iv, blocks) = data.split_at_mut(BLOCK);
    let plaintext = cbc::Decryptor::<Aes256>::new_from_slices(&*key, iv)
        .map_err(|_| DecryptError)?
        .decrypt_padded::<Pkcs7>(blocks)
        .map_err(|_| DecryptError)?;
    std::str::from_utf8(plaintext).map_err(|_| DecryptError)?;
    let length = plaintext.len();
    data.copy_within(BLOCK..BLOCK + length, 0);
    data.truncate(length);
    Ok(data)
}

fn key(encrypt_key: &str) -> Zeroizing<[u8; 32]> {
    Zeroizing::new(Sha256::digest(encrypt_key).into())
}

#[cfg(test)]
mod tests;
