//! Where tokens come from: the other workers, else Feishu.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use http::header::CONTENT_TYPE;
use openclaw_common::bot::Bot;
use openclaw_common::cache::{Cache, CacheError};
use openclaw_common::secret::Secret;
use reqwest::{Method, Url};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::super::answer;
use super::super::code::Class;
use super::super::transport::{Http, JSON};
use super::{App, Failure, Token, TokenError};

/// A token is not used during its last 5 minutes.
const MARGIN: Duration = Duration::from_secs(5 * 60);
/// When the next token is bought: so many seconds before the old one's end. From 30 minutes on Feishu gives a new one.
const RENEWAL: std::ops::Range<u64> = 10 * 60..30 * 60;
/// How often a process looks at the cache.
const LOOK: Duration = Duration::from_secs(60);
/// A copy from the cache had [`MARGIN`] left and more when it was read.
const BORROWED: Duration = Duration::from_secs(4 * 60);
/// Feishu's longest lifetime; what is said beyond it is not believed.
const LONGEST: Duration = Duration::from_secs(2 * 3600);
/// What stands in the second entry while somebody buys.
const BUYER: &[u8] = b"buying";
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

/// What is needed to buy for anybody.
pub(super) struct Shop {
    http: Http,
    cache: Arc<dyn Cache>,
}

impl fmt::Debug for Shop {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Shop")
    }
}

/// Who asks.
pub(super) struct Login {
    base_url: String,
    app_id: Arc<str>,
    app_secret: Secret,
}

impl Login {
    pub(super) fn of(bot: &Bot) -> Self {
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

impl Shop {
    pub(super) fn new(http: Http, cache: Arc<dyn Cache>) -> Self {
        Self { http, cache }
    }

    /// For a send that has no token: the others' if they have one, else a bought one. `refused`: any but this.
    pub(super) async fn obtain(
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
            if !another_buys && self.cache.set_if_absent(&fresh_key, BUYER, BUYING).await.ok()? {
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

    /// Replaces this process's copy in time, while it serves on.
    pub(super) async fn look(&self, login: &Login, app: &App, failure: &mut Option<Failure>) {
        let Some(copy) = app.copy.load_full().filter(|copy| Instant::now() >= copy.look) else {
            return; // Somebody was faster.
        };
        let won = self.cache.set_if_absent(&login.fresh_key(), BUYER, BUYING).await;
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
                // So that nobody waits for us. With the cache down the entry ends by itself.
                self.cache.remove_if(&login.fresh_key(), BUYER).await.ok();
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
                        lifetime: Duration::from_secs(sold.expire).min(LONGEST),
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
