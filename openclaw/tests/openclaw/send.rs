//! The send API as its callers meet it: real processes, a real token, the whole way to the simulated platform.

use std::process::Output;
use std::time::Duration;

use openclaw_sim::Limits;
use serde_json::{Value, json};
use testkit::{eventually, unique_name};

use super::pipeline::on_both_backends;
use world::{Kind, Process, World, openclaw};

pub(crate) const PATIENCE: Duration = Duration::from_secs(20);
pub(crate) const TOKEN: &str = "an-api-token-of-this-test";
const API: &str = "api: { tokens: [an-api-token-of-this-test] }\n";

on_both_backends!(
    one_key_is_one_message_and_another_body_under_it_is_a_conflict,
    a_conflict_that_ingest_has_forgotten_is_a_dead_letter_and_never_sent,
    a_scheduled_message_waits_in_the_store_and_goes_out_in_time,
    the_command_sends_through_the_running_node,
);

/// A caller of the send API.
pub(crate) struct Caller {
    client: reqwest::Client,
    url: String,
}

impl Caller {
    pub(crate) fn of(process: &Process) -> Self {
        Self {
            client: reqwest::Client::builder().timeout(PATIENCE).no_proxy().build().unwrap(),
            url: format!("{}/v1/messages", process.url()),
        }
    }

    pub(crate) async fn post(&self, body: &Value, key: Option<&str>) -> (u16, Value) {
        self.post_as(Some(TOKEN), body, key).await
    }

    async fn post_as(&self, token: Option<&str>, body: &Value, key: Option<&str>) -> (u16, Value) {
        let mut request = self.client.post(&self.url).json(body);
        if let Some(token) = token {
            request = request.bearer_auth(token);
        }
        if let Some(key) = key {
            request = request.header("Idempotency-Key", key);
        }
        let answer = request.send().await.unwrap();
        (answer.status().as_u16(), answer.json().await.unwrap())
    }

    /// One that must be taken; its id. Like every careful caller it has a key, and asks again when the node cannot store now:
    /// a busy machine may let a confirm be late.
    pub(crate) async fn send(&self, body: &Value) -> String {
        let key = unique_name();
        let mut id = None;
        eventually("the send is taken", PATIENCE, async || {
            let (status, answer) = self.post(body, Some(&key)).await;
            assert!(matches!(status, 202 | 503), "{status}: {answer}");
            id = answer["id"].as_str().map(str::to_owned);
            id.is_some()
        })
        .await;
        id.unwrap()
    }
}

/// A text to a chat through a bot or a pool.
pub(crate) fn text(through: (&str, &str), to: &str, text: &str) -> Value {
    json!({ through.0: through.1, "to": to, "msg_type": "text", "content": { "text": text } })
}

/// The texts that are visible, as sent.
pub(crate) fn visible(world: &World) -> Vec<String> {
    let content = |text: &str| {
        serde_json::from_str::<Value>(text).unwrap()["text"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    world
        .sim
        .ledger(|ledger| ledger.messages().map(|message| content(&message.content)).collect())
}

pub(crate) async fn world(kind: Kind, bots: usize, extra: &str) -> World {
    World::new(kind, bots, &format!("{API}{extra}")).await
}

async fn becomes_visible(world: &World, wanted: &str) {
    eventually(&format!("{wanted} is visible"), PATIENCE, async || {
        visible(world).iter().any(|text| text == wanted)
    })
    .await;
}

async fn one_key_is_one_message_and_another_body_under_it_is_a_conflict(kind: Kind) {
    let world = world(kind, 1, "").await;
    let processes = world.start(1).await;
    let caller = Caller::of(&processes[0]);
    let first = text(("bot", "bot0"), "oc_1", "first");
    let (status, answer) = caller.post(&first, Some("order-7")).await;
    assert_eq!(status, 202);
    for _ in 0..3 {
        assert_eq!(caller.post(&first, Some("order-7")).await, (202, answer.clone()));
    }
    let (status, conflict) = caller
        .post(&text(("bot", "bot0"), "oc_1", "second"), Some("order-7"))
        .await;
    assert_eq!(
        (status, &conflict["error"]["code"]),
        (409, &json!("idempotency_conflict"))
    );
    caller.send(&text(("bot", "bot0"), "oc_1", "last")).await;
    becomes_visible(&world, "last").await;
    assert_eq!(visible(&world), ["first", "last"]);
    world.finished(2).await;
}

async fn a_conflict_that_ingest_has_forgotten_is_a_dead_letter_and_never_sent(kind: Kind) {
    let world = world(kind, 1, "message: { dedup_ttl: 1s }\n").await;
    let mut processes = world.start(1).await;
    let caller = Caller::of(&processes[0]);
    let (first, second) = (
        text(("bot", "bot0"), "oc_1", "first"),
        text(("bot", "bot0"), "oc_1", "second"),
    );
    caller.post(&first, Some("key")).await;
    becomes_visible(&world, "first").await;
    eventually("ingest has forgotten the first body", PATIENCE, async || {
        caller.post(&second, Some("key")).await.0 == 202
    })
    .await;
    caller.send(&text(("bot", "bot0"), "oc_1", "last")).await;
    becomes_visible(&world, "last").await;
    assert_eq!(visible(&world), ["first", "last"]);
    let said = |process: &Process| process.log().contains("a second send under one key is kept");
    eventually("the log names the conflict", PATIENCE, async || {
        processes.iter().any(said)
    })
    .await;
    // The store is this test's own once a process with an embedded one has ended.
    if kind == Kind::Embedded {
        assert!(processes.pop().unwrap().stop().await.success());
    }
    let command = [
        "dlq",
        "list",
        "--json",
        "--class",
        "idempotency_conflict",
        "-c",
        world.path().to_str().unwrap(),
    ];
    let Output { stdout, .. } = openclaw(&command).output().unwrap();
    let letters = String::from_utf8(stdout).unwrap();
    assert_eq!(letters.lines().count(), 1, "{letters}");
}

async fn a_scheduled_message_waits_in_the_store_and_goes_out_in_time(kind: Kind) {
    // Its age counts from its time: by when it was asked for it would be too old.
    let world = world(kind, 1, "message: { max_age: 4s }\n").await;
    world.sim.set_limits(Limits::off());
    let processes = world.start(1).await;
    let caller = Caller::of(&processes[0]);
    let mut later = text(("bot", "bot0"), "oc_1", "later");
    let at = openclaw_common::time::now_ms() + 6000;
    later["send_at"] = json!(jiff::Timestamp::from_millisecond(at).unwrap().to_string());
    caller.send(&later).await;
    caller.send(&text(("bot", "bot0"), "oc_1", "now")).await;
    becomes_visible(&world, "now").await;
    assert!(openclaw_common::time::now_ms() < at, "this machine is too slow to tell");
    assert_eq!(visible(&world), ["now"], "it goes out before its time");
    becomes_visible(&world, "later").await;
    assert!(openclaw_common::time::now_ms() >= at, "it went out before its time");
    world.finished(2).await;
}

async fn the_command_sends_through_the_running_node(kind: Kind) {
    let world = world(kind, 1, "").await;
    let processes = world.start(1).await;
    let port = processes[0].address.port().to_string();
    let run = |more: &[&str]| {
        let mut all = vec![
            "send",
            "-c",
            world.path().to_str().unwrap(),
            "--to",
            "oc_1",
            "--text",
            "hello",
            "--json",
        ];
        all.extend(more);
        let Output { status, stdout, stderr } = openclaw(&all).output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (status.code().unwrap(), text(stdout), text(stderr))
    };
    let (code, stdout, stderr) = run(&["--bot", "bot0", "--port", &port]);
    assert_eq!(code, 0, "{stderr}");
    assert!(stdout.contains("snd_"), "{stdout}");
    becomes_visible(&world, "hello").await;
    let (code, _, stderr) = run(&["--bot", "bot7", "--port", &port]);
    assert!(code == 64 && stderr.contains("bot7"), "{code} {stderr}");
    let (code, _, stderr) = run(&["--bot", "bot0", "--port", "1"]);
    assert!(code == 69 && stderr.contains("openclaw run"), "{code} {stderr}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_refusal_says_what_is_wrong() {
    let world = world(Kind::Embedded, 1, "").await;
    let processes = world.start(1).await;
    let caller = Caller::of(&processes[0]);
    let good = text(("bot", "bot0"), "oc_1", "hi");
    let code = |answer: &(u16, Value)| (answer.0, answer.1["error"]["code"].as_str().unwrap().to_owned());
    for token in [None, Some("another")] {
        let answer = caller.post_as(token, &good, None).await;
        assert_eq!(code(&answer), (401, "unauthorized".to_owned()));
    }
    for (body, expected) in [
        (json!({}), (400, "malformed")),
        (text(("bot", "nobody"), "oc_1", "hi"), (404, "no_such_bot")),
        (text(("pool", "nobody"), "oc_1", "hi"), (404, "no_such_bot")),
        (
            text(("bot", "bot0"), "oc_1", &"x".repeat(150 * 1024)),
            (413, "too_large"),
        ),
    ] {
        assert_eq!(
            code(&caller.post(&body, None).await),
            (expected.0, expected.1.to_owned())
        );
    }
    assert_eq!(
        code(&caller.post(&good, Some("ü")).await),
        (400, "malformed".to_owned())
    );
    assert!(visible(&world).is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_tokens_nobody_sends() {
    let world = World::new(Kind::Embedded, 1, "").await;
    let processes = world.start(1).await;
    let (status, answer) = Caller::of(&processes[0])
        .post(&text(("bot", "bot0"), "oc_1", "hi"), None)
        .await;
    assert_eq!(status, 401);
    assert!(
        answer["error"]["message"].as_str().unwrap().contains("api.tokens"),
        "{answer}"
    );
}
