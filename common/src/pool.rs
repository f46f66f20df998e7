//! Bots that share a send address (`pools`).
//!
//! A pool is served like a bot: a queue of its own, lanes of its own, one worker at a time. What stands for it where a bot is
//! expected is its *stand-in*: a bot without an app, which never sends anything itself. A send goes out through a member.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::bot::{Bot, BotId, BotSet, Credentials};
use crate::config::{Feishu, Handler, Message, Quota, Rate, Security};
use crate::secret::Secret;

/// What a stand-in has instead of an app begins with this; no app of Feishu's does.
const APP: &str = "pool:";

/// One pool.
#[derive(Clone, Debug, PartialEq)]
pub struct Pool {
    /// Its name is the pool's, its app `pool:<name>`, its quota what its members have together.
    pub stand_in: Arc<Bot>,
    /// As configured; some may be gone.
    pub members: Vec<BotId>,
}

impl Pool {
    fn new(name: BotId, members: &[BotId], message: &Message, bots: &BotSet) -> Self {
        let together = members.iter().filter_map(|id| bots.get(id.as_str()));
        let per_minute = together.map(|bot| bot.quota.bot.map(per_minute)).sum::<Option<u32>>();
        let stand_in = Bot {
            credentials: Credentials {
                app_id: format!("{APP}{name}").into(),
                app_secret: Secret::new(""),
                verification_token: Secret::new(""),
                encrypt_key: None,
            },
            message: message.clone(),
            quota: Quota {
                bot: per_minute.map(|count| Rate::per_minute(count.max(1))),
                ..Quota::default()
            },
            handler: Handler::default(),
            security: Security::default(),
            feishu: Feishu::default(),
            id: name,
        };
        Self {
            stand_in: Arc::new(stand_in),
            members: members.to_vec(),
        }
    }

    /// Whether this is a pool's stand-in and no bot: it has no app, and whatever it is to send goes out through a member.
    #[must_use]
    pub fn is_face(bot: &Bot) -> bool {
        bot.credentials.app_id.starts_with(APP)
    }

    /// The members that are configured now.
    pub fn members<'a>(&'a self, bots: &'a BotSet) -> impl Iterator<Item = &'a Arc<Bot>> {
        self.members.iter().filter_map(|id| bots.get(id.as_str()))
    }
}

fn per_minute(rate: Rate) -> u32 {
    let count = f64::from(rate.count) * 60.0 / rate.window.as_secs_f64();
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a rate is positive; what is larger than u32 is as good as u32::MAX"
    )]
    let count = count as u32;
    count.min(u32::MAX / 1024)
}

/// Every pool of `configured`. A name that is none was reported when the configuration was read.
pub(crate) fn pools(
    configured: &BTreeMap<String, Vec<BotId>>,
    message: &Message,
    bots: &BotSet,
) -> BTreeMap<BotId, Pool> {
    let named = configured
        .iter()
        .filter_map(|(name, members)| Some((BotId::new(name).ok()?, members)));
    named
        .map(|(name, members)| (name.clone(), Pool::new(name, members, message, bots)))
        .collect()
}
