//! Tenant access tokens: bought once for all workers, renewed before they end, never logged.
//!
//! Two entries of the cache for each app:
//!
//! | key | value | lives |
//! |---|---|---|
//! | `openclaw:tok:<app>` | the token | until 5 minutes before its end |
//! | `openclaw:tok:<app>:fresh` | the same token, or `buying` | until 10 to 30 minutes before its end, by chance |
//!
//! Whoever finds the second missing, and so gets to set it, buys the next token; everybody else goes on with the old one,
//! which stays valid beside the new one. No wall clock is compared between machines: the cache ends the entries. A process
//! looks at them once a minute, in the background; with the cache down it buys for itself, which costs nothing either,
//! because Feishu gives every buyer the same token while that has 30 minutes left.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use http::header::{CONTENT_TYPE, HeaderValue};
use openclaw_common::bot::Bot;
use openclaw_common::cache::{Cache, CacheError};
use openclaw_common::secret::Secret;
use reqwest::{Method, Url};
use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::answer;
use super::code::Class;
use super::transport::{Http, JSON};

/// A token is not used during its last 5 minutes.
const MARGIN: Duration = Duration::from_secs(5 * 60);
/// When the next token is bought: so many seconds before the old one's end. From 30 minutes on Feishu gives a new one.
const RENEWAL: std::ops::Range<u64> = 10 * 60..30 * 60;
/// How often a process looks at the cache.
const LOOK: Duration = Duration::from_secs(60);
/// A copy from the cache had [`MARGIN`] left and more when it was read.
const BORROWED: Duration = Duration::from_secs(4 * 60);
/// How long a buyer keeps others from buying.
const BUYING: Duration = Duration::from_secs(10);
/// How long one waits for another buyer's token before buying, too.
const PATIENCE: Duration = Duration::from_millis(1500);
/// Between two looks for it.
const GLANCE: Duration = Duration::from_millis(50);
/// Wrong credentials are not tried again before this.
const REFUSED: Duration = Duration::from_secs(10);
/// An unreachable Feishu is not asked for a token again before this.
const UNREACHABLE: Duration = Duration::from_secs(1);

/// A tenant access token, ready for a header.
#[derive(PartialEq, Eq)]
pub(super) struct Token {
    value: Secret,
    bearer: HeaderValue,
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
        })
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
}

/// The tokens of all apps.
#[derive(Debug)]
pub(super) struct Tokens {
    shop: Arc<Shop>,
    apps: Mutex<HashMap<Arc<str>, Arc<App>>>,
    /// At most one task an app; all end when the client is dropped.
    looking: Mutex<JoinSet<()>>,
}

/// What is needed to buy for anybody.
struct Shop {
    http: Http,
    cache: Arc<dyn Cache>,
}

impl fmt::Debug for Shop {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Shop")
    }
}

/// One app in this process.
#[derive(Debug, Default)]
struct App {
    copy: ArcSwapOption<Held>,
    /// Whoever looks or buys holds it: one at a time. What it guards is the last failure.
    flight: Arc<tokio::sync::Mutex<Option<Failure>>>,
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

#[derive(Debug)]
struct Failure {
    error: TokenError,
    until: Instant,
}

/// Who asks.
#[derive(Clone)]
struct Login {
    base_url: String,
    app_id: Arc<str>,
    app_secret: Secret,
}

impl Login {
    fn of(bot: &Bot) -> Self {
        Self {
            base_url: bot.feishu.base_url.clone(),
            app_id: bot.credentials.app_id.clone(),
            app_secret: bot.credentials.app_secret.clone(),
        }
    }

    fn key(&self) -> String {
        format!("openclaw:tok:{}", self.app_id)
    }

    fn fresh_key(&self) -> String {
        format!("openclaw:tok:{}:fresh", self.app_id)
    }
}

impl Tokens {
    pub(super) fn new(http: Http, cache: Arc<dyn Cache>) -> Self {
        Self {
            shop: Arc::new(Shop { http, cache }),
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
                self.look_in_background(bot, &app, copy);
                return Ok(copy.token.clone());
            }
        }
        let mut flight = app.flight.clone().lock_owned().await;
        if let Some(copy) = &*app.copy.load()
            && Instant::now() < copy.end
        {
            return Ok(copy.token.clone());
        }
        self.shop.obtain(&Login::of(bot), &app, &mut flight, None).await
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
        self.shop
            .obtain(&Login::of(bot), &app, &mut flight, Some(refused))
            .await
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

    fn look_in_background(&self, bot: &Bot, app: &Arc<App>, copy: &Arc<Held>) {
        let Ok(mut flight) = app.flight.clone().try_lock_owned() else {
            return; // Somebody is already looking.
        };
        let (shop, login, app, copy) = (self.shop.clone(), Login::of(bot), app.clone(), copy.clone());
        let mut looking = self.looking.lock().unwrap_or_else(PoisonError::into_inner);
        while looking.try_join_next().is_some() {}
        looking.spawn(async move { shop.look(&login, &app, &copy, &mut flight).await });
    }
}

impl Shop {
    /// For a send that has no token: the others' if they have one, else a bought one. `refused`: any but this.
    async fn obtain(
        &self,
        login: &Login,
        app: &App,
        failure: &mut Option<Failure>,
        refused: Option<&Token>,
    ) -> Result<Arc<Token>, TokenError> {
        if let Some(failure) = failure.as_ref().filter(|failure| Instant::now() < failure.until) {
            return Err(failure.error.clone());
        }
        match self.borrow(login, app, refused).await {
            Some(token) => Ok(token),
            None => self.purchase(login, app, failure).await,
        }
    }

    /// The others' token; `None`: it is on us to buy, also when the cache is down.
    async fn borrow(&self, login: &Login, app: &App, refused: Option<&Token>) -> Option<Arc<Token>> {
        let (key, fresh_key) = (login.key(), login.fresh_key());
        if let Some(refused) = refused {
            // Only what was refused: another worker may have put a good one there meanwhile.
            self.cache.remove_if(&key, refused.bytes()).await.ok()?;
            self.cache.remove_if(&fresh_key, refused.bytes()).await.ok()?;
        }
        let patience = Instant::now() + PATIENCE;
        let mut another_buys = false;
        loop {
            if let Some(token) = self.shared(&key).await.ok()?.filter(|token| refused != Some(&**token)) {
                // Whether it is about to be replaced is for the next look to find out; this send can go.
                let now = Instant::now();
                app.hold(token.clone(), now, now, now + BORROWED);
                return Some(token);
            }
            if !another_buys && self.cache.set_if_absent(&fresh_key, b"buying", BUYING).await.ok()? {
                return None;
            }
            another_buys = true;
            if Instant::now() >= patience {
                return None; // The buyer died or failed.
            }
            tokio::time::sleep(GLANCE).await;
        }
    }

    async fn shared(&self, key: &str) -> Result<Option<Arc<Token>>, CacheError> {
        let value = self.cache.get(key).await?;
        Ok(value
            .and_then(|value| Token::new(std::str::from_utf8(&value).ok()?))
            .map(Arc::new))
    }

    /// Replaces `copy` in time, while it serves on.
    async fn look(&self, login: &Login, app: &App, copy: &Held, failure: &mut Option<Failure>) {
        let won = self.cache.set_if_absent(&login.fresh_key(), b"buying", BUYING).await;
        if won.unwrap_or_else(|_| Instant::now() >= copy.renew) {
            if self.purchase(login, app, failure).await.is_err() {
                // Logged where it failed. Not again at every send, though.
                app.hold(copy.token.clone(), Instant::now() + REFUSED, copy.renew, copy.end);
            }
            return;
        }
        match self.shared(&login.key()).await {
            Ok(Some(token)) => {
                let now = Instant::now();
                app.hold(token, next_look(now), now, now + BORROWED);
            }
            Ok(None) | Err(_) => app.hold(copy.token.clone(), next_look(Instant::now()), copy.renew, copy.end),
        }
    }

    /// Buys a token, and remembers when that failed.
    async fn purchase(
        &self,
        login: &Login,
        app: &App,
        failure: &mut Option<Failure>,
    ) -> Result<Arc<Token>, TokenError> {
        match self.buy(login, app).await {
            Ok(token) => {
                *failure = None;
                Ok(token)
            }
            Err((error, hold)) => {
                *failure = Some(Failure {
                    error: error.clone(),
                    until: Instant::now() + hold,
                });
                Err(error)
            }
        }
    }

    /// Buys a token and shows it to the others; or what went wrong, and how long not to try again.
    async fn buy(&self, login: &Login, app: &App) -> Result<Arc<Token>, (TokenError, Duration)> {
        let begun = Instant::now();
        let bought = self.ask(login).await.inspect_err(|(error, _)| {
            // Every message of the app waits for this; each says so, but this line is the one to act on.
            tracing::error!(app_id = %login.app_id, code = error.code, "no access token for app {}: {}", login.app_id, error.reason);
        })?;
        // From the request on: the answer's way is not part of the lifetime.
        let lifetime = bought.lifetime;
        let margin = MARGIN.min(lifetime / 2);
        let renewal = Duration::from_secs(rand::random_range(RENEWAL)).min(lifetime * 3 / 4);
        let (usable, fresh) = (lifetime - margin, lifetime - renewal);
        app.hold(bought.token.clone(), next_look(begun), begun + fresh, begun + usable);
        let shared = async {
            self.cache.set(&login.key(), bought.token.bytes(), usable).await?;
            self.cache.set(&login.fresh_key(), bought.token.bytes(), fresh).await
        };
        if let Err(error) = shared.await {
            tracing::debug!(app_id = %login.app_id, "the token of app {} is not shared: {error}", login.app_id);
        }
        Ok(bought.token)
    }

    async fn ask(&self, login: &Login) -> Result<Bought, (TokenError, Duration)> {
        let unreachable = |reason: String| (TokenError { code: None, reason }, UNREACHABLE);
        let url = format!("{}/open-apis/auth/v3/tenant_access_token/internal", login.base_url);
        let url = Url::parse(&url).map_err(|reason| {
            let reason = format!("`feishu.base_url` is not an address: {reason}");
            (TokenError { code: None, reason }, REFUSED)
        })?;
        let body = serde_json::to_vec(&Ask {
            app_id: &login.app_id,
            app_secret: login.app_secret.expose(),
        })
        .map_err(|reason| unreachable(reason.to_string()))?;
        let request = self
            .http
            .request(Method::POST, url)
            .header(CONTENT_TYPE, JSON)
            .body(body);
        let answer = self
            .http
            .call(request)
            .await
            .map_err(|(_, reason)| unreachable(reason))?;
        let reading = answer::read(&answer);
        let Some(class) = reading.class else {
            return serde_json::from_slice::<Sold>(&answer.body)
                .ok()
                .filter(|sold| sold.expire > 0)
                .and_then(|sold| {
                    Some(Bought {
                        token: Arc::new(Token::new(&sold.tenant_access_token)?),
                        lifetime: Duration::from_secs(sold.expire),
                    })
                })
                .ok_or_else(|| unreachable("Feishu's answer holds no usable token".to_owned()));
        };
        let hold = match class {
            Class::Limited(_) => answer::pause(&answer.headers)
                .unwrap_or(REFUSED)
                .clamp(UNREACHABLE, LOOK),
            Class::Retry | Class::Unclear if reading.code.is_none() => UNREACHABLE,
            _ => REFUSED,
        };
        let error = TokenError {
            code: reading.code,
            reason: reading.message,
        };
        Err((error, hold))
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

/// When to look at the cache again; early by chance, so that the processes of a fleet that started together do not look
/// together for ever.
fn next_look(now: Instant) -> Instant {
    now + LOOK.mul_f64(rand::random_range(0.8..1.0))
}

#[derive(Serialize)]
struct Ask<'a> {
    app_id: &'a str,
    app_secret: &'a str,
}

/// The endpoint's answer is flat: there is no `data`.
#[derive(Deserialize)]
struct Sold {
    tenant_access_token: String,
    /// Seconds.
    expire: u64,
}

struct Bought {
    token: Arc<Token>,
    lifetime: Duration,
}
