//! What the platform has been seen to do that no page of it says: its bots' own messages come back as people's, answers are
//! packed unasked, the token endpoint fails for a moment.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use openclaw_sim::Api;
use openclaw_sim::event::{Event, Kind as EventKind, Recipient};
use openclaw_sim::faults::{Fault, Scope};
use openclaw_sim::push::{PushOptions, Pusher};
use serde_json::json;
use testkit::eventually;

use super::pipeline::on_both_backends;
use super::send::{Caller, PATIENCE, text, visible, world};
use world::{Kind, World};

/// A failure that used an attempt would be the end.
const ONE_TRY: &str = "message: { retry_policy: { max_attempts: 1, backoff: 500ms } }\n";

on_both_backends!(
    a_message_of_our_own_is_never_handled,
    a_message_of_our_own_that_comes_before_its_answer_is_not_handled_either,
    waiting_for_a_token_uses_no_attempt,
    a_packed_answer_is_one_send,
    a_persons_words_count_in_a_post,
    half_an_emoji_is_answered_too,
);

/// A client that counts UTF-16 units cuts an emoji in two.
async fn half_an_emoji_is_answered_too(kind: Kind) {
    let world = world(kind, 1, "").await;
    let processes = world.start(1).await;
    let pusher = world.pusher(&[&processes[0]], PushOptions::default());
    let half = EventKind::Message {
        message_type: "text".to_owned(),
        content: r#"{"text":"cut \ud83d"}"#.to_owned(),
    };
    pusher
        .push(Event::with_key(
            world.bots[0].clone(),
            half,
            "oc_1",
            "ou_person",
            "om_half",
        ))
        .await
        .unwrap();
    eventually("it is answered", PATIENCE, async || {
        visible(&world).iter().any(|text| text == "cut \u{fffd}")
    })
    .await;
}

/// The ids of the visible messages.
fn ids(world: &World) -> Vec<Arc<str>> {
    world
        .sim
        .ledger(|ledger| ledger.messages().map(|message| message.message_id.clone()).collect())
}

/// The platform pushes one of our messages as if a person had written it.
async fn push_back(pusher: &Pusher, to: &Arc<Recipient>, chat: &str, id: &str) {
    let kind = EventKind::Text {
        text: "an echo".to_owned(),
    };
    let event = Event::with_key(to.clone(), kind, chat, "ou_person", id);
    assert_eq!(pusher.push(event).await.unwrap().status, Some(200));
}

/// A person writes, and is answered: what was pushed into the chat before has come to its end.
async fn a_person_is_answered(world: &World, pusher: &Pusher, to: &Arc<Recipient>, chat: &str, words: &str) {
    pusher
        .push(Event::text(to.clone(), chat, "ou_person", words))
        .await
        .unwrap();
    eventually("the person is answered", PATIENCE, async || {
        visible(world).iter().any(|text| text == words)
    })
    .await;
}

async fn a_message_of_our_own_is_never_handled(kind: Kind) {
    let world = world(kind, 2, "").await;
    let mut processes = world.start(1).await;
    let pusher = world.pusher(&[&processes[0]], PushOptions::default());
    let (bot, other) = (&world.bots[0], &world.bots[1]);
    a_person_is_answered(&world, &pusher, bot, "oc_1", "first").await;
    let mut back = BTreeSet::new();
    for round in 0..3 {
        for id in ids(&world) {
            if back.insert(id.clone()) {
                push_back(&pusher, bot, "oc_1", &id).await;
            }
        }
        a_person_is_answered(&world, &pusher, bot, "oc_1", &format!("round {round}")).await;
    }
    assert_eq!(visible(&world), ["first", "round 0", "round 1", "round 2"]);
    // Nor after a crash of everything, nor by another bot of the group.
    for process in &mut processes {
        process.kill_and_replace().await;
    }
    let pusher = world.pusher(&[&processes[0]], PushOptions::default());
    for id in ids(&world) {
        push_back(&pusher, other, "oc_1", &id).await;
        push_back(&pusher, bot, "oc_elsewhere", &id).await;
    }
    a_person_is_answered(&world, &pusher, other, "oc_1", "and now").await;
    a_person_is_answered(&world, &pusher, bot, "oc_elsewhere", "and there").await;
    assert_eq!(visible(&world).len(), 6, "{:?}", visible(&world));
}

async fn a_message_of_our_own_that_comes_before_its_answer_is_not_handled_either(kind: Kind) {
    let world = world(kind, 2, "pools: { notify: [bot0, bot1] }\n").await;
    let processes = world.start(1).await;
    let pusher = world.pusher(&[&processes[0]], PushOptions::default());
    let caller = Caller::of(&processes[0]);
    for (number, (through, to, chat)) in [
        (("bot", "bot0"), "oc_1", "oc_1"),
        (("pool", "notify"), "oc_2", "oc_2"),
        (("bot", "bot0"), "ou_person", "oc_p2p_ou_person"),
    ]
    .into_iter()
    .enumerate()
    {
        let late = Scope {
            api: Some(Api::Create),
            times: Some(1),
            ..Scope::default()
        };
        world.sim.fault(late, Fault::slow(Duration::from_millis(1500))).unwrap();
        caller.send(&text(through, to, &format!("sent {number}"))).await;
        let mut id = None;
        eventually("it is visible, and not answered yet", PATIENCE, async || {
            let found = world.sim.ledger(|ledger| {
                let mut messages = ledger.messages();
                let sent = messages.find(|message| message.content.contains(&format!("sent {number}")));
                sent.map(|message| message.message_id.clone())
            });
            id = found;
            id.is_some()
        })
        .await;
        let id = id.unwrap();
        // A one-to-one chat is the one bot's alone.
        let bots = if to.starts_with("ou_") {
            &world.bots[..1]
        } else {
            &world.bots[..]
        };
        for bot in bots {
            push_back(&pusher, bot, chat, &id).await;
        }
        for bot in bots {
            let words = format!("{} after {number}", bot.bot);
            a_person_is_answered(&world, &pusher, bot, chat, &words).await;
        }
    }
    assert_eq!(visible(&world).len(), 8, "{:?}", visible(&world));
}

async fn waiting_for_a_token_uses_no_attempt(kind: Kind) {
    for fault in [
        Fault::code(200, 2200, "internal error"),
        Fault::rate_limited(Duration::from_secs(2)),
        Fault::reset(),
    ] {
        let name = fault.name.clone();
        let world = world(kind, 1, ONE_TRY).await;
        let once = Scope {
            api: Some(Api::Token),
            times: Some(1),
            ..Scope::default()
        };
        world.sim.fault(once, fault).unwrap();
        let processes = world.start(1).await;
        let pusher = world.pusher(&[&processes[0]], PushOptions::default());
        a_person_is_answered(&world, &pusher, &world.bots[0], "oc_1", "hello").await;
        let calls = |token: bool| {
            world
                .sim
                .ledger(|ledger| ledger.calls().filter(|call| (call.api == Api::Token) == token).count())
        };
        assert_eq!((calls(true), calls(false)), (2, 1), "{name}");
        if kind == Kind::Distributed {
            world.finished(1).await;
            let (tries,): (i64,) = world.row("SELECT sum(tries)::bigint FROM actions").await;
            assert_eq!(tries, 1, "{name}: a try is a call that was made");
        }
    }
}

async fn a_packed_answer_is_one_send(kind: Kind) {
    let world = world(kind, 1, ONE_TRY).await;
    for api in [Api::Token, Api::Reply] {
        let of = Scope {
            api: Some(api),
            ..Scope::default()
        };
        world.sim.fault(of, Fault::packed()).unwrap();
    }
    let processes = world.start(1).await;
    let pusher = world.pusher(&[&processes[0]], PushOptions::default());
    a_person_is_answered(&world, &pusher, &world.bots[0], "oc_1", "hello").await;
    a_person_is_answered(&world, &pusher, &world.bots[0], "oc_1", "again").await;
    let sends = world
        .sim
        .ledger(|ledger| ledger.calls().filter(|call| call.api == Api::Reply).count());
    assert_eq!((sends, visible(&world).len()), (2, 2));
    world.finished(2).await;
}

async fn a_persons_words_count_in_a_post(kind: Kind) {
    let world = world(kind, 1, "").await;
    world.write(
        "bot0/config.yaml",
        "handler: { kind: rules, rules: [ { prefix: /help, reply: \"you said {text}\" } ] }\n",
    );
    let processes = world.start(1).await;
    let pusher = world.pusher(&[&processes[0]], PushOptions::default());
    let content = json!({"title": "", "content": [[
        {"tag": "at", "user_id": "@_user_1", "user_name": "Bot", "style": []},
        {"tag": "text", "text": " /help me", "style": []},
    ]]});
    let post = EventKind::Message {
        message_type: "post".to_owned(),
        content: content.to_string(),
    };
    pusher
        .push(Event::new(world.bots[0].clone(), post, "oc_1", "ou_person"))
        .await
        .unwrap();
    eventually("the post is answered", PATIENCE, async || {
        visible(&world) == ["you said /help me"]
    })
    .await;
}
