//! Tenant access tokens (`docs/design/feishu-protocol.md` §5.2): the same token while it has long to live, then a new one, both valid.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use openclaw_common::bot::Credentials;
use rand::Rng as _;

use super::{Refusal, refusals};
use crate::clock::micros;

/// A token is handed out again while more than this share of its life is left: 30 min of 2 h.
const RENEWAL_SHARE: u32 = 4;

/// A token and the whole seconds it has left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Issued {
    pub(crate) token: Arc<str>,
    pub(crate) expire: u64,
}

#[derive(Debug)]
struct Valid {
    app: Arc<str>,
    until_us: u64,
}

#[derive(Debug)]
pub(crate) struct Tokens {
    /// Empty: every app is known and every secret right.
    apps: HashMap<Arc<str>, Credentials>,
    lifetime: Duration,
    valid: HashMap<Arc<str>, Valid>,
    current: HashMap<Arc<str>, Arc<str>>,
}

impl Tokens {
    pub(crate) fn new(apps: &[Credentials], lifetime: Duration) -> Self {
        Self {
            apps: apps.iter().map(|app| (app.app_id.clone(), app.clone())).collect(),
            lifetime,
            valid: HashMap::new(),
            current: HashMap::new(),
        }
    }

    pub(crate) fn issue(&mut self, app_id: &str, secret: &str, now_us: u64) -> Result<Issued, Refusal> {
        let app: Arc<str> = match self.apps.get_key_value(app_id) {
            Some((_, known)) if known.app_secret.expose() != secret => return Err(refusals::wrong_secret()),
            Some((app, _)) => app.clone(),
            None if self.apps.is_empty() && !app_id.is_empty() => app_id.into(),
            None => return Err(refusals::unknown_app()),
        };
        let renewal_us = micros(self.lifetime / RENEWAL_SHARE);
        if let Some(token) = self.current.get(&app)
            && let Some(valid) = self.valid.get(token)
            && valid.until_us.saturating_sub(now_us) >= renewal_us
        {
            return Ok(Issued {
                token: token.clone(),
                expire: (valid.until_us - now_us) / 1_000_000,
            });
        }
        // Expired tokens are dropped here, so the table holds at most a few tokens per app.
        self.valid.retain(|_, valid| valid.until_us > now_us);
        let token: Arc<str> = format!("t-sim{:032x}", rand::rng().random::<u128>()).into();
        let until_us = now_us + micros(self.lifetime);
        self.valid.insert(
            token.clone(),
            Valid {
                app: app.clone(),
                until_us,
            },
        );
        self.current.insert(app, token.clone());
        Ok(Issued {
            token,
            expire: self.lifetime.as_secs(),
        })
    }

    /// The app behind an `Authorization` header.
    pub(crate) fn authenticate(&self, header: Option<&str>, now_us: u64) -> Result<Arc<str>, Refusal> {
        let token = header
            .and_then(|value| value.strip_prefix("Bearer "))
            .ok_or_else(refusals::token_missing)?;
        match self.valid.get(token) {
            Some(valid) if valid.until_us > now_us => Ok(valid.app.clone()),
            _ if token.starts_with("t-") => Err(refusals::token_invalid()),
            _ if token.starts_with("u-") => Err(refusals::user_token_invalid()),
            _ => Err(refusals::token_malformed()),
        }
    }

    /// Invalidates every token of an app, or of all apps.
    pub(crate) fn revoke(&mut self, app: Option<&str>) {
        self.valid.retain(|_, valid| app.is_some_and(|app| &*valid.app != app));
    }
}
