//! Which limits a send counts against.

use std::collections::HashSet;

use openclaw_common::bot::{Bot, BotSet};
use openclaw_common::cache::Level;
use openclaw_common::config::Rate;

use crate::action::Action;

/// A bot without a limit: more than any platform carries.
const UNLIMITED: Rate = Rate::per_second(1_000_000);

/// Every limit that `action` of `bot` counts against; the widest first, as the quota wants them. `chat` is where a reply becomes visible.
pub(crate) fn levels(bot: &Bot, action: &Action, chat: &str) -> Vec<Level> {
    let quota = &bot.quota;
    let mut levels = Vec::with_capacity(6);
    let mut add = |key: String, rate: Option<Rate>| {
        if let Some(rate) = rate {
            levels.push(Level {
                key,
                count: rate.count,
                window: rate.window,
            });
        }
    };
    if let Some(account) = &quota.account {
        add(format!("acc:{}", account.name), account.limit);
    }
    for rate in &quota.app {
        add(
            format!("{}:{}", app_key(bot, action), rate.window.as_secs()),
            Some(*rate),
        );
    }
    // Also without a limit of its own: the platform's pauses go by it.
    add(bot_key(bot), Some(quota.bot.unwrap_or(UNLIMITED)));
    let receiver = match action {
        Action::Create { to, .. } if to.starts_with("oc_") => quota.chat,
        Action::Create { .. } => quota.user,
        Action::Reply { .. } => quota.chat,
        Action::PatchCard { .. } => quota.card,
        Action::Edit { .. } | Action::UpdateCard { .. } | Action::React { .. } => None,
    };
    add(receiver_key(action, chat), receiver);
    levels
}

/// The level of whom or what `action` reaches; a limit of the chat (230020) pauses it.
pub(crate) fn receiver_key(action: &Action, chat: &str) -> String {
    match action {
        Action::Create { to, .. } if to.starts_with("oc_") => format!("c:{to}"),
        Action::Create { to, .. } => format!("u:{to}"),
        Action::PatchCard { message_id, .. } => format!("p:{message_id}"),
        Action::Reply { .. } | Action::Edit { .. } | Action::UpdateCard { .. } | Action::React { .. } => {
            format!("c:{chat}")
        }
    }
}

/// Levels of bots that more than one worker may send for: the pools' members, whose own events are another worker's.
pub(crate) fn shared(bots: &BotSet) -> HashSet<String> {
    let members = bots.pools().values().flat_map(|pool| pool.members(bots));
    members.map(|bot| bot_key(bot)).collect()
}

/// The levels of whoever sends for `bot`: its own, or those of a pool's members.
pub(crate) fn senders(bot: &Bot, bots: &BotSet) -> Vec<String> {
    match bots.pool(bot.id.as_str()) {
        Some(pool) => pool.members(bots).map(|bot| bot_key(bot)).collect(),
        None => vec![bot_key(bot)],
    }
}

/// The level that a limit of the whole app pauses.
pub(crate) fn bot_key(bot: &Bot) -> String {
    format!("b:{}", bot.id)
}

/// Feishu counts per app and per API.
fn app_key(bot: &Bot, action: &Action) -> String {
    format!("a:{}:{}", bot.credentials.app_id, action.kind())
}
