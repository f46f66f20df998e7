//! What `openclaw check` asks Feishu about each bot: a token, and the bot's name.

use std::sync::Arc;
use std::time::Duration;

use http::header::{AUTHORIZATION, DATE};
use openclaw_common::bot::Bot;
use openclaw_common::cache::Cache;
use openclaw_common::checkup::{Asked, Finding, http_date_ms};
use reqwest::{Method, Url};
use serde::Deserialize;
use tokio::time::timeout;

use super::answer;
use super::token::{Token, TokenError, Tokens};
use super::transport::{ClientError, Http};

/// For a token; longer than the client's own limit on a request.
const PATIENCE: Duration = Duration::from_secs(15);
/// An HTTP date tells seconds.
const GRAIN: Duration = Duration::from_secs(1);
/// The app has no bot: nothing can be sent as one.
const NO_BOT: [i64; 2] = [11205, 230_006];

/// Asks for any number of bots.
#[derive(Debug)]
pub struct Examiner {
    http: Http,
    tokens: Tokens,
}

impl Examiner {
    /// One for a whole check. `cache` is its own and empty: a token of the shared one would say nothing about the credentials
    /// in the files.
    ///
    /// # Errors
    /// When the process has no TLS provider or the machine no certificates.
    pub fn new(cache: Arc<dyn Cache>) -> Result<Self, ClientError> {
        let http = Http::new()?;
        Ok(Self {
            tokens: Tokens::new(http.clone(), cache),
            http,
        })
    }

    /// Buys a token for the bot and asks for its name.
    pub async fn examine(&self, bot: &Bot) -> Vec<Finding> {
        let what = format!("bot {}", bot.id);
        let base_url = &bot.feishu.base_url;
        let token = match timeout(PATIENCE, self.tokens.current(bot)).await {
            Ok(Ok(token)) => token,
            Ok(Err(error)) => return vec![no_token(&what, base_url, &error)],
            Err(_) => {
                let detail = format!("no access token from {base_url} within {} s", PATIENCE.as_secs());
                return vec![Finding::unreachable(
                    what,
                    detail,
                    "look whether Feishu can be reached from here",
                )];
            }
        };
        self.ask_for_name(&what, base_url, &token).await
    }

    async fn ask_for_name(&self, what: &str, base_url: &str, token: &Token) -> Vec<Finding> {
        let bought = "a token was bought";
        let unnamed = |detail: String| {
            let to_do = "look whether the bot is added to the app and a version with it is released";
            Finding::warning(what, format!("{bought}, its name is not told: {detail}"), to_do)
        };
        let url = match Url::parse(&format!("{base_url}/open-apis/bot/v3/info")) {
            Ok(url) => url,
            Err(error) => return vec![unnamed(error.to_string())],
        };
        let request = self
            .http
            .request(Method::GET, url)
            .header(AUTHORIZATION, token.bearer());
        let asked = Asked::now();
        let answer = match self.http.call(request).await {
            Ok(answer) => answer,
            Err((_, reason)) => return vec![unnamed(reason)],
        };
        let date = answer
            .headers
            .get(DATE)
            .and_then(|date| http_date_ms(date.to_str().ok()?));
        let skew = date.and_then(|theirs| asked.answered(base_url, theirs, GRAIN));
        let reading = answer::read(&answer);
        let finding = match (reading.class.is_none(), serde_json::from_slice::<Info>(&answer.body)) {
            (true, Ok(info)) => info.bot.finding(what, bought),
            (true, Err(_)) => unnamed("Feishu's answer holds none".to_owned()),
            (false, _) if reading.code.is_some_and(|code| NO_BOT.contains(&code)) => Finding::wrong(
                what,
                format!("{bought}, but the app has no bot: {}", reading.message),
                "add the bot on the app's page, and release a version",
            ),
            (false, _) => unnamed(reading.message),
        };
        [Some(finding), skew].into_iter().flatten().collect()
    }
}

/// The endpoint's answer is flat: there is no `data`.
#[derive(Deserialize)]
struct Info {
    bot: About,
}

#[derive(Deserialize)]
struct About {
    #[serde(default)]
    app_name: String,
    /// 0 new, 1 stopped, 2 on, 3 and 4 waiting for the administrator or an upgrade, 5 and 6 expired.
    activate_status: Option<i64>,
}

impl About {
    fn finding(&self, what: &str, bought: &str) -> Finding {
        // Somebody else's text: one short line of it.
        let name: String = self.app_name.chars().filter(|it| !it.is_control()).take(60).collect();
        let detail = format!("{bought}; its name is `{name}`");
        let to_do = "let the tenant's administrator switch the app on";
        match self.activate_status {
            None | Some(2) => Finding::ok(what, detail),
            Some(status @ (1 | 5 | 6)) => {
                let state = if status == 1 { "stopped" } else { "expired" };
                Finding::wrong(what, format!("{detail}, and it is {state}"), to_do)
            }
            Some(_) => Finding::warning(what, format!("{detail}, and it is not switched on yet"), to_do),
        }
    }
}

fn no_token(what: &str, base_url: &str, error: &TokenError) -> Finding {
    let to_do = match error.code {
        Some(10003 | 10014 | 10015) => {
            "copy app_id and app_secret from the app's page \"Credentials\" into credentials.yaml, and look whether \
             `feishu.base_url` is that of the app's region (Feishu or Lark)"
        }
        Some(_) => "look the code up at Feishu's, and try again",
        None => "look whether `feishu.base_url` is right and can be reached from here (`HTTPS_PROXY` is minded)",
    };
    Finding::unreachable(what, format!("{error} (asked {base_url})"), to_do)
}
