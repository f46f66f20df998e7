use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::http::HeaderMap;
use axum::response::Response;
use bytes::Bytes;
use hyper::Method;
use openclaw_common::crypto;
use openclaw_sim::Options;
use openclaw_sim::event::{Event, Kind, Workload};
use openclaw_sim::push::{PushOptions, Pusher};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::support::{Running, eventually, open, receiver, recipient, status};

#[derive(Clone)]
struct Seen {
    at: Instant,
    bot: String,
    headers: HeaderMap,
    body: Bytes,
}

/// A webhook that writes down what it gets and answers by `answer(how many it has seen before)`.
async fn recorder(
    answer: impl Fn(usize) -> Response + Clone + Send + Sync + 'static,
) -> (String, Arc<Mutex<Vec<Seen>>>, tokio_util::sync::DropGuard) {
    let seen: Arc<Mutex<Vec<Seen>>> = Arc::default();
    let writer = seen.clone();
    let (address, guard) = receiver(move |bot, headers, body| {
        let (writer, answer) = (writer.clone(), answer.clone());
        async move {
            let before = {
                let mut seen = writer.lock().unwrap();
                seen.push(Seen {
                    at: Instant::now(),
                    bot,
                    headers,
                    body,
                });
                seen.len() - 1
            };
            answer(before)
        }
    })
    .await;
    (address, seen, guard)
}

fn pusher(address: &str, options: PushOptions) -> Pusher {
    let options = PushOptions {
        targets: vec![address.to_owned()],
        ..options
    };
    Pusher::new(options, None, CancellationToken::new()).unwrap()
}

#[tokio::test]
async fn a_refused_event_comes_back_by_the_scaled_timetable_and_then_no_more() {
    let (address, seen, _guard) = recorder(|_| status(503)).await;
    // 15 s, 5 min, 1 h, 6 h as 0.75, 15, 180 and 1080 ms.
    let pusher = pusher(
        &address,
        PushOptions {
            time_scale: 20_000.0,
            ..PushOptions::default()
        },
    );
    let pushed = pusher
        .push(Event::text(recipient("one"), "oc_1", "ou_1", "hi"))
        .await
        .unwrap();
    assert_eq!(
        (pushed.accepted_us, pushed.attempts, pushed.status),
        (None, 5, Some(503))
    );
    let times: Vec<Instant> = seen.lock().unwrap().iter().map(|seen| seen.at).collect();
    let gaps: Vec<f64> = times
        .windows(2)
        .map(|pair| (pair[1] - pair[0]).as_secs_f64() * 1e3)
        .collect();
    for (gap, wait) in gaps.iter().zip([0.75, 15.0, 180.0, 1080.0]) {
        assert!((wait..wait + 400.0).contains(gap), "{gaps:?}");
    }
    assert_eq!(gaps.len(), 4);
    assert_eq!(pusher.log(|log| log.totals().given_up), 1);
}

#[tokio::test]
async fn a_re_push_is_the_same_message_under_a_fresh_signature_and_event_id() {
    let (address, seen, _guard) = recorder(|before| status(if before < 2 { 500 } else { 200 })).await;
    let pusher = pusher(
        &address,
        PushOptions {
            time_scale: 20_000.0,
            ..PushOptions::default()
        },
    );
    let event = Event::text(recipient("one"), "oc_1", "ou_1", "hi");
    let pushed = pusher.push(event.clone()).await.unwrap();
    assert_eq!(pushed.attempts, 3);
    assert!(pushed.accepted_us.is_some());
    let seen = seen.lock().unwrap().clone();
    let bodies: Vec<Value> = seen.iter().map(|seen| open(&seen.body)).collect();
    for (seen, body) in seen.iter().zip(&bodies) {
        let header = |name: &str| seen.headers[name].to_str().unwrap();
        let (timestamp, nonce) = (header("x-lark-request-timestamp"), header("x-lark-request-nonce"));
        assert!(crypto::verify_sha256(
            header("x-lark-signature"),
            timestamp,
            nonce,
            "key",
            &seen.body
        ));
        assert_eq!(seen.bot, "one");
        assert_eq!(body["event"]["message"]["message_id"], &*event.key);
        assert_eq!(body["event"]["message"]["content"], "{\"text\":\"hi\"}");
        assert_eq!(body["header"]["app_id"], "cli_one");
        assert_eq!(body["header"]["token"], "vt");
    }
    assert_ne!(bodies[0]["header"]["event_id"], bodies[1]["header"]["event_id"]);
    assert_ne!(
        seen[0].headers["x-lark-request-nonce"],
        seen[1].headers["x-lark-request-nonce"]
    );
}

#[tokio::test]
async fn every_kind_arrives_as_its_type_and_callbacks_are_not_repeated() {
    let (address, seen, _guard) = recorder(|_| status(500)).await;
    let one_retry = PushOptions {
        timetable: vec![Duration::from_millis(1)],
        ..PushOptions::default()
    };
    let pusher = pusher(&address, one_retry);
    for event in Event::of_every_kind(&recipient("one"), "oc_1", "ou_1") {
        seen.lock().unwrap().clear();
        pusher.push(event.clone()).await.unwrap();
        let seen = seen.lock().unwrap().clone();
        let expected = if event.kind.is_callback() { 1 } else { 2 };
        assert_eq!(seen.len(), expected, "{:?}", event.kind);
        let body = open(&seen[0].body);
        let first_version = body["event"]["type"].as_str();
        let event_type = body["header"]["event_type"]
            .as_str()
            .or(first_version)
            .or(body["type"].as_str());
        let signed = seen[0].headers.contains_key("x-lark-signature");
        match &event.kind {
            Kind::OldCardAction { .. } => {
                let header = |name: &str| seen[0].headers[name].to_str().unwrap();
                let (timestamp, nonce) = (header("x-lark-request-timestamp"), header("x-lark-request-nonce"));
                assert!(crypto::verify_sha1(
                    header("x-lark-signature"),
                    timestamp,
                    nonce,
                    "vt",
                    &seen[0].body
                ));
                assert_eq!(body["open_chat_id"], "oc_1");
            }
            Kind::Challenge { challenge } => {
                assert!(!signed, "the address check is never signed");
                assert_eq!(body["challenge"], &**challenge);
            }
            _ => {
                assert!(signed);
                assert_eq!(event_type, Some(event.kind.event_type()));
                let id = if body["uuid"].is_string() {
                    &body["uuid"]
                } else {
                    &body["header"]["event_id"]
                };
                let is_message = event.kind.event_type() == "im.message.receive_v1";
                assert_eq!(id == &*event.key, !is_message);
                assert!(body["event"].is_object());
            }
        }
    }
}

#[tokio::test]
async fn a_callbacks_answer_is_kept_and_frees_its_card_token() {
    let (address, _, _guard) = recorder(|_| Response::new(r#"{"toast":{}}"#.into())).await;
    let running = Running::start(Options::default()).await;
    let token = running.token("cli_one").await;
    let options = PushOptions {
        targets: vec![address],
        ..PushOptions::default()
    };
    let pusher = Pusher::new(options, Some(running.sim.clone()), CancellationToken::new()).unwrap();
    let click = Kind::CardAction {
        message_id: "om_1".into(),
        value: "approve".into(),
        token: "c-1".into(),
    };
    let path = "/open-apis/interactive/v1/card/update";
    let update = json!({"token": "c-1", "card": {"elements": []}});
    let early = running.call(Method::POST, path, Some(&token), &update).await.unwrap();
    assert_eq!(early.code(), 300_020);
    let pushed = pusher
        .push(Event::new(recipient("one"), click, "oc_1", "ou_1"))
        .await
        .unwrap();
    assert_eq!(pushed.answer.as_deref(), Some(&br#"{"toast":{}}"#[..]));
    let later = running.call(Method::POST, path, Some(&token), &update).await.unwrap();
    assert_eq!(later.code(), 0);
}

#[tokio::test]
async fn an_attempt_without_an_answer_ends_at_the_deadline() {
    let (address, _guard) = receiver(|_, _, _| std::future::pending()).await;
    let options = PushOptions {
        deadline: Duration::from_millis(100),
        timetable: Vec::new(),
        ..PushOptions::default()
    };
    let pusher = pusher(&address, options);
    let begun = Instant::now();
    let pushed = pusher
        .push(Event::text(recipient("one"), "oc_1", "ou_1", "hi"))
        .await
        .unwrap();
    assert_eq!((pushed.status, pushed.accepted_us), (None, None));
    assert!((100..2000).contains(&begun.elapsed().as_millis()));
}

#[tokio::test]
async fn the_next_event_of_a_chat_waits_for_the_previous_one_and_other_chats_do_not() {
    // Each chat's first event is refused at first.
    let refused: Arc<Mutex<Vec<String>>> = Arc::default();
    let order: Arc<Mutex<Vec<(String, u64)>>> = Arc::default();
    let writer = order.clone();
    let (address, _guard) = receiver(move |_, _, body| {
        let (refused, writer) = (refused.clone(), writer.clone());
        async move {
            let event = open(&body);
            let chat = event["event"]["message"]["chat_id"].as_str().unwrap().to_owned();
            if !refused.lock().unwrap().contains(&chat) {
                refused.lock().unwrap().push(chat);
                return status(503);
            }
            let content = event["event"]["message"]["content"].as_str().unwrap();
            let number = content.split(['#', ' ']).nth(1).unwrap().parse().unwrap();
            writer.lock().unwrap().push((chat, number));
            status(200)
        }
    })
    .await;
    let options = PushOptions {
        timetable: vec![Duration::from_millis(20)],
        ..PushOptions::default()
    };
    let pusher = pusher(&address, options);
    let workload = Workload::new(vec![recipient("one"), recipient("two")], 5, 0);
    pusher.closed_loop(16, workload.take(200)).await;
    let order = order.lock().unwrap().clone();
    assert_eq!(order.len(), 200);
    for chat in 0..5 {
        for bot in ["one", "two"] {
            let name = format!("oc_{bot}_{chat}");
            let numbers: Vec<u64> = order
                .iter()
                .filter(|(chat, _)| *chat == name)
                .map(|(_, number)| *number)
                .collect();
            assert_eq!(numbers.len(), 20);
            assert!(numbers.is_sorted(), "{numbers:?}");
        }
    }
    assert_eq!(
        pusher.log(|log| (log.totals().accepted, log.totals().events)),
        (200, 200)
    );
}

#[tokio::test]
async fn an_open_loop_counts_latency_from_the_due_time() {
    // One connection and 10 ms an answer: 100/s at most, asked for 400/s.
    let (address, _guard) = receiver(|_, _, _| async {
        tokio::time::sleep(Duration::from_millis(10)).await;
        status(200)
    })
    .await;
    let pusher = pusher(
        &address,
        PushOptions {
            connections: 1,
            ..PushOptions::default()
        },
    );
    let begun = Instant::now();
    pusher
        .open_loop(400.0, Workload::new(vec![recipient("one")], 100, 0).take(80))
        .await;
    assert!(begun.elapsed() >= Duration::from_millis(800));
    let (accepted, due, attempt) = pusher.log(|log| {
        (
            log.totals().accepted,
            log.accept_latency().max(),
            log.attempt_latency().quantile(0.1),
        )
    });
    assert_eq!(accepted, 80);
    assert!(due >= Duration::from_millis(500), "the backlog must show: {due:?}");
    assert!(attempt >= Duration::from_millis(10));
}

#[tokio::test]
async fn an_open_loop_keeps_its_rate() {
    let (address, seen, _guard) = recorder(|_| status(200)).await;
    let pusher = pusher(&address, PushOptions::default());
    let begun = Instant::now();
    pusher
        .open_loop(500.0, Workload::new(vec![recipient("one")], 100, 0).take(250))
        .await;
    let took = begun.elapsed().as_millis();
    assert!((498..2500).contains(&took), "{took} ms");
    assert_eq!(seen.lock().unwrap().len(), 250);
}

#[tokio::test]
async fn accepted_events_come_again_when_duplicates_are_wanted() {
    let (address, seen, _guard) = recorder(|_| status(200)).await;
    let pusher = pusher(
        &address,
        PushOptions {
            duplicates: 1.0,
            ..PushOptions::default()
        },
    );
    pusher
        .closed_loop(4, Workload::new(vec![recipient("one")], 4, 0).take(20))
        .await;
    pusher.settle().await;
    assert_eq!(seen.lock().unwrap().len(), 40);
    let event = Event::text(recipient("one"), "oc_1", "ou_1", "hi");
    assert_eq!(pusher.push_copies(&event, 30).await, vec![Some(200); 30]);
    assert_eq!(seen.lock().unwrap().len(), 70);
}

#[tokio::test]
async fn stopping_ends_the_wait_for_the_next_attempt() {
    let (address, _, _guard) = recorder(|_| status(503)).await;
    let stop = CancellationToken::new();
    let options = PushOptions {
        targets: vec![address],
        ..PushOptions::default()
    };
    let pusher = Pusher::new(options, None, stop.clone()).unwrap();
    let pushing = pusher.push(Event::text(recipient("one"), "oc_1", "ou_1", "hi"));
    let (pushed, ()) = tokio::join!(pushing, async {
        eventually("the first attempt", || {
            pusher.log(|log| log.totals().statuses.contains_key(&Some(503)))
        })
        .await;
        stop.cancel();
    });
    assert_eq!(pushed.unwrap().attempts, 1);
    assert!(
        pusher
            .push(Event::text(recipient("one"), "oc_1", "ou_1", "late"))
            .await
            .is_none()
    );
}
