//! The replay of dead letters: two at once, killed in the middle, repeated.

use std::os::unix::process::ExitStatusExt as _;
use std::process::Output;
use std::time::Duration;

use openclaw_sim::Limits;
use openclaw_sim::check::Expectations;
use openclaw_sim::faults::Fault;
use openclaw_sim::ledger::Level;
use testkit::eventually;

use super::audit::query;
use super::figure;
use crate::openclaw::dlq::{PATIENCE, UNHURRIED, Ward, command, figures, object, objects, spawn};
use world::{Kind, World};

/// Of those that have been replayed three times; without `--force` they stay.
const CAPPED: u64 = 30;

/// Ten bots with a hundred letters each, ten letters a second and bot.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_33_a_thousand_letters_replayed_twice_at_once_and_killed_midway() {
    let mut ward = Ward::new(Kind::Distributed, 10, UNHURRIED).await;
    ward.world.sim.set_limits(Limits::off());
    ward.kill(1000, Fault::code(400, 230_001, "no")).await;
    let world = &ward.world;
    let capped: (i64,) = query(
        world,
        "WITH capped AS (UPDATE events SET replay_gen = 3 WHERE (app_id, key) IN \
         (SELECT app_id, key FROM events ORDER BY md5(key) LIMIT 30) RETURNING app_id, key), \
         letters AS (UPDATE dead_letters d SET replay_gen = 3 FROM capped \
         WHERE (d.app_id, d.key) = (capped.app_id, capped.key) RETURNING 1) SELECT count(*) FROM letters",
    )
    .await;
    assert_eq!(capped, (30,));

    let replay = ["replay", "--rate", "10", "--json"];
    let (survivor, mut killed) = (spawn(world, &replay), spawn(world, &replay));
    eventually("the replays are under way", PATIENCE, async || {
        (300..=800).contains(&(1000 - open_letters_of(world).await))
    })
    .await;
    killed.kill().unwrap();
    killed.wait().unwrap();
    let again = spawn(world, &replay);
    for replay in [survivor, again] {
        let Output { status, stdout, stderr } = tokio::task::spawn_blocking(|| replay.wait_with_output())
            .await
            .unwrap()
            .unwrap();
        assert!(status.success(), "{}", String::from_utf8_lossy(&stderr));
        let [matched, done, skipped] = figures(&serde_json::from_slice(&stdout).unwrap());
        assert_eq!(matched, done + skipped);
        assert!(skipped >= CAPPED, "the generation's cap was passed");
    }
    ward.world.answered_but(&ward.pusher, CAPPED).await;
    assert_eq!(
        objects(world, &["list"]).len() as u64,
        CAPPED,
        "only the capped ones are left"
    );
    let quickest = throttled(&ward);

    // A person may insist.
    assert_eq!(
        figures(&object(world, &["replay", "--force", "--rate", "20"])),
        [CAPPED, CAPPED, 0]
    );
    world.answered(&ward.pusher).await;
    let expected = Expectations {
        order: false,
        quotas: vec![(Level::Bot, 20)],
        ..Expectations::default()
    };
    let report = world.judge(&ward.pusher, &expected);
    assert_eq!((report.accepted, report.visible), (1000, 1000));
    let repeats = world.sim.ledger(|ledger| ledger.totals().collapsed);
    assert_eq!(repeats, 0, "an effect was asked for twice");
    world.finished(1000).await;
    figure(
        "33",
        &format!(
            "1,000 letters, two replays at once, one killed and started again: 1,000 visible, none sent twice; 100 letters \
             of a bot at 10/s took at least {quickest:.1?}; {CAPPED} beyond the generation's cap only with --force"
        ),
    );
}

async fn open_letters_of(world: &World) -> i64 {
    let (open,): (i64,) = query(world, "SELECT count(*) FROM dead_letters WHERE resolved_at IS NULL").await;
    open
}

/// No bot's letters came faster than ten a second, whoever replayed them; how long the quickest bot took.
fn throttled(ward: &Ward) -> Duration {
    let mut quickest = Duration::MAX;
    for bot in &ward.world.bots {
        let mut at: Vec<u64> = ward.world.sim.ledger(|ledger| {
            let own = ledger
                .messages()
                .filter(|message| message.app == bot.credentials.app_id);
            own.map(|message| message.at_us).collect()
        });
        at.sort_unstable();
        for (place, at_us) in (0..).zip(&at) {
            // The first may be late by a poll of the waiting room; none is early.
            let place: u64 = place;
            assert!(
                at_us - at[0] + 2_000_000 >= place * 100_000,
                "{}: letter {place} came {} ms after the first",
                bot.bot,
                (at_us - at[0]) / 1000
            );
        }
        quickest = quickest.min(Duration::from_micros(at[at.len() - 1] - at[0]));
    }
    quickest
}

/// The replay's transaction is committed, and the process that ordered it is gone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_03_p1_replay_committed() {
    let mut ward = Ward::new(Kind::Distributed, 1, UNHURRIED).await;
    ward.world.sim.set_limits(Limits::off());
    ward.kill(30, Fault::code(400, 230_001, "no")).await;
    let world = &ward.world;
    let replay = ["replay", "--rate", "20"];
    let died = command(world, &replay)
        .env("OPENCLAW_FAIL_POINT", "P1")
        .output()
        .unwrap();
    assert_eq!(
        died.status.signal(),
        Some(6),
        "{}",
        String::from_utf8_lossy(&died.stderr)
    );
    // One chunk is on its way without anybody who looks after it; the rest is as dead as before.
    assert_eq!(open_letters_of(world).await, 10);
    assert_eq!(figures(&object(world, &replay)), [10, 10, 0]);
    assert_eq!(figures(&object(world, &replay)), [0, 0, 0]);
    world.answered(&ward.pusher).await;
    let expected = Expectations {
        order: false,
        quotas: vec![(Level::Bot, 20)],
        ..Expectations::default()
    };
    let report = world.judge(&ward.pusher, &expected);
    assert_eq!((report.accepted, report.visible), (30, 30));
    let repeats = world.sim.ledger(|ledger| ledger.totals().collapsed);
    assert_eq!(repeats, 0, "an effect was asked for twice");
    world.finished(30).await;
}
