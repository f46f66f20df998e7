//! Which limits a send counts against.

use std::collections::HashSet;
use std::time::Duration;

use openclaw_common::bot::{Bot, BotSet};
use openclaw_common::cache::Level;
use openclaw_common::config::{Quota, Rate, SendKind};
use openclaw_common::envelope::{Envelope, Origin};

use crate::action::Action;
use crate::people::Person;

/// A bot without a limit: more than any platform carries.
const UNLIMITED: Rate = Rate::per_second(1_000_000);

/// So long after a window what was sent in it no longer matters to anybody: more than any guard.
const AFTERGLOW: Duration = Duration::from_secs(2);

/// Whom or what an action reaches; a limit of the chat (230020) pauses it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Receiver {
    /// The level's key.
    pub(crate) key: String,
    /// Its limit; `None`: it has none.
    pub(crate) rate: Option<Rate>,
    /// The bucket that was used before the chat's person was known, while that can still count.
    before: Option<String>,
}

impl Receiver {
    /// `chat` is where a reply becomes visible, `person` with whom that chat is, as far as anybody knows.
    pub(crate) fn of(quota: &Quota, action: &Action, chat: &str, person: Option<&Person>) -> Self {
        let only = |key, rate| Self {
            key,
            rate,
            before: None,
        };
        match action {
            Action::PatchCard { message_id, .. } => return only(format!("p:{message_id}"), quota.card),
            Action::Create { to, .. } if !to.starts_with("oc_") => return only(format!("u:{to}"), quota.user),
            _ => {}
        }
        let chat = chat_of(action, chat);
        let counted = matches!(action, Action::Create { .. } | Action::Reply { .. });
        let Some(person) = person else {
            return only(format!("c:{chat}"), quota.chat.filter(|_| counted));
        };
        let rate = quota.user.filter(|_| counted);
        let fresh = rate.is_some_and(|rate| person.since.elapsed() < rate.window + AFTERGLOW);
        Self {
            key: format!("u:{}", person.open_id),
            rate,
            before: fresh.then(|| format!("c:{chat}")),
        }
    }
}

/// What an event's sends are for. Somebody who asks through the send API can wait longer than somebody who wrote.
pub(crate) fn send_kind(envelope: &Envelope) -> SendKind {
    match envelope.origin {
        Origin::Send => SendKind::Notify,
        Origin::Push => SendKind::Reply,
    }
}

/// The chat that an action becomes visible in, if it names one; `chat` is the event's.
pub(crate) fn chat_of<'a>(action: &'a Action, chat: &'a str) -> &'a str {
    match action {
        Action::Create { to, .. } if to.starts_with("oc_") => to,
        _ => chat,
    }
}

/// Every limit that `action` of `bot` counts against; the widest first, as the quota wants them.
pub(crate) fn levels(bot: &Bot, action: &Action, receiver: &Receiver) -> Vec<Level> {
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
        // One key whatever the window: it is paused as a whole.
        add(api_key(bot, action), Some(*rate));
    }
    // Also without a limit of its own: the platform's pauses go by it.
    add(bot_key(bot), Some(quota.bot.unwrap_or(UNLIMITED)));
    if let Some(before) = &receiver.before {
        add(before.clone(), receiver.rate);
    }
    add(receiver.key.clone(), receiver.rate);
    levels
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

/// The level of everything a bot sends.
pub(crate) fn bot_key(bot: &Bot) -> String {
    format!("b:{}", bot.id)
}

/// The level that the platform's limit of one API pauses: it counts per app and per API, so neither other bots of the account
/// nor other calls of the bot are concerned.
pub(crate) fn paused_key(bot: &Bot, action: &Action) -> String {
    if bot.quota.app.is_empty() {
        bot_key(bot)
    } else {
        api_key(bot, action)
    }
}

fn api_key(bot: &Bot, action: &Action) -> String {
    format!("a:{}:{}", bot.credentials.app_id, action.kind())
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    fn create(to: &str) -> Action {
        Action::Create {
            to: to.to_owned(),
            msg_type: "text".to_owned(),
            content: String::new(),
        }
    }

    fn reply() -> Action {
        Action::Reply {
            message_id: "om_1".to_owned(),
            chat: "oc_1".to_owned(),
            msg_type: "text".to_owned(),
            content: String::new(),
            in_thread: false,
        }
    }

    #[test]
    fn a_person_and_the_chat_with_them_are_one_bucket_once_known() {
        let quota = Quota {
            user: Some(Rate::per_second(3)),
            ..Quota::default()
        };
        let long_ago = Instant::now().checked_sub(Duration::from_secs(60));
        let person = long_ago.map(|since| Person {
            open_id: "ou_1".into(),
            since,
        });
        assert!(person.is_some(), "the machine has run for a minute");
        let of = |action: &Action, person| Receiver::of(&quota, action, "oc_1", person);
        let to_person = of(&create("ou_1"), None);
        for action in [reply(), create("oc_1")] {
            assert_eq!(of(&action, person.as_ref()), to_person, "{action:?}");
            let unknown = of(&action, None);
            assert_eq!((unknown.key.as_str(), unknown.rate), ("c:oc_1", quota.chat));
        }
    }

    #[test]
    fn what_was_sent_before_the_person_was_known_still_counts() {
        let person = Person {
            open_id: "ou_1".into(),
            since: Instant::now(),
        };
        let receiver = Receiver::of(&Quota::default(), &reply(), "oc_1", Some(&person));
        assert_eq!(
            (receiver.key.as_str(), receiver.before.as_deref()),
            ("u:ou_1", Some("c:oc_1"))
        );
    }
}
