//! Signature and decryption: what a body proves about its sender, in the order of `docs/design/feishu-protocol.md` §2.2.

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
    /// SHA-1 with the verification token: Feishu sent it, if it is an old card callback. Only with
    /// `security.legacy_cards`.
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

/// The longest body without a signature that is looked into when signatures are due: a challenge is far below.
const LONGEST_UNSIGNED: usize = 8 * 1024;

/// How long a body may be that comes with these headers, when only a challenge may come with them.
pub(crate) fn longest_unsigned(bot: &Bot, headers: &HeaderMap) -> Option<usize> {
    let due = bot.credentials.encrypt_key.is_some() && Signature::of(headers).is_none();
    due.then_some(LONGEST_UNSIGNED)
}

/// Checks the signature over the raw bytes, then decrypts. Nothing is decrypted whose signature does not hold, but what may
/// be a challenge, which has none; and of that nobody learns more than that it is one, or is not ([`unsigned`]).
pub(crate) fn open(bot: &Bot, headers: &HeaderMap, raw: Bytes) -> Result<Opened, Refusal> {
    let proof = proof(bot, headers, &raw)?;
    let key = match &bot.credentials.encrypt_key {
        Some(key) if proof != Proof::SignedCard => key,
        // Old card callbacks are never encrypted, and their signature is no proof of anything that is.
        _ => return Ok(Opened { body: raw, proof }),
    };
    if proof == Proof::Unsigned && raw.len() > LONGEST_UNSIGNED {
        return Err(unsigned());
    }
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
        // To a stranger, a ciphertext that does not decrypt looks like every other that is no challenge: no padding oracle.
        Err(_) if proof == Proof::Unsigned => Err(unsigned()),
        Err(error) => Err(Refusal::malformed(error.to_string())),
    }
}

/// The refusal of what has no signature and is no challenge: one answer, whatever is wrong with it.
pub(crate) fn unsigned() -> Refusal {
    Refusal::new(
        Code::BadSignature,
        "the push has no signature, and only a URL challenge with the bot's `verification_token` may come without one",
    )
}

/// The headers that Feishu signs with.
struct Signature<'headers> {
    signature: &'headers str,
    timestamp: &'headers str,
    nonce: &'headers str,
}

impl<'headers> Signature<'headers> {
    fn of(headers: &'headers HeaderMap) -> Option<Self> {
        let header = |name| headers.get(name).and_then(|value| value.to_str().ok());
        Some(Self {
            signature: header("x-lark-signature")?,
            timestamp: header("x-lark-request-timestamp")?,
            nonce: header("x-lark-request-nonce")?,
        })
    }
}

fn proof(bot: &Bot, headers: &HeaderMap, raw: &[u8]) -> Result<Proof, Refusal> {
    let Some(Signature {
        signature,
        timestamp,
        nonce,
    }) = Signature::of(headers)
    else {
        return Ok(Proof::Unsigned);
    };
    let credentials = &bot.credentials;
    let key = credentials.encrypt_key.as_ref();
    if key.is_some_and(|key| crypto::verify_sha256(signature, timestamp, nonce, key.expose(), raw)) {
        return Ok(Proof::Signed);
    }
    let token = credentials.verification_token.expose();
    if bot.security.legacy_cards && crypto::verify_sha1(signature, timestamp, nonce, token, raw) {
        return Ok(Proof::SignedCard);
    }
    match key {
        Some(_) => Err(Refusal::new(
            Code::BadSignature,
            "the signature does not fit the body: is the bot's `encrypt_key` the one in Feishu's console? (Old card callbacks \
             need `security.legacy_cards: true`.)",
        )),
        // Nothing could have signed it in a way that can be checked here; the token decides.
        None => Ok(Proof::Unsigned),
    }
}
