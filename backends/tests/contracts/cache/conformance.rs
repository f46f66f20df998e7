//! One suite, both backends.

use std::time::Duration;

use openclaw_common::cache::{Cache, Claim, Member, Take};
use openclaw_common::envelope::EventKey;
use openclaw_common::quota::{GUARD, HORIZON, QUIET};
use tokio::time::{Instant, sleep};

use super::{level, slot};

const LONG: Duration = Duration::from_secs(60);
const SHORT: Duration = Duration::from_millis(30);

/// Makes each promise a test of each backend.
macro_rules! promises {
    ($($promise:ident)*) => {
        mod memory {
            $(#[tokio::test]
            async fn $promise() {
                super::$promise(&openclaw_backends::caches::memory::Memory::new()).await;
            })*
        }
        mod redis {
            $(#[tokio::test]
            async fn $promise() {
                let server = testkit::Servers::redis().await;
                super::$promise(&crate::contracts::cache::server::cache(&server).await).await;
            })*
        }
    };
}

promises! {
    one_claims_and_others_are_busy_until_it_is_done
    a_claim_ends_by_itself
    a_claim_can_be_taken_again_by_its_holder
    only_the_holder_releases_a_claim
    two_apps_may_have_the_same_key
    a_done_mark_ends
    no_slot_before_the_quiet_time_is_over
    slots_keep_the_window_at_once_and_ahead
    a_full_level_takes_nothing_from_the_others
    a_full_level_is_named
    one_key_may_have_two_windows
    no_levels_grant_at_once
    a_count_of_zero_never_grants
    a_large_count_is_exact
    a_slot_given_back_is_free_again
    a_slot_that_was_missed_is_free_again
    the_longest_pause_wins
    values_are_kept_until_they_end
    only_the_first_is_stored_if_absent
    only_the_same_value_is_removed
    live_members_see_each_other
}

fn key(app: &str) -> EventKey {
    EventKey::new(app, "om_1")
}

async fn one_claims_and_others_are_busy_until_it_is_done(cache: &dyn Cache) {
    assert_eq!(cache.claim(&key("a"), "one", LONG).await.unwrap(), Claim::Claimed);
    assert_eq!(cache.claim(&key("a"), "two", LONG).await.unwrap(), Claim::Busy);
    cache.finish(&[(key("a"), LONG)]).await.unwrap();
    assert_eq!(cache.claim(&key("a"), "two", LONG).await.unwrap(), Claim::Done);
    assert_eq!(cache.claim(&key("a"), "one", LONG).await.unwrap(), Claim::Done);
}

async fn a_claim_ends_by_itself(cache: &dyn Cache) {
    assert_eq!(cache.claim(&key("a"), "one", SHORT).await.unwrap(), Claim::Claimed);
    let until = Instant::now() + Duration::from_secs(5);
    while cache.claim(&key("a"), "two", LONG).await.unwrap() == Claim::Busy {
        assert!(Instant::now() < until, "the claim does not end");
        sleep(Duration::from_millis(5)).await;
    }
    // Too late: the claim is another's now.
    cache.release(&key("a"), "one").await.unwrap();
    assert_eq!(cache.claim(&key("a"), "one", LONG).await.unwrap(), Claim::Busy);
}

async fn a_claim_can_be_taken_again_by_its_holder(cache: &dyn Cache) {
    for _ in 0..2 {
        assert_eq!(cache.claim(&key("a"), "one", LONG).await.unwrap(), Claim::Claimed);
    }
}

async fn only_the_holder_releases_a_claim(cache: &dyn Cache) {
    cache.claim(&key("a"), "one", LONG).await.unwrap();
    cache.release(&key("a"), "two").await.unwrap();
    assert_eq!(cache.claim(&key("a"), "two", LONG).await.unwrap(), Claim::Busy);
    cache.release(&key("a"), "one").await.unwrap();
    assert_eq!(cache.claim(&key("a"), "two", LONG).await.unwrap(), Claim::Claimed);
    cache.finish(&[(key("a"), LONG)]).await.unwrap();
    cache.release(&key("a"), "two").await.unwrap();
    assert_eq!(
        cache.claim(&key("a"), "two", LONG).await.unwrap(),
        Claim::Done,
        "done is not released"
    );
}

async fn two_apps_may_have_the_same_key(cache: &dyn Cache) {
    cache.finish(&[(key("a"), LONG)]).await.unwrap();
    assert_eq!(cache.claim(&key("b"), "one", LONG).await.unwrap(), Claim::Claimed);
}

async fn a_done_mark_ends(cache: &dyn Cache) {
    cache.finish(&[(key("a"), SHORT)]).await.unwrap();
    let until = Instant::now() + Duration::from_secs(5);
    while cache.claim(&key("a"), "one", LONG).await.unwrap() == Claim::Done {
        assert!(Instant::now() < until, "the mark does not end");
        sleep(Duration::from_millis(5)).await;
    }
}

async fn no_slot_before_the_quiet_time_is_over(cache: &dyn Cache) {
    let born = Instant::now();
    let first = cache.take(&[level("b:1", 5, 1)], HORIZON).await.unwrap();
    assert!(matches!(first, Take::Later { level: 0, .. }), "{first:?}");
    let (at, _) = slot(cache, &[level("b:1", 5, 1)]).await;
    // A memory cache is born before the test looks at the clock.
    assert!(at - born > QUIET, "{:?}", at - born);
    assert!(
        at - born < QUIET + HORIZON + Duration::from_millis(500),
        "{:?}",
        at - born
    );
}

async fn slots_keep_the_window_at_once_and_ahead(cache: &dyn Cache) {
    let levels = [level("b:1", 2, 1)];
    let mut slots = Vec::new();
    for _ in 0..5 {
        slots.push(slot(cache, &levels).await.0);
    }
    for three in slots.windows(3) {
        let span = three[2] - three[0];
        // The answers' own ways differ by a little.
        assert!(
            span > Duration::from_secs(1) + GUARD - Duration::from_millis(10),
            "{span:?}"
        );
        assert!(span < Duration::from_millis(1300), "unused quota: {span:?}");
    }
}

async fn a_full_level_takes_nothing_from_the_others(cache: &dyn Cache) {
    let both = [level("b:1", 3, 1), level("c:1", 1, 1)];
    let (full, _) = slot(cache, &both).await;
    for _ in 0..5 {
        let answer = cache.take(&both, HORIZON).await.unwrap();
        assert!(matches!(answer, Take::Later { .. }), "{answer:?}");
    }
    for _ in 0..2 {
        let answer = cache
            .take(&[level("b:1", 3, 1), level("c:2", 5, 1)], HORIZON)
            .await
            .unwrap();
        assert!(
            matches!(answer, Take::Granted { .. }),
            "the bot has two slots left: {answer:?}"
        );
    }
    let (next, _) = slot(cache, &both).await;
    assert!(next - full < Duration::from_millis(1300), "{:?}", next - full);
}

async fn a_full_level_is_named(cache: &dyn Cache) {
    let both = [level("b:1", 2, 1), level("c:1", 1, 1)];
    slot(cache, &both).await;
    let Take::Later { level: chat, .. } = cache.take(&both, HORIZON).await.unwrap() else {
        panic!("the chat is full");
    };
    assert_eq!(chat, 1);
    let other = [level("b:1", 2, 1), level("c:2", 1, 1)];
    slot(cache, &other).await;
    let third = [level("b:1", 2, 1), level("c:3", 1, 1)];
    let Take::Later { level: bot, wait } = cache.take(&third, HORIZON).await.unwrap() else {
        panic!("the bot is full");
    };
    assert_eq!(bot, 0);
    assert!(wait < Duration::from_millis(1_200), "{wait:?}");
}

async fn one_key_may_have_two_windows(cache: &dyn Cache) {
    let app = [level("a:1", 2, 1), level("a:1", 3, 60)];
    for _ in 0..3 {
        slot(cache, &app).await;
    }
    sleep(Duration::from_millis(1050)).await;
    let Take::Later { level, wait } = cache.take(&app, HORIZON).await.unwrap() else {
        panic!("the minute is full");
    };
    assert_eq!(level, 1);
    assert!(wait > Duration::from_secs(50), "{wait:?}");
}

async fn no_levels_grant_at_once(cache: &dyn Cache) {
    let Take::Granted { wait, slot, .. } = cache.take(&[], HORIZON).await.unwrap() else {
        panic!("nothing limits it");
    };
    assert_eq!(wait, Duration::ZERO);
    cache.give_back(&[], &slot).await.unwrap();
}

async fn a_count_of_zero_never_grants(cache: &dyn Cache) {
    slot(cache, &[level("b:1", 5, 1)]).await;
    let answer = cache
        .take(&[level("b:1", 5, 1), level("c:1", 0, 1)], HORIZON)
        .await
        .unwrap();
    let Take::Later { wait, level: 1 } = answer else {
        panic!("{answer:?}");
    };
    assert!(wait >= Duration::from_secs(1), "{wait:?}");
    assert!(
        matches!(
            cache.take(&[level("b:1", 2, 1)], HORIZON).await.unwrap(),
            Take::Granted { .. }
        ),
        "took from b:1"
    );
}

async fn a_large_count_is_exact(cache: &dyn Cache) {
    let levels = [level("a:1", 60, 1)];
    let (first, _) = slot(cache, &levels).await;
    for _ in 1..60 {
        let answer = cache.take(&levels, HORIZON).await.unwrap();
        assert!(matches!(answer, Take::Granted { .. }), "bursts are allowed: {answer:?}");
    }
    let (next, _) = slot(cache, &levels).await;
    assert!(
        next - first > Duration::from_secs(1) + GUARD - Duration::from_millis(10),
        "{:?}",
        next - first
    );
    assert!(next - first < Duration::from_millis(1300), "{:?}", next - first);
}

async fn a_slot_given_back_is_free_again(cache: &dyn Cache) {
    let levels = [level("b:1", 1, 1), level("a:1", 60, 1)];
    slot(cache, &levels).await;
    let (ahead, taken) = slot(cache, &levels).await;
    assert!(ahead > Instant::now() + Duration::from_millis(20), "reserved ahead");
    let full = cache.take(&levels, HORIZON).await.unwrap();
    assert!(matches!(full, Take::Later { .. }), "{full:?}");
    cache.give_back(&levels, &taken).await.unwrap();
    let (again, _) = slot(cache, &levels).await;
    assert!(again < ahead + Duration::from_millis(50), "{:?}", again - ahead);
}

async fn a_slot_that_was_missed_is_free_again(cache: &dyn Cache) {
    let levels = [level("b:1", 1, 1)];
    let (at, taken) = slot(cache, &levels).await;
    tokio::time::sleep_until(at + Duration::from_millis(2)).await;
    cache.give_back(&levels, &taken).await.unwrap();
    let (again, _) = slot(cache, &levels).await;
    assert!(again < at + Duration::from_millis(500), "{:?}", again - at);
}

async fn the_longest_pause_wins(cache: &dyn Cache) {
    let levels = [level("b:1", 5, 1), level("c:1", 5, 1)];
    slot(cache, &levels).await;
    cache.pause("c:1", Duration::from_secs(20)).await.unwrap();
    cache.pause("c:1", Duration::from_secs(1)).await.unwrap();
    let answer = cache.take(&levels, HORIZON).await.unwrap();
    let Take::Later { wait, level: 1 } = answer else {
        panic!("{answer:?}");
    };
    assert!(wait > Duration::from_secs(18), "{wait:?}");
    let other = cache
        .take(&[level("b:1", 5, 1), level("c:2", 5, 1)], HORIZON)
        .await
        .unwrap();
    assert!(
        matches!(other, Take::Granted { .. }),
        "only that chat is paused: {other:?}"
    );
}

async fn values_are_kept_until_they_end(cache: &dyn Cache) {
    assert_eq!(cache.get("x").await.unwrap(), None);
    cache.set("x", b"one\0", LONG).await.unwrap();
    cache.set("openclaw:task:7", b"two", LONG).await.unwrap();
    assert_eq!(cache.get("x").await.unwrap().unwrap(), b"one\0");
    assert_eq!(cache.get("openclaw:task:7").await.unwrap().unwrap(), b"two");
    cache.set("x", b"three", SHORT).await.unwrap();
    let until = Instant::now() + Duration::from_secs(5);
    while cache.get("x").await.unwrap().is_some() {
        assert!(Instant::now() < until, "the value does not end");
        sleep(Duration::from_millis(5)).await;
    }
}

async fn only_the_first_is_stored_if_absent(cache: &dyn Cache) {
    assert!(cache.set_if_absent("x", b"one", LONG).await.unwrap());
    assert!(!cache.set_if_absent("x", b"two", LONG).await.unwrap());
    assert_eq!(cache.get("x").await.unwrap().unwrap(), b"one");
}

async fn only_the_same_value_is_removed(cache: &dyn Cache) {
    cache.set("x", b"one", LONG).await.unwrap();
    cache.remove_if("x", b"two").await.unwrap();
    assert!(cache.get("x").await.unwrap().is_some());
    cache.remove_if("x", b"one").await.unwrap();
    assert!(cache.get("x").await.unwrap().is_none());
}

async fn live_members_see_each_other(cache: &dyn Cache) {
    let member = |id: &str, note: &str| Member {
        id: id.to_owned(),
        note: note.to_owned(),
    };
    let ids = |mut members: Vec<Member>| {
        members.sort_by(|one, other| one.id.cmp(&other.id));
        members
            .into_iter()
            .map(|member| format!("{}={}", member.id, member.note))
            .collect::<Vec<_>>()
    };
    assert_eq!(ids(cache.beat(&member("w1", "x"), LONG).await.unwrap()), ["w1=x"]);
    assert_eq!(ids(cache.beat(&member("w2", ""), LONG).await.unwrap()), ["w1=x", "w2="]);
    assert_eq!(
        ids(cache.beat(&member("w1", "y"), LONG).await.unwrap()),
        ["w1=y", "w2="]
    );
    cache.leave("w2").await.unwrap();
    cache.beat(&member("w3", ""), SHORT).await.unwrap();
    let until = Instant::now() + Duration::from_secs(5);
    while ids(cache.beat(&member("w1", "y"), LONG).await.unwrap()) != ["w1=y"] {
        assert!(Instant::now() < until, "w3 does not end");
        sleep(Duration::from_millis(5)).await;
    }
}
