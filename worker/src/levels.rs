//! Which limits a send counts against.

use openclaw_common::bot::Bot;
use openclaw_common::cache::Level;
use openclaw_common::config::Rate;

use crate::action::Action;

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
    add(bot_key(bot), quota.bot);
    match action {
        Action::Create { to, .. } if to.starts_with("oc_") => add(chat_key(to), quota.chat),
        Action::Create { to, .. } => add(format!("u:{to}"), quota.user),
        Action::Reply { .. } => add(chat_key(chat), quota.chat),
        Action::PatchCard { message_id, .. } => add(format!("p:{message_id}"), quota.card),
        Action::Edit { .. } | Action::UpdateCard { .. } | Action::React { .. } => {}
    }
    levels
}

/// The level that a per-chat limit of the platform (230020) pauses.
pub(crate) fn chat_key(chat: &str) -> String {
    format!("c:{chat}")
}

/// The level that a limit of the whole app pauses.
pub(crate) fn bot_key(bot: &Bot) -> String {
    format!("b:{}", bot.id)
}

/// Feishu counts per app and per API.
fn app_key(bot: &Bot, action: &Action) -> String {
    format!("a:{}:{}", bot.credentials.app_id, action.kind())
}
