//! Sealing of stored bodies: from ingest on, in the broker and in the database, a body is readable only with a key of the
//! configured ring (AES-256-GCM).
//!
//! ```text
//! 0xF5  version 2   length   key id          salt       nonce      ciphertext and tag
//! 1 B   1 B         1 B      length bytes    16 B       12 B       body + 16 B
//! ```
//!
//! * Each body has its own key, `BLAKE3(ring key, salt)`: with a random salt and a random nonce, 2^32 bodies under one key
//!   (GCM's limit for random nonces, seven weeks at 1,000 events a second) are no limit any more.
//! * What decides what is done with a body is authenticated with it: its event, its bot, its type and who made it, its chat,
//!   and whether it is a body or a plan. Moved to another place, it does not open.
//! * Each ciphertext names its ring key, so keys can be rotated while old bodies are about.
//! * `0xF5` occurs in no UTF-8 text, so no plain body looks sealed. With a ring a plain body is refused, or whoever can write
//!   to broker or database could say anything in anybody's name. While a ring is introduced, `encryption.accept_plain_until`
//!   lets the old ones pass, and those of version 1, which authenticated the event alone.

use std::collections::BTreeMap;
use std::fmt;

use aes_gcm::aead::AeadInOut as _;
use aes_gcm::{Aes256Gcm, KeyInit as _};
use bytes::Bytes;
use zeroize::Zeroizing;

use crate::config::Encryption;
use crate::envelope::{Envelope, EventKey};
use crate::time;

const MAGIC: u8 = 0xF5;
const VERSION: u8 = 2;
/// Authenticates the event's key and nothing else.
const OLDER: u8 = 1;
const SALT: usize = 16;
const NONCE: usize = 12;
const TAG: usize = 16;

/// The keys that open bodies, and the one that seals them. The default ring is empty: bodies stay in the clear.
#[derive(Default)]
pub struct KeyRing {
    keys: BTreeMap<String, Zeroizing<[u8; 32]>>,
    active: Option<String>,
    /// Unix milliseconds until which plain bodies and those of an older version pass.
    changing_over_until: i64,
}

/// Which part of an event is sealed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Part {
    /// What came in.
    Body,
    /// What is to go out.
    Plan,
}

/// The key ring is wrong: the operator's fault.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyRingError {
    /// Not a key.
    #[error("`encryption.keys.{0}` is not 32 bytes in base64 or hexadecimal: `openclaw keys new` makes one")]
    NotAKey(String),
    /// Cannot be written into a ciphertext.
    #[error("`encryption.keys`: the id `{0}` is not 1 to 255 bytes long")]
    Id(String),
    /// Bodies could not be sealed.
    #[error("`encryption.active` is `{0}`, which is no id in `encryption.keys`")]
    NoActive(String),
}

/// A body cannot be sealed: it is longer than AES-GCM can take (64 GiB).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the body is too long to be sealed")]
pub struct SealError;

/// A body cannot be opened. Retrying helps only after the configuration has changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// The operator's fault: the ring lacks a key that is still needed.
    #[error("the body is sealed with key `{0}`, which is not in `encryption.keys`")]
    MissingKey(String),
    /// Damaged, tampered with, moved from another event, or the ring's key of that id is another one.
    #[error("the body does not open with key `{0}`: the key or the body is not what it was")]
    Damaged(String),
    /// Somebody put it there past ingest, or it is from before the ring was configured.
    #[error(
        "the body is not sealed although `encryption.keys` is configured: if it is from before that, set \
         `encryption.accept_plain_until` to a time until which such bodies pass"
    )]
    Plain,
    /// From before everything that counts was authenticated.
    #[error(
        "the body is sealed with key `{0}` in the way of an older version: set `encryption.accept_plain_until` to a time \
         until which such bodies pass"
    )]
    Older(String),
    /// Made by a newer program, or damaged.
    #[error("the body is sealed in a way this program does not know")]
    Unknown,
}

impl fmt::Debug for KeyRing {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ids: Vec<_> = self.keys.keys().collect();
        write!(formatter, "KeyRing({ids:?}, active {:?})", self.active)
    }
}

impl KeyRing {
    /// Reads the ring.
    ///
    /// # Errors
    /// For the first key that is none, or when the active one is missing.
    pub fn new(config: &Encryption) -> Result<Self, KeyRingError> {
        let mut keys = BTreeMap::new();
        for id in config.keys.keys() {
            if !(1..=usize::from(u8::MAX)).contains(&id.len()) {
                return Err(KeyRingError::Id(id.clone()));
            }
            let key = config.key(id).ok_or_else(|| KeyRingError::NotAKey(id.clone()))?;
            keys.insert(id.clone(), key);
        }
        if !keys.contains_key(&config.active) {
            return Err(KeyRingError::NoActive(config.active.clone()));
        }
        Ok(Self {
            keys,
            active: Some(config.active.clone()),
            changing_over_until: config.accept_plain_until_ms.unwrap_or(0),
        })
    }

    /// Seals a part of an event with the active key; the empty ring gives it back as it is.
    ///
    /// # Errors
    /// For a body beyond AES-GCM's limit.
    pub fn seal(&self, event: &Envelope, part: Part, plain: Bytes) -> Result<Bytes, SealError> {
        let Some((id, secret)) = self.active.as_ref().and_then(|id| self.keys.get_key_value(id)) else {
            return Ok(plain);
        };
        let salt: [u8; SALT] = rand::random();
        let nonce: [u8; NONCE] = rand::random();
        let mut sealed = Vec::with_capacity(3 + id.len() + SALT + NONCE + plain.len() + TAG);
        sealed.extend_from_slice(&[MAGIC, VERSION, u8::try_from(id.len()).map_err(|_| SealError)?]);
        sealed.extend_from_slice(id.as_bytes());
        sealed.extend_from_slice(&salt);
        sealed.extend_from_slice(&nonce);
        let start = sealed.len();
        sealed.extend_from_slice(&plain);
        let tag = cipher(secret, &salt)
            .encrypt_inout_detached(&nonce.into(), &associated(event, part), (&mut sealed[start..]).into())
            .map_err(|_| SealError)?;
        sealed.extend_from_slice(&tag);
        Ok(sealed.into())
    }

    /// A part of an event as it was before [`KeyRing::seal`].
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn open(&self, event: &Envelope, part: Part, body: &Bytes) -> Result<Bytes, OpenError> {
        if body.first() != Some(&MAGIC) {
            return if self.active.is_none() || self.is_changing_over() {
                Ok(body.clone())
            } else {
                Err(OpenError::Plain)
            };
        }
        let sealed = Sealed::read(body).ok_or(OpenError::Unknown)?;
        let id = || sealed.id.to_owned();
        let secret = self.keys.get(sealed.id).ok_or_else(|| OpenError::MissingKey(id()))?;
        let associated = match sealed.version {
            VERSION => associated(event, part),
            _ if self.is_changing_over() => associated_before(&event.key),
            _ => return Err(OpenError::Older(id())),
        };
        let mut plain = sealed.ciphertext.to_vec();
        cipher(secret, &sealed.salt)
            .decrypt_inout_detached(
                &sealed.nonce.into(),
                &associated,
                plain.as_mut_slice().into(),
                &sealed.tag.into(),
            )
            .map_err(|_| OpenError::Damaged(id()))?;
        Ok(plain.into())
    }

    fn is_changing_over(&self) -> bool {
        time::now_ms() < self.changing_over_until
    }
}

/// How a body is sealed, ring key and version: bodies that have it in common open together or not at all. `None` when it is
/// not sealed, or not in a way known here.
#[must_use]
pub fn manner(body: &[u8]) -> Option<&[u8]> {
    let sealed = Sealed::read(body)?;
    body.get(..3 + sealed.id.len())
}

/// The id of the ring key that a body is sealed with; `None` when it is not sealed, or not in a way known here.
#[must_use]
pub fn key_id(body: &[u8]) -> Option<&str> {
    Sealed::read(body).map(|sealed| sealed.id)
}

struct Sealed<'body> {
    version: u8,
    id: &'body str,
    salt: [u8; SALT],
    nonce: [u8; NONCE],
    ciphertext: &'body [u8],
    tag: [u8; TAG],
}

impl<'body> Sealed<'body> {
    fn read(body: &'body [u8]) -> Option<Self> {
        let [MAGIC, version @ (OLDER | VERSION), length, rest @ ..] = body else {
            return None;
        };
        let (id, rest) = rest.split_at_checked(usize::from(*length))?;
        let (salt, rest) = rest.split_first_chunk()?;
        let (nonce, rest) = rest.split_first_chunk()?;
        let (ciphertext, tag) = rest.split_last_chunk()?;
        Some(Self {
            version: *version,
            id: std::str::from_utf8(id).ok()?,
            salt: *salt,
            nonce: *nonce,
            ciphertext,
            tag: *tag,
        })
    }
}

fn cipher(secret: &[u8; 32], salt: &[u8; SALT]) -> Aes256Gcm {
    let key = Zeroizing::new(*blake3::keyed_hash(secret, salt).as_bytes());
    Aes256Gcm::new((&*key).into())
}

/// What is authenticated with a part of an event, as one string of bytes; the lengths keep different events different.
fn associated(event: &Envelope, part: Part) -> Vec<u8> {
    let mut bytes = vec![match part {
        Part::Body => b'b',
        Part::Plan => b'p',
    }];
    bytes.extend_from_slice(&event.origin.as_number().to_be_bytes());
    let texts = [
        &*event.key.app_id,
        &*event.key.key,
        event.bot.as_str(),
        &*event.event_type,
        &*event.chat,
        &*event.tenant,
    ];
    for text in texts {
        // As the databases store it: an event whose body is read back has no other name.
        let text = text.replace('\0', "\u{fffd}");
        bytes.extend_from_slice(&(text.len() as u64).to_be_bytes());
        bytes.extend_from_slice(text.as_bytes());
    }
    bytes
}

/// The same in version 1.
fn associated_before(key: &EventKey) -> Vec<u8> {
    [
        &(key.app_id.len() as u64).to_be_bytes()[..],
        key.app_id.as_bytes(),
        key.key.as_bytes(),
    ]
    .concat()
}

#[cfg(test)]
mod tests;
