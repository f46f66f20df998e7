//! Tenant access tokens: bought once for all workers, renewed before they end, never logged.
//!
//! Three entries of the cache for each app:
//!
//! | key | value | lives |
//! |---|---|---|
//! | `openclaw:tok:<app>` | the token | until 5 minutes before its end |
//! | `openclaw:tok:<app>:fresh` | the same token, or `buying` | until 10 to 30 minutes before its end, by chance |
//! | `openclaw:tok:<app>:limited` | Feishu's code | while Feishu wants nobody to ask for one |
//!
//! Whoever finds the second missing, and so gets to set it, buys the next token; everybody else goes on with the old one,
//! which stays valid beside the new one. No wall clock is compared between machines: the cache ends the entries. A process
//! looks at them once a minute, in the background; with the cache down it buys for itself, which costs nothing either,
//! because Feishu gives every buyer the same token while that has 30 minutes left.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwapOption;
use http::header::HeaderValue;
use openclaw_common::bot::Bot;
use openclaw_common::cache::Cache;
use openclaw_common::secret::Secret;
use tokio::task::JoinSet;
use tokio::time::Instant;

use self::source::{Login, TokenSource};
use super::transport::Http;

mod source;

/// A tenant access token, ready for a header.
pub(super) struct Token {
    value: Secret,
    bearer: HeaderValue,
    /// It came in place of one that Feishu refused, and no call with it has been accepted yet.
    unproved: AtomicBool,
}

impl PartialEq for Token {
    fn eq(&self, other: &Self) -> bool {
        self.value == other.value
    }
}

impl Token {
    fn new(value: &str) -> Option<Self> {
        let mut bearer = HeaderValue::try_from(format!("Bearer {value}"))
            .ok()
            .filter(|_| !value.is_empty())?;
        bearer.set_sensitive(true);
        Some(Self {
            value: Secret::new(value),
            bearer,
            unproved: AtomicBool::new(false),
        })
    }

    /// Notes that Feishu took it.
    pub(super) fn was_taken(&self) {
        self.unproved.store(false, Ordering::Relaxed);
    }

    /// Whether it was bought because another one was refused, and was never taken either.
    pub(super) fn is_in_vain(&self) -> bool {
        self.unproved.load(Ordering::Relaxed)
    }

    /// The `Authorization` header.
    pub(super) fn bearer(&self) -> HeaderValue {
        self.bearer.clone()
    }

    fn bytes(&self) -> &[u8] {
        self.value.expose().as_bytes()
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Token(…)")
    }
}

/// No token can be had now. Nothing was sent.
#[derive(Clone, Debug, thiserror::Error)]
#[error("no access token: {reason}")]
pub(super) struct TokenError {
    /// Feishu's code, if it answered.
    pub(super) code: Option<i64>,
    reason: String,
    /// Nobody asks again before this.
    pub(super) until: Instant,
    /// How many in a row failed like this.
    failures: u32,
}

/// The tokens of all apps.
#[derive(Debug)]
pub(super) struct Tokens {
    source: Arc<TokenSource>,
    apps: Mutex<HashMap<Arc<str>, Arc<App>>>,
    /// At most one task an app; all end when the client is dropped.
    looking: Mutex<JoinSet<()>>,
}

/// One app in this process.
#[derive(Debug, Default)]
struct App {
    copy: ArcSwapOption<Held>,
    /// Whoever looks or buys holds it: one at a time. What it guards is the last failure.
    flight: Arc<tokio::sync::Mutex<Option<TokenError>>>,
}

/// This process's copy of a token.
#[derive(Debug)]
struct Held {
    token: Arc<Token>,
    /// From here on somebody looks at the cache.
    look: Instant,
    /// From here on it is renewed, when the cache cannot say.
    renew: Instant,
    /// From here on it is not used.
    end: Instant,
}

impl Tokens {
    pub(super) fn new(http: Http, cache: Arc<dyn Cache>) -> Self {
        Self {
            source: Arc::new(TokenSource::new(http, cache)),
            apps: Mutex::default(),
            looking: Mutex::default(),
        }
    }

    /// A token of the bot's app that is good now.
    pub(super) async fn current(&self, bot: &Bot) -> Result<Arc<Token>, TokenError> {
        let app = self.app(&bot.credentials.app_id);
        if let Some(copy) = &*app.copy.load() {
            let now = Instant::now();
            if now < copy.look {
                return Ok(copy.token.clone());
            }
            if now < copy.end {
                self.look_in_background(bot, &app);
                return Ok(copy.token.clone());
            }
        }
        let mut flight = app.flight.clone().lock_owned().await;
        if let Some(copy) = &*app.copy.load()
            && Instant::now() < copy.end
        {
            return Ok(copy.token.clone());
        }
        self.source.obtain(&Login::of(bot), &app, &mut flight, None).await
    }

    /// Another token than `refused`, which Feishu no longer takes.
    pub(super) async fn renew(&self, bot: &Bot, refused: &Token) -> Result<Arc<Token>, TokenError> {
        let app = self.app(&bot.credentials.app_id);
        let mut flight = app.flight.clone().lock_owned().await;
        if let Some(copy) = &*app.copy.load()
            && *copy.token != *refused
        {
            // Another send met the same refusal first.
            return Ok(copy.token.clone());
        }
        app.copy.store(None);
        let login = Login::of(bot);
        let renewed = self.source.obtain(&login, &app, &mut flight, Some(refused)).await?;
        renewed.unproved.store(true, Ordering::Relaxed);
        Ok(renewed)
    }

    fn app(&self, app_id: &Arc<str>) -> Arc<App> {
        let mut apps = self.apps.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(app) = apps.get(app_id) {
            return app.clone();
        }
        // A new app is the occasion to forget those that are gone: configurations come and go while a worker runs for months.
        let now = Instant::now();
        apps.retain(|_, app| Arc::strong_count(app) > 1 || app.copy.load().as_ref().is_some_and(|copy| now < copy.end));
        apps.entry(app_id.clone()).or_default().clone()
    }

    fn look_in_background(&self, bot: &Bot, app: &Arc<App>) {
        let Ok(mut flight) = app.flight.clone().try_lock_owned() else {
            return; // Somebody is already looking.
        };
        let (source, login, app) = (self.source.clone(), Login::of(bot), app.clone());
        let mut looking = self.looking.lock().unwrap_or_else(PoisonError::into_inner);
        while looking.try_join_next().is_some() {}
        looking.spawn(async move { source.look(&login, &app, &mut flight).await });
    }
}

impl App {
    fn hold(&self, token: Arc<Token>, look: Instant, renew: Instant, end: Instant) {
        let look = look.min(end);
        self.copy.store(Some(Arc::new(Held {
            token,
            look,
            renew,
            end,
        })));
    }
}
