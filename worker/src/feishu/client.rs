//! One action, one request, one outcome.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use openclaw_common::bot::Bot;
use openclaw_common::cache::Cache;
use openclaw_common::outside;
use reqwest::{Method, Url};
use serde::Serialize;
use tokio::time::Instant;

use super::Outcome;
use super::answer::{Verdict, judge};
use super::token::{Token, TokenError, Tokens};
use super::transport::{Broken, ClientError, Http, JSON};
use crate::action::{Action, receive_id_type};
use crate::meter::Meter;

/// What is wrong in a file is looked at again after this.
const MISTAKE: Duration = Duration::from_secs(10);

/// Sends actions for any number of bots, over one pool of connections. One a process.
#[derive(Debug)]
pub struct Client {
    http: Http,
    tokens: Tokens,
    meter: Arc<Meter>,
}

/// What goes over the wire for an action.
struct Request {
    method: Method,
    url: Url,
    body: Bytes,
}

impl Client {
    /// Makes a client whose tokens are shared through `cache`.
    ///
    /// # Errors
    /// When the process has no TLS provider or the machine no certificates.
    pub fn new(cache: Arc<dyn Cache>) -> Result<Self, ClientError> {
        Self::metered(cache, Arc::default())
    }

    /// The same; `meter` counts the calls.
    pub(crate) fn metered(cache: Arc<dyn Cache>, meter: Arc<Meter>) -> Result<Self, ClientError> {
        let http = Http::new()?;
        Ok(Self {
            tokens: Tokens::new(http.clone(), cache),
            http,
            meter,
        })
    }

    /// Makes sure that the bot has a token, so that [`Client::send`] goes out at once. To be called **before** a send slot is
    /// taken: buying a token can take longer than a slot is good for. Costs nothing while there is a token.
    ///
    /// # Errors
    /// How the send would end: [`Outcome::Unready`].
    pub async fn prepare(&self, bot: &Bot) -> Result<(), Outcome> {
        self.tokens.current(bot).await.map(|_| ()).map_err(no_token)
    }

    /// Sends one action. `uuid` makes repeats within an hour one message, where the action carries one
    /// ([`Action::carries_uuid`]): the same for every try, at most 50 characters.
    ///
    /// A token that Feishu no longer takes is renewed, after a revocation, that is, since tokens are renewed before their end.
    /// The outcome is then [`Outcome::Unready`] without a wait: the next try takes a send slot of its own.
    pub async fn send(&self, bot: &Bot, action: &Action, uuid: &str) -> Outcome {
        let request = match Request::new(&bot.feishu.base_url, action, uuid) {
            Ok(request) => request,
            Err(outcome) => return outcome,
        };
        let token = match self.tokens.current(bot).await {
            Ok(token) => token,
            Err(error) => return no_token(error),
        };
        self.meter.count(bot.tenant(), action.kind());
        let (code, message) = match self.call(&request, &token).await {
            Verdict::Ended(outcome) => {
                // Without an answer nobody has looked at the token.
                if matches!(outcome, Outcome::Sent { .. }) || outcome.code().is_some() {
                    token.was_taken();
                }
                return outcome;
            }
            Verdict::TokenRefused { code, message } => (code, message),
        };
        match self.tokens.renew(bot, &token).await {
            // Feishu sells the same token again while it has 30 minutes left, and one that is refused although it came in
            // place of a refused one tells that the next will be, too: that is a failed attempt, or it would never end.
            Ok(renewed) if renewed == token || token.is_in_vain() => Outcome::Transient {
                ambiguous: false,
                code: Some(code),
                message,
            },
            Ok(_) => Outcome::Unready {
                wait: Duration::ZERO,
                code: Some(code),
                message,
            },
            Err(error) => no_token(error),
        }
    }

    async fn call(&self, request: &Request, token: &Token) -> Verdict {
        let call = self
            .http
            .request(request.method.clone(), request.url.clone())
            .header(AUTHORIZATION, token.bearer())
            .header(CONTENT_TYPE, JSON)
            .body(request.body.clone());
        match self.http.call(call).await {
            Ok(answer) => judge(&answer),
            Err((broken, reason)) => Verdict::Ended(Outcome::Transient {
                ambiguous: broken == Broken::Within,
                code: None,
                message: format!("Feishu did not answer: {reason}"),
            }),
        }
    }
}

fn no_token(error: TokenError) -> Outcome {
    // Also when the credentials are wrong: one mistake in a file must not kill everything that waits. The messages go on once
    // it is corrected, unless they have grown too old by then.
    Outcome::Unready {
        wait: error.until.saturating_duration_since(Instant::now()),
        code: error.code,
        message: error.to_string(),
    }
}

/// The bodies of the endpoints. `content` is JSON text inside a JSON string: serialising does the escaping.
#[derive(Serialize)]
#[serde(untagged)]
enum Body<'a> {
    Create {
        receive_id: &'a str,
        msg_type: &'a str,
        content: &'a str,
        uuid: &'a str,
    },
    Reply {
        msg_type: &'a str,
        content: &'a str,
        reply_in_thread: bool,
        uuid: &'a str,
    },
    Edit {
        msg_type: &'a str,
        content: &'a str,
    },
    PatchCard {
        content: &'a str,
    },
    UpdateCard {
        token: &'a str,
        card: &'a serde_json::Value,
    },
    React {
        reaction_type: Emoji<'a>,
    },
}

#[derive(Serialize)]
struct Emoji<'a> {
    emoji_type: &'a str,
}

impl Request {
    fn new(base_url: &str, action: &Action, uuid: &str) -> Result<Self, Outcome> {
        const MESSAGES: &str = "/open-apis/im/v1/messages";
        // An id is one path segment. Feishu's ids are plain; anything else might lead to another endpoint.
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
        if let Some(id) = action.message_id().filter(|id| id.is_empty() || !id.bytes().all(plain)) {
            return Err(Outcome::Permanent {
                code: None,
                message: format!("`{}` is not a message id", outside::quoted(id)),
                needs_operator: false,
            });
        }
        let (method, path, body) = match action {
            Action::Create { to, msg_type, content } => (
                Method::POST,
                format!("{MESSAGES}?receive_id_type={}", receive_id_type(to)),
                Body::Create {
                    receive_id: to,
                    msg_type,
                    content,
                    uuid,
                },
            ),
            Action::Reply {
                message_id,
                msg_type,
                content,
                in_thread,
                ..
            } => (
                Method::POST,
                format!("{MESSAGES}/{message_id}/reply"),
                Body::Reply {
                    msg_type,
                    content,
                    reply_in_thread: *in_thread,
                    uuid,
                },
            ),
            Action::Edit {
                message_id,
                msg_type,
                content,
            } => (
                Method::PUT,
                format!("{MESSAGES}/{message_id}"),
                Body::Edit { msg_type, content },
            ),
            Action::PatchCard { message_id, content } => (
                Method::PATCH,
                format!("{MESSAGES}/{message_id}"),
                Body::PatchCard { content },
            ),
            Action::UpdateCard { token, card } => (
                Method::POST,
                "/open-apis/interactive/v1/card/update".to_owned(),
                Body::UpdateCard { token, card },
            ),
            Action::React { message_id, emoji } => (
                Method::POST,
                format!("{MESSAGES}/{message_id}/reactions"),
                Body::React {
                    reaction_type: Emoji { emoji_type: emoji },
                },
            ),
        };
        let url = Url::parse(&format!("{base_url}{path}")).map_err(|reason| Outcome::Unready {
            // Like wrong credentials: it waits for the file to be corrected.
            wait: MISTAKE,
            code: None,
            message: format!("`feishu.base_url` is not an address: {reason}"),
        })?;
        let body = serde_json::to_vec(&body).map_err(|reason| Outcome::Permanent {
            code: None,
            message: format!("the action cannot be encoded: {reason}"),
            needs_operator: false,
        })?;
        Ok(Self {
            method,
            url,
            body: body.into(),
        })
    }
}
