//! What the demo shows: three bots and what happens to them.

use std::sync::Arc;
use std::time::Duration;

use openclaw_common::bot::{Bot, BotId, Credentials};
use openclaw_common::config::{Config, Feishu, Handler, Pattern, Rule};
use openclaw_common::secret::Secret;
use openclaw_sim::Sim;
use openclaw_sim::event::{Event, Recipient, Workload};
use openclaw_sim::faults::{Fault, Scope};

/// The chance that an accepted event is pushed once more.
pub(super) const DUPLICATES: f64 = 0.1;
const CHATS: u32 = 4;
/// Calls of the support bot that are carried out and then answered with HTTP 500.
const BROKEN_CALLS: u64 = 3;

/// The cast.
pub(super) struct Scene {
    pub(super) bots: Vec<Arc<Bot>>,
    rates: Vec<f64>,
}

impl Scene {
    pub(super) fn new(feishu: &str) -> Self {
        let rules = vec![Rule {
            pattern: Pattern::Prefix("#".to_owned()),
            reply: "noted: {text}".to_owned(),
        }];
        let cast = [
            ("sales", Handler::Echo, 2.0),
            ("support", Handler::Rules(rules), 3.0),
            ("alerts", Handler::Echo, 8.0),
        ];
        let (mut bots, mut rates) = (Vec::new(), Vec::new());
        for (name, handler, rate) in cast {
            let Ok(id) = BotId::new(name) else { continue };
            bots.push(Arc::new(bot(id, handler, feishu)));
            rates.push(rate);
        }
        Self { bots, rates }
    }

    pub(super) fn story(&self) -> String {
        format!(
            "  sales    echoes, 2 events/s\n  \
               support  answers by rules, 3 events/s; {BROKEN_CALLS} of its sends are carried out and then answered with HTTP 500\n  \
               alerts   8 events/s against a quota of 5/s: a backlog builds up and drains\n  \
               {:.0} % of all events are pushed twice\n",
            DUPLICATES * 100.0
        )
    }

    pub(super) fn chats(&self) -> usize {
        self.bots.len() * CHATS as usize
    }

    pub(super) fn credentials(&self) -> Vec<Credentials> {
        self.bots.iter().map(|bot| bot.credentials.clone()).collect()
    }

    /// For each bot its rate and the events of `pushing`.
    pub(super) fn pushes(&self, pushing: Duration) -> impl Iterator<Item = (f64, impl Iterator<Item = Event> + use<>)> {
        self.bots.iter().zip(&self.rates).map(move |(bot, rate)| {
            let recipient = Recipient {
                bot: bot.id.as_str().into(),
                credentials: bot.credentials.clone(),
            };
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "a few hundred events"
            )]
            let events = (pushing.as_secs_f64() * rate).ceil() as usize;
            (*rate, Workload::new(vec![Arc::new(recipient)], CHATS, 16).take(events))
        })
    }

    /// The transient fault: Feishu carries a send out and answers 500 all the same.
    pub(super) fn break_something(&self, sim: &Sim) {
        let Some(support) = self.bots.get(1) else { return };
        let scope = Scope {
            app: Some(support.credentials.app_id.clone()),
            times: Some(BROKEN_CALLS),
            ..Scope::default()
        };
        if let Err(error) = sim.fault(scope, Fault::commit_then_error(500)) {
            tracing::error!(%error, "the demo's fault is not in force");
        }
    }
}

fn bot(id: BotId, handler: Handler, feishu: &str) -> Bot {
    let defaults = Config::default();
    Bot {
        credentials: Credentials {
            app_id: format!("cli_demo_{id}").into(),
            app_secret: Secret::new(format!("secret of {id}")),
            verification_token: Secret::new(format!("token of {id}")),
            encrypt_key: Some(Secret::new(format!("encrypt key of {id}"))),
        },
        id,
        message: defaults.message,
        quota: defaults.quota,
        handler,
        security: defaults.security,
        feishu: Feishu {
            base_url: format!("http://{feishu}"),
            ..Feishu::default()
        },
    }
}
