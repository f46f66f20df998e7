//! Fairness for a send that needs two full levels at once.
//!
//! A bot's lanes take its slots as soon as these can be reserved, and so do all bots with the slots of a chat they share. A
//! send that counts against both would be told "later" by one of them for ever: whenever the chat has a slot the bot has
//! none, and the other way round. So once it has waited for a while, its bot keeps room for it at the time when the chat is
//! free, and it asks at the first moment that this time can be reserved. A bot is served by one process, so keeping room is
//! that process's own business (a pool's members have a second one, where it only helps less); nothing is reserved further
//! ahead than anybody else may.

use std::time::Duration;

use tokio::time::Instant;

use super::{BOT, Level, Quota};

/// Whoever is only unlucky has a slot by then: two windows.
const PATIENT_AFTER: Duration = Duration::from_secs(2);
/// After the first moment at which a slot can be reserved: clocks and the way to the cache.
const EAGER: Duration = Duration::from_millis(10);

/// One send's wait, over all its questions.
pub(super) struct Patience<'a> {
    quota: &'a Quota,
    bot: Option<&'a Level>,
    came: Instant,
    /// A level that others share has stood in the way.
    shared: bool,
    kept: Option<(Instant, u64)>,
}

impl<'a> Patience<'a> {
    pub(super) fn new(quota: &'a Quota, levels: &'a [Level], came: Instant) -> Self {
        Self {
            quota,
            bot: levels.iter().find(|level| level.key.starts_with(BOT)),
            came,
            shared: false,
            kept: None,
        }
    }

    /// The room that was kept is for this question.
    pub(super) fn ask(&mut self) {
        if let (Some(bot), Some((at, id))) = (self.bot, self.kept.take()) {
            self.quota.fallback().give_back(std::slice::from_ref(bot), at, id);
        }
    }

    /// The answer was "later", at `level`, and to ask again at `again`: half a horizon before a slot may be free. When to ask.
    pub(super) fn told_later(&mut self, level: &Level, again: Instant) -> Instant {
        self.shared |= !level.key.starts_with(BOT);
        let now = Instant::now();
        let Some(bot) = self.bot.filter(|_| self.shared && now >= self.came + PATIENT_AFTER) else {
            return again;
        };
        let half = self.quota.horizon / 2;
        let free = again + half;
        let id = self.quota.fallback().keep(now, std::slice::from_ref(bot), free);
        self.kept = Some((free, id));
        (again + EAGER)
            .checked_sub(half)
            .map_or(again, |eager| eager.max(now + EAGER).min(again))
    }
}

impl Drop for Patience<'_> {
    fn drop(&mut self) {
        self.ask();
    }
}
