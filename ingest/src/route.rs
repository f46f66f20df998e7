//! Which bot a path means, and whether the path is served.
//!
//! | request | bot |
//! |---|---|
//! | `{safe path}?bot_id={bot}` | the one named, and the only one when the `-c` folder is a bot's own |
//! | `{safe path}/{bot}` | the last segment |
//! | `{safe path}` | the only one, else the last segment (`safe_paths: [/hooks/bot1]`) |
//!
//! One request means one bot, read one way: what another program on the way could read otherwise is refused.

use std::sync::Arc;

use axum::http::Uri;
use openclaw_common::bot::{Bot, BotSet};
use openclaw_common::config::Security;

use crate::reply::{Code, Refusal};

/// The bot that a request is for, if there is one. Its own `security` then says what is allowed.
pub(crate) fn bot<'bots>(bots: &'bots BotSet, uri: &Uri) -> Option<&'bots Arc<Bot>> {
    let named = uri.query().and_then(|query| bot_ids(query).next());
    let named = named.and_then(|id| bots.get(id));
    named
        .or_else(|| bots.get(segments(uri.path()).next_back()?))
        .or_else(|| bots.single())
}

/// Checks the path against `security.safe_paths`, and that what follows the safe path is nothing but a bot's name.
pub(crate) fn check(bots: &BotSet, security: &Security, uri: &Uri) -> Result<(), Refusal> {
    if !segments(uri.path()).all(is_plain) {
        return Err(Refusal::new(
            Code::ForbiddenPath,
            "the path has an empty segment, a dot segment or an escaped slash",
        ));
    }
    let rests = security.safe_paths.iter().filter_map(|safe| rest(uri.path(), safe));
    // Of several safe paths that fit, the one that leaves least.
    let Some(rest) = rests.min_by_key(|rest| rest.len()) else {
        return Err(Refusal::new(
            Code::ForbiddenPath,
            "this path is not in `security.safe_paths`",
        ));
    };
    let mut named = uri.query().into_iter().flat_map(bot_ids);
    match rest.last() {
        Some(name) if bots.get(name).is_none() => Err(no_such_bot()),
        // In a bot's own folder any `bot_id` is its.
        Some(name) if bots.single().is_none() && named.any(|id| id != *name) => Err(two_bots()),
        None if bots.single().is_none() => match named.next() {
            Some(first) if named.any(|id| id != first) => Err(two_bots()),
            _ => Ok(()),
        },
        _ => Ok(()),
    }
}

fn two_bots() -> Refusal {
    Refusal::new(Code::ForbiddenPath, "the path and `bot_id` name different bots")
}

/// Whether a segment means the same to everybody.
fn is_plain(segment: &str) -> bool {
    let text = segment.to_ascii_lowercase();
    let unescaped = text.replace("%2e", ".");
    let is_dots = matches!(unescaped.split(';').next(), Some("." | ".."));
    !text.is_empty() && !is_dots && !["%2f", "%5c", "\\"].iter().any(|slash| text.contains(slash))
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
fn bot_ids(query: &str) -> impl Iterator<Item = &str> {
    query.split('&').filter_map(|pair| pair.strip_prefix("bot_id="))
}

#[cfg(test)]
mod tests;
