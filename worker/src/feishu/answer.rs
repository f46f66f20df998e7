//! What an HTTP answer means.
//!
//! `code == 0` is the only success, whatever the status; any other code is looked up, whatever the status. The status decides
//! only about codes nobody knows and about answers without a code.

use std::time::Duration;

use http::HeaderMap;
use openclaw_common::outside::quoted;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::code::{self, Class};
use super::transport::Answer;
use super::{Outcome, Scope};

/// Longest pause that is believed; whoever is told to wait longer asks again after it.
const LONGEST_PAUSE: Duration = Duration::from_secs(3600);

/// What a send's answer calls for.
#[derive(Debug)]
pub(super) enum Verdict {
    /// It has ended.
    Ended(Outcome),
    /// The token is no longer valid: another one may help.
    TokenRefused {
        /// Feishu's code.
        code: i64,
        /// One sentence.
        message: String,
    },
}

/// The envelope of every answer. Fields that are of no use, or only in success, stay raw: their form must not matter.
#[derive(Deserialize)]
struct Wire<'a> {
    code: i64,
    #[serde(borrow)]
    msg: Option<&'a RawValue>,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Data {
    message_id: Option<String>,
    chat_id: Option<String>,
}

/// An answer's class, and what an operator should read about it.
pub(super) struct Reading {
    /// 0 is success; `None` when the answer is not Feishu's.
    pub(super) code: Option<i64>,
    /// `None` is success.
    pub(super) class: Option<Class>,
    /// One sentence; empty in success.
    pub(super) message: String,
    /// The visible message that a success names.
    message_id: Option<String>,
    /// Its chat.
    chat_id: Option<String>,
}

/// Reads an answer of any endpoint.
pub(super) fn read(answer: &Answer) -> Reading {
    let Ok(wire) = serde_json::from_slice::<Wire<'_>>(&answer.body) else {
        let (class, meaning) = code::without_code(answer.status);
        return Reading {
            code: None,
            class: Some(class),
            message: sentence(meaning, answer, None),
            message_id: None,
            chat_id: None,
        };
    };
    if wire.code == 0 {
        let data = wire.data.and_then(|raw| serde_json::from_str::<Data>(raw.get()).ok());
        let (message_id, chat_id) = data.map_or((None, None), |data| (data.message_id, data.chat_id));
        return Reading {
            code: Some(0),
            class: None,
            message: String::new(),
            message_id,
            chat_id,
        };
    }
    let text = wire
        .msg
        .and_then(|raw| serde_json::from_str::<String>(raw.get()).ok())
        .unwrap_or_default();
    let (class, meaning) = code::look_up(wire.code, &text).map_or_else(
        || (code::by_status(answer.status), "Feishu answered with an unknown code"),
        |row| (row.class, row.meaning),
    );
    Reading {
        code: Some(wire.code),
        class: Some(class),
        message: sentence(meaning, answer, Some((wire.code, &text))),
        message_id: None,
        chat_id: None,
    }
}

/// Judges the answer to a send.
pub(super) fn judge(answer: &Answer) -> Verdict {
    let Reading {
        code,
        class,
        message,
        message_id,
        chat_id,
    } = read(answer);
    let permanent = |message, needs_operator| Outcome::Permanent {
        code,
        message,
        needs_operator,
    };
    let transient = |message, ambiguous| Outcome::Transient {
        ambiguous,
        code,
        message,
    };
    Verdict::Ended(match class {
        None => Outcome::Sent { message_id, chat_id },
        Some(Class::Limited(scope)) => Outcome::Limited {
            scope,
            // The header is documented for the gateway's limit only; on a chat's it might describe another window.
            pause: pause(&answer.headers).filter(|_| scope == Scope::Api),
            code: code.unwrap_or(429),
        },
        Some(Class::Token) => {
            let code = code.unwrap_or_default();
            return Verdict::TokenRefused { code, message };
        }
        Some(Class::Retry) => transient(message, false),
        Some(Class::Unclear) => transient(message, true),
        Some(Class::Permanent) => permanent(message, false),
        Some(Class::Operator) => permanent(message, true),
    })
}

/// How long a limited answer says to wait: whole or fractional seconds. 0, nonsense and dates count as not said.
pub(super) fn pause(headers: &HeaderMap) -> Option<Duration> {
    ["x-ogw-ratelimit-reset", "retry-after"].into_iter().find_map(|name| {
        let seconds: f64 = headers.get(name)?.to_str().ok()?.trim().parse().ok()?;
        // An infinite or overlong wait is no duration, but is still a wait.
        (seconds > 0.0)
            .then(|| Duration::try_from_secs_f64(seconds).map_or(LONGEST_PAUSE, |wait| wait.min(LONGEST_PAUSE)))
    })
}

/// `meaning (code 230002, HTTP 400, log 2026…): Feishu's own text`. The log id is what Feishu's support asks for.
fn sentence(meaning: &str, answer: &Answer, code: Option<(i64, &str)>) -> String {
    use std::fmt::Write as _;
    let mut sentence = format!("{meaning} (");
    // Writing to a string never fails.
    let mut add = |part: std::fmt::Arguments<'_>| sentence.write_fmt(part).unwrap_or_default();
    if let Some((code, _)) = code {
        add(format_args!("code {code}, "));
    }
    add(format_args!("HTTP {}", answer.status));
    let log = ["x-tt-logid", "x-request-id"]
        .into_iter()
        .find_map(|name| answer.headers.get(name)?.to_str().ok());
    if let Some(log) = log {
        add(format_args!(", log {}", quoted(log)));
    }
    add(format_args!(")"));
    if let Some((_, text)) = code.filter(|(_, text)| !text.is_empty()) {
        add(format_args!(": {}", quoted(text)));
    }
    if let Some(fault) = &answer.fault {
        add(format_args!(": {fault}"));
    }
    sentence
}
