//! The client against the simulator, which keeps the platform's rules and the record of what became visible.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::Duration;

use openclaw_common::bot::Bot;
use openclaw_sim::faults::{Fault, Scope as Calls};
use openclaw_sim::ledger::Message;
use openclaw_sim::{Limits, Options, Sim};
use openclaw_worker::action::Action;
use openclaw_worker::feishu::{Client, Outcome, Scope};
use serde_json::json;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::client::client;
use super::script::bot;

/// A platform of its own with a bot in the chat `oc_1`; it ends with the test.
struct Platform {
    sim: Sim,
    client: Client,
    bot: Bot,
    _server: JoinSet<()>,
}

impl Platform {
    async fn start(options: Options) -> Self {
        let sim = Sim::new(&options);
        sim.add_message("om_1", "oc_1");
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let bot = bot(&format!("http://{}", listener.local_addr().unwrap()));
        let mut server = JoinSet::new();
        let served = sim.clone();
        server.spawn(async move {
            openclaw_sim::run(served, listener, CancellationToken::new())
                .await
                .unwrap()
        });
        Self {
            sim,
            client: client(),
            bot,
            _server: server,
        }
    }

    async fn send(&self, action: &Action, uuid: &str) -> Outcome {
        self.client.send(&self.bot, action, uuid).await
    }

    /// Lets the next call go wrong, once.
    fn once(&self, fault: Fault) {
        let scope = Calls {
            times: Some(1),
            ..Calls::default()
        };
        self.sim.clear_faults(None);
        self.sim.fault(scope, fault).unwrap();
    }

    fn visible(&self) -> Vec<Message> {
        self.sim.ledger(|ledger| ledger.messages().cloned().collect())
    }
}

fn reply(text: &str) -> Action {
    Action::Reply {
        message_id: "om_1".to_owned(),
        chat: "oc_1".to_owned(),
        msg_type: "text".to_owned(),
        content: json!({ "text": text }).to_string(),
        in_thread: false,
    }
}

fn sent(outcome: Outcome) -> Option<String> {
    assert!(matches!(outcome, Outcome::Sent { .. }), "{outcome:?}");
    match outcome {
        Outcome::Sent { message_id, .. } => message_id,
        _ => None,
    }
}

#[tokio::test]
async fn every_action_takes_effect() {
    let platform = Platform::start(Options::default()).await;
    let text = |words: &str| json!({ "text": words }).to_string();
    let create = Action::Create {
        to: "oc_1".to_owned(),
        msg_type: "text".to_owned(),
        content: text("first"),
    };
    let ours = sent(platform.send(&create, "u-1").await).unwrap();
    sent(platform.send(&reply("second"), "u-2").await).unwrap();
    let edit = Action::Edit {
        message_id: ours.clone(),
        msg_type: "text".to_owned(),
        content: text("edited"),
    };
    sent(platform.send(&edit, "u-3").await);
    let react = Action::React {
        message_id: "om_1".to_owned(),
        emoji: "SMILE".to_owned(),
    };
    sent(platform.send(&react, "u-4").await);
    let card = json!({ "config": { "update_multi": true }, "elements": [] });
    let create = Action::Create {
        to: "oc_1".to_owned(),
        msg_type: "interactive".to_owned(),
        content: card.to_string(),
    };
    let ours = sent(platform.send(&create, "u-5").await).unwrap();
    let patch = Action::PatchCard {
        message_id: ours.clone(),
        content: card.to_string(),
    };
    sent(platform.send(&patch, "u-6").await);
    platform.sim.add_card_token("c-1", "cli_1", &ours);
    platform.sim.card_answered("c-1");
    let token = "c-1".to_owned();
    sent(platform.send(&Action::UpdateCard { token, card }, "u-7").await);

    let visible = platform.visible();
    let contents: Vec<_> = visible.iter().map(|message| &*message.content).collect();
    assert_eq!(contents[..2], [text("edited"), text("second")]);
    assert_eq!(visible[1].reply_to.as_deref(), Some("om_1"));
    assert_eq!((visible.len(), visible[2].edits), (3, 2));
    assert_eq!(
        platform
            .sim
            .ledger(|ledger| ledger.totals().codes.clone())
            .into_keys()
            .collect::<Vec<_>>(),
        [0]
    );
}

#[tokio::test]
async fn whatever_happened_to_the_answer_the_same_uuid_shows_one_message() {
    let platform = Platform::start(Options {
        limits: Limits::off(),
        ..Options::default()
    })
    .await;
    for (number, fault) in [
        Fault::commit_then_reset(),
        Fault::commit_then_error(500),
        Fault::commit_then_error(502),
        Fault::malformed(true),
        Fault::garbage(true),
        Fault::malformed(false),
        Fault::server_error(503),
        Fault::reset(),
    ]
    .into_iter()
    .enumerate()
    {
        let (uuid, name) = (format!("u-{number}"), fault.name.clone());
        platform.once(fault);
        let outcome = platform.send(&reply("hi"), &uuid).await;
        assert!(
            matches!(outcome, Outcome::Transient { ambiguous: true, .. }),
            "{name}: {outcome:?}"
        );
        let message_id = sent(platform.send(&reply("hi"), &uuid).await);
        assert_eq!(sent(platform.send(&reply("hi"), &uuid).await), message_id, "{name}");
        assert_eq!(platform.visible().len(), number + 1, "{name}");
    }
}

#[tokio::test]
async fn a_message_still_being_sent_is_tried_again_as_the_same_message() {
    let platform = Platform::start(Options::default()).await;
    platform.once(Fault::hold(Duration::from_millis(300)));
    let action = reply("hi");
    let (first, second) = tokio::join!(platform.send(&action, "u"), async {
        // Held before it counts as a call: nothing shows when it has arrived.
        tokio::time::sleep(Duration::from_millis(100)).await;
        platform.send(&action, "u").await
    });
    let code = Some(230_049);
    assert!(
        matches!(&second, Outcome::Transient { ambiguous: true, code: found, .. } if *found == code),
        "{second:?}"
    );
    assert_eq!(sent(platform.send(&reply("hi"), "u").await), sent(first));
    assert_eq!(platform.visible().len(), 1);
}

#[tokio::test]
async fn a_revoked_token_costs_one_refusal_and_no_message() {
    let platform = Platform::start(Options::default()).await;
    sent(platform.send(&reply("one"), "u-1").await);
    platform.sim.revoke_tokens(None);
    let refused = platform.send(&reply("two"), "u-2").await;
    assert!(
        matches!(
            refused,
            Outcome::Unready {
                wait: Duration::ZERO,
                ..
            }
        ),
        "{refused:?}"
    );
    sent(platform.send(&reply("two"), "u-2").await);
    let totals = platform.sim.ledger(|ledger| ledger.totals().clone());
    assert_eq!((totals.codes[&99_991_663], totals.visible), (1, 2));
}

#[tokio::test]
async fn limits_name_what_they_cover() {
    let platform = Platform::start(Options::default()).await;
    platform.once(Fault::rate_limited(Duration::from_secs(3)));
    let limited = Outcome::Limited {
        scope: Scope::Api,
        pause: Some(Duration::from_secs(3)),
        code: 99_991_400,
    };
    assert_eq!(platform.send(&reply("hi"), "u").await, limited);
    platform.sim.clear_faults(None);
    // The platform's own limit, in earnest: 5 a second to one chat.
    let outcomes = futures_util::future::join_all((0..6).map(|number| {
        let platform = &platform;
        async move { platform.send(&reply("hi"), &format!("u-{number}")).await }
    }))
    .await;
    let limited = Outcome::Limited {
        scope: Scope::Chat,
        pause: None,
        code: 230_020,
    };
    assert_eq!(
        outcomes.iter().filter(|outcome| **outcome == limited).count(),
        1,
        "{outcomes:?}"
    );
    assert_eq!(platform.visible().len(), 5);
}

#[tokio::test]
async fn refusals_of_the_platform_are_final() {
    let platform = Platform::start(Options::default()).await;
    let gone = Action::PatchCard {
        message_id: "om_nobody".to_owned(),
        content: "{}".to_owned(),
    };
    let too_long = reply(&"x".repeat(200 * 1024));
    let malformed = Action::Create {
        to: "oc_1".to_owned(),
        msg_type: "text".to_owned(),
        content: "no JSON".to_owned(),
    };
    for (action, expected) in [(&gone, 99_992_354), (&too_long, 230_025), (&malformed, 230_001)] {
        let outcome = platform.send(action, "u").await;
        assert!(
            matches!(&outcome, Outcome::Permanent { code, needs_operator: false, .. } if *code == Some(expected)),
            "{outcome:?}"
        );
    }
    platform.sim.set_member("cli_1", "oc_1", false);
    let outcome = platform.send(&reply("hi"), "u").await;
    assert!(
        matches!(
            outcome,
            Outcome::Permanent {
                code: Some(230_002),
                ..
            }
        ),
        "{outcome:?}"
    );
    platform.sim.set_member("cli_1", "oc_1", true);
    platform.sim.recall("om_1");
    let outcome = platform.send(&reply("hi"), "u").await;
    assert!(
        matches!(
            outcome,
            Outcome::Permanent {
                code: Some(230_011),
                ..
            }
        ),
        "{outcome:?}"
    );
    platform.once(Fault::monthly_quota());
    let used_up = Outcome::Limited {
        scope: Scope::Tenant,
        pause: None,
        code: 99_991_403,
    };
    assert_eq!(platform.send(&reply("hi"), "u").await, used_up);
    assert!(platform.visible().is_empty());
}
