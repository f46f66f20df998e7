//! Which bot a path means, and whether the path is served.
//!
//! | request | bot |
//! |---|---|
//! | `{safe path}?bot_id={bot}` | the one named, and the only one when the `-c` folder is a bot's own |
//! | `{safe path}/{bot}` | the last segment |
//! | `{safe path}` | the only one, else the last segment (`safe_paths: [/hooks/bot1]`) |

use std::sync::Arc;

use axum::http::Uri;
use openclaw_common::bot::{Bot, BotSet};
use openclaw_common::config::Security;

use crate::reply::{Code, Refusal};

/// The bot that a request is for, if there is one. Its own `security` then says what is allowed.
pub(crate) fn bot<'bots>(bots: &'bots BotSet, uri: &Uri) -> Option<&'bots Arc<Bot>> {
    let named = uri.query().and_then(bot_id).and_then(|id| bots.get(id));
    named
        .or_else(|| bots.get(segments(uri.path()).next_back()?))
        .or_else(|| bots.single())
}

/// Checks the path against `security.safe_paths`, and that what follows the safe path is nothing but a bot's name.
pub(crate) fn check(bots: &BotSet, security: &Security, uri: &Uri) -> Result<(), Refusal> {
    let rests = security.safe_paths.iter().filter_map(|safe| rest(uri.path(), safe));
    // Of several safe paths that fit, the one that leaves least.
    let Some(rest) = rests.min_by_key(|rest| rest.len()) else {
        return Err(Refusal::new(
            Code::ForbiddenPath,
            "this path is not in `security.safe_paths`",
        ));
    };
    match rest.last() {
        Some(name) if bots.get(name).is_none() => Err(no_such_bot()),
        _ => Ok(()),
    }
}

/// Nobody is configured under this name.
pub(crate) fn no_such_bot() -> Refusal {
    Refusal::new(
        Code::NoSuchBot,
        "no bot is configured under this name: push to /webhook/{bot} or /webhook?bot_id={bot}",
    )
}

/// The segments of `path` behind those of `safe`; `None` when it does not lie under it.
fn rest<'path>(path: &'path str, safe: &str) -> Option<Vec<&'path str>> {
    let mut path = segments(path);
    for expected in segments(safe) {
        if path.next() != Some(expected) {
            return None;
        }
    }
    Some(path.collect())
}

/// One slash at the end makes no difference; empty segments inside do.
fn segments(path: &str) -> impl DoubleEndedIterator<Item = &str> {
    let path = path.strip_prefix('/').unwrap_or(path);
    let path = path.strip_suffix('/').unwrap_or(path);
    path.split('/').filter(move |_| !path.is_empty())
}

/// Bot ids have no characters that are written in percent form.
fn bot_id(query: &str) -> Option<&str> {
    query.split('&').find_map(|pair| pair.strip_prefix("bot_id="))
}

#[cfg(test)]
mod tests;
