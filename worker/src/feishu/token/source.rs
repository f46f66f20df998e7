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
use super::{App, Token, TokenError};

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
/// Wrong credentials are not tried again before this, and nothing else is tried more seldom unless Feishu says so.
const REFUSED: Duration = Duration::from_secs(10);
/// A Feishu that failed or cannot be reached is not asked for a token again before this; twice as long after each failure.
const FAILED: Duration = Duration::from_secs(1);
/// So many failures in a row do not pass by themselves: about half a minute of them.
const LASTING: u32 = 5;

/// What is needed to buy for anybody.
pub(super) struct TokenSource {
    http: Http,
    cache: Arc<dyn Cache>,
}

impl fmt::Debug for TokenSource {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("TokenSource")
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

    fn limited_key(&self) -> String {
        format!("openclaw:tok:{}:limited", self.app_id)
    }
}

/// Why nothing was bought.
struct Refusal {
    code: Option<i64>,
    reason: String,
    /// What Feishu's code asks for; `None`: it did not answer.
    class: Option<Class>,
    /// When Feishu wants to be asked again, if it says so.
    pause: Option<Duration>,
}

impl Refusal {
    fn here(reason: String, class: Option<Class>) -> Self {
        Self {
            code: None,
            reason,
            class,
            pause: None,
        }
    }

    /// How long nobody asks again, after so many failures in a row.
    fn hold(&self, failures: u32) -> Duration {
        match self.class {
            Some(Class::Limited(_)) => self.pause.unwrap_or(REFUSED).max(FAILED),
            None | Some(Class::Retry | Class::Unclear) => (FAILED * 2_u32.pow(failures.clamp(1, 5) - 1)).min(REFUSED),
            Some(Class::Token | Class::Permanent | Class::Operator) => REFUSED,
        }
    }

    /// Whether it is for somebody to act on: everything else passes by itself, unless it lasts.
    fn is_lasting(&self, failures: u32) -> bool {
        matches!(self.class, Some(Class::Token | Class::Permanent | Class::Operator)) || failures >= LASTING
    }
}

impl TokenSource {
    pub(super) fn new(http: Http, cache: Arc<dyn Cache>) -> Self {
        Self { http, cache }
    }

    /// For a send that has no token: the others' if they have one, else a bought one. `refused`: any but this.
    pub(super) async fn obtain(
        &self,
        login: &Login,
        app: &App,
        failure: &mut Option<TokenError>,
        refused: Option<&Token>,
    ) -> Result<Arc<Token>, TokenError> {
        if let Some(failure) = failure.as_ref().filter(|failure| Instant::now() < failure.until) {
            return Err(failure.clone());
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
    pub(super) async fn look(&self, login: &Login, app: &App, failure: &mut Option<TokenError>) {
        let Some(copy) = app.copy.load_full().filter(|copy| Instant::now() >= copy.look) else {
            return; // Somebody was faster.
        };
        let won = self.cache.set_if_absent(&login.fresh_key(), BUYER, BUYING).await;
        if won.unwrap_or_else(|_| Instant::now() >= copy.renew) {
            if self.purchase(login, app, failure).await.is_err() {
                // Logged where it failed. Not again at every send, though.
                let again = failure.as_ref().map(|failure| failure.until);
                let again = again.into_iter().fold(Instant::now() + REFUSED, Instant::max);
                app.hold(copy.token.clone(), again, copy.renew, copy.end);
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
        failure: &mut Option<TokenError>,
    ) -> Result<Arc<Token>, TokenError> {
        let bought = match self.limited(login).await {
            Some(error) => Err(error),
            None => match self.buy(login, app).await {
                Ok(token) => Ok(token),
                Err(refusal) => Err(self.failed(login, refusal, failure.as_ref()).await),
            },
        };
        if bought.is_err() {
            // So that nobody waits for us. With the cache down the entry ends by itself.
            self.cache.remove_if(&login.fresh_key(), BUYER).await.ok();
        }
        *failure = bought.as_ref().err().cloned();
        bought
    }

    /// Another process was told that nobody is to ask now.
    async fn limited(&self, login: &Login) -> Option<TokenError> {
        let code = self.cache.get(&login.limited_key()).await.ok()??;
        let code = std::str::from_utf8(&code).ok().and_then(|code| code.parse().ok());
        Some(TokenError {
            code,
            reason: "Feishu limits the purchase of tokens, as another process was told".to_owned(),
            until: Instant::now() + FAILED,
            failures: 0,
        })
    }

    /// Says what went wrong, and how long not to try again.
    async fn failed(&self, login: &Login, refusal: Refusal, before: Option<&TokenError>) -> TokenError {
        let failures = before.map_or(0, |before| before.failures) + 1;
        let hold = refusal.hold(failures);
        let Refusal { code, reason, .. } = &refusal;
        // Every message of the app waits for this; each says so, but this line is the one to act on.
        let app = &login.app_id;
        if refusal.is_lasting(failures) {
            tracing::error!(app_id = %app, code, failures, "no access token for app {app}: {reason}");
        } else {
            tracing::warn!(app_id = %app, code, failures, ?hold, "no access token for app {app} yet: {reason}");
        }
        if let (Some(Class::Limited(_)), Some(code)) = (refusal.class, code) {
            let told = code.to_string();
            if let Err(error) = self.cache.set(&login.limited_key(), told.as_bytes(), hold).await {
                tracing::debug!(app_id = %app, "that the purchase of tokens is limited is not shared: {error}");
            }
        }
        TokenError {
            code: refusal.code,
            reason: refusal.reason,
            until: Instant::now() + hold,
            failures,
        }
    }

    /// Buys a token and shows it to the others.
    async fn buy(&self, login: &Login, app: &App) -> Result<Arc<Token>, Refusal> {
        let begun = Instant::now();
        let bought = self.ask(login).await?;
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

    async fn ask(&self, login: &Login) -> Result<Bought, Refusal> {
        let url = format!("{}/open-apis/auth/v3/tenant_access_token/internal", login.base_url);
        let url = Url::parse(&url).map_err(|reason| {
            let reason = format!("`feishu.base_url` is not an address: {reason}");
            Refusal::here(reason, Some(Class::Operator))
        })?;
        let body = serde_json::to_vec(&Ask {
            app_id: &login.app_id,
            app_secret: login.app_secret.expose(),
        })
        .map_err(|reason| Refusal::here(reason.to_string(), None))?;
        let request = self
            .http
            .request(Method::POST, url)
            .header(CONTENT_TYPE, JSON)
            .body(body);
        let answer = self
            .http
            .call(request)
            .await
            .map_err(|(_, reason)| Refusal::here(format!("Feishu did not answer: {reason}"), None))?;
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
                .ok_or_else(|| Refusal::here("Feishu's answer holds no usable token".to_owned(), None));
        };
        Err(Refusal {
            code: reading.code,
            reason: reading.message,
            class: Some(class),
            pause: answer::pause(&answer.headers),
        })
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
