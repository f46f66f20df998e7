//! Which members of a pool are not in a chat, as far as is known. Only a hint, kept in the Cache: it orders the tries, and
//! what it says nobody can do is tried all the same before it is given up.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use openclaw_common::bot::Bot;
use openclaw_common::envelope::Envelope;

use crate::engine::Engine;

/// How long a refusal is believed: whoever puts a bot into a chat wants it to speak there soon.
const REFUSED: Duration = Duration::from_secs(10 * 60);
/// How long an event is: the event of its return ends it.
const REMOVED: Duration = Duration::from_secs(24 * 3600);
const AWAY: &[u8] = b"away";

fn key(bot: &Bot, chat: &str) -> String {
    format!("away:{}:{chat}", bot.credentials.app_id)
}

/// Those of `members` that may reach `chat`; all of them when that is nobody.
pub(crate) async fn likely(engine: &Engine, members: Vec<Arc<Bot>>, chat: &str) -> Vec<Arc<Bot>> {
    let asked = members.iter().map(|bot| {
        let key = key(bot, chat);
        async move { engine.cache.get(&key).await }
    });
    let known = join_all(asked).await;
    let there = members
        .iter()
        .zip(&known)
        .filter(|(_, known)| !matches!(known, Ok(Some(_))));
    let there: Vec<Arc<Bot>> = there.map(|(bot, _)| bot.clone()).collect();
    if there.is_empty() { members } else { there }
}

/// Feishu has refused a send of `bot` there.
pub(crate) async fn away(engine: &Engine, bot: &Bot, chat: &str) {
    note(engine, bot, chat, REFUSED).await;
}

/// An event of a bot may say that it has come into a chat, or has left it.
pub(crate) async fn heed(engine: &Engine, bot: &Bot, envelope: &Envelope) {
    let comes = match &*envelope.event_type {
        "im.chat.member.bot.added_v1" => true,
        "im.chat.member.bot.deleted_v1" | "im.chat.disbanded_v1" => false,
        _ => return,
    };
    let bots = engine.bots.now();
    if !bots.pools().values().any(|pool| pool.members.contains(&bot.id)) {
        return;
    }
    if !comes {
        note(engine, bot, &envelope.chat, REMOVED).await;
    } else if let Err(error) = engine.cache.remove_if(&key(bot, &envelope.chat), AWAY).await {
        tracing::debug!(%error, "that a bot has come into a chat is not known to its pools yet");
    }
}

async fn note(engine: &Engine, bot: &Bot, chat: &str, time: Duration) {
    if let Err(error) = engine.cache.set(&key(bot, chat), AWAY, time).await {
        tracing::debug!(%error, "that a bot is not in a chat is not remembered");
    }
}
