//! Signature and decryption: what a body proves about its sender, in the order of `feishu-protocol.md` §2.2.

use axum::http::HeaderMap;
use bytes::Bytes;
use openclaw_common::bot::Bot;
use openclaw_common::crypto;

use crate::document::{Wrapper, complaint};
use crate::reply::{Code, Refusal};

/// What the signature headers proved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Proof {
    /// SHA-256 with the encrypt key: Feishu sent it.
    Signed,
    /// SHA-1 with the verification token: Feishu sent it, if it is an old card callback.
    SignedCard,
    /// Nothing. Enough for a challenge with the right token, and for a bot without an encrypt key.
    Unsigned,
}

/// A body as the bot reads it.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) body: Bytes,
    pub(crate) proof: Proof,
}

/// Checks the signature over the raw bytes, then decrypts.
pub(crate) fn open(bot: &Bot, headers: &HeaderMap, raw: Bytes) -> Result<Opened, Refusal> {
    let proof = proof(bot, headers, &raw)?;
    let Some(key) = &bot.credentials.encrypt_key else {
        return Ok(Opened { body: raw, proof });
    };
    let wrapper: Wrapper<'_> = serde_json::from_slice(&raw)
        .map_err(|error| Refusal::malformed(format!("the body is not JSON: {}", complaint(&error))))?;
    let ciphertext = wrapper.encrypt.as_str();
    if ciphertext.is_empty() {
        return Ok(Opened { body: raw, proof });
    }
    match crypto::decrypt(key.expose(), ciphertext) {
        Ok(plain) => Ok(Opened {
            body: plain.into(),
            proof,
        }),
        // To a stranger, a ciphertext that does not decrypt must look like one that does: no padding oracle.
        Err(_) if proof == Proof::Unsigned => Err(unsigned()),
        Err(error) => Err(Refusal::malformed(error.to_string())),
    }
}

/// The refusal of what has no signature and is no challenge.
pub(crate) fn unsigned() -> Refusal {
    Refusal::new(
        Code::BadSignature,
        "the push has no signature, and only a URL challenge may come without one",
    )
}

fn proof(bot: &Bot, headers: &HeaderMap, raw: &[u8]) -> Result<Proof, Refusal> {
    let header = |name| headers.get(name).and_then(|value| value.to_str().ok());
    let (Some(signature), Some(timestamp), Some(nonce)) = (
        header("x-lark-signature"),
        header("x-lark-request-timestamp"),
        header("x-lark-request-nonce"),
    ) else {
        return Ok(Proof::Unsigned);
    };
    let credentials = &bot.credentials;
    let key = credentials.encrypt_key.as_ref();
    if key.is_some_and(|key| crypto::verify_sha256(signature, timestamp, nonce, key.expose(), raw)) {
        return Ok(Proof::Signed);
    }
    let token = credentials.verification_token.expose();
    if crypto::verify_sha1(signature, timestamp, nonce, token, raw) {
        return Ok(Proof::SignedCard);
    }
    match key {
        Some(_) => Err(Refusal::new(
            Code::BadSignature,
            "the signature does not fit the body: is the bot's `encrypt_key` the one in Feishu's console?",
        )),
        // Nothing could have signed it in a way that can be checked here; the token decides.
        None => Ok(Proof::Unsigned),
    }
}
