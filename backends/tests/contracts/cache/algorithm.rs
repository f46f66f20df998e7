//! The slot algorithm as a function of time.

use std::time::Duration;

use openclaw_common::cache::Level;
use openclaw_common::quota::{HORIZON, JITTER, LATE_GUARD, Offer, SlidingWindowLog};
use proptest::prelude::*;

use super::level;

/// A process asks the cache for nothing that its own log rules out: it is told when to ask, and by which level.
#[test]
fn what_a_log_rules_out_by_itself_is_known_without_taking_anything() {
    const NOW: u64 = 1_000_000_000;
    let levels = [level("b:1", 5, 1), level("c:1", 2, 1)];
    let mut log = SlidingWindowLog::new(0);
    assert_eq!(log.closed(NOW, &levels, HORIZON), None);
    for _ in 0..2 {
        assert!(matches!(log.take(NOW, &levels, HORIZON), Offer::Slot { at: NOW, .. }));
    }
    let opens = NOW + 1_025_000;
    let again = opens - HORIZON.as_micros() as u64 / 2;
    assert_eq!(log.closed(NOW, &levels, HORIZON), Some((again, 1)), "the chat is full");
    // As often as anybody asks, and as the log itself answers.
    assert_eq!(log.closed(NOW, &levels, HORIZON), Some((again, 1)));
    assert_eq!(log.take(NOW, &levels, HORIZON), Offer::Later { again, level: 1 });
    assert_eq!(
        log.closed(NOW, &levels[..1], HORIZON),
        None,
        "the bot has room for its other chats"
    );
    assert_eq!(
        log.closed(again, &levels, HORIZON),
        None,
        "a slot lies within the horizon"
    );
    log.pause("b:1", opens + 1_000_000);
    assert!(
        log.closed(again, &levels, HORIZON)
            .is_some_and(|(at, level)| at > opens && level == 0)
    );
}

/// One thing that happens to a log.
#[derive(Clone, Debug)]
enum Step {
    /// Time passes, microseconds.
    Pass(u64),
    /// A worker takes some slots for one of the sends below, and then starts this much after each slot, the send travelling
    /// with this much delay. Workers that are later than the guard do not send: their clocks jumped.
    Take {
        send: usize,
        times: u32,
        late: u64,
        delay: u64,
    },
    /// One of the reserved slots comes back unused.
    GiveBack(usize),
    /// One of the levels is paused, microseconds.
    Pause { level: usize, pause: u64 },
}

fn step() -> impl Strategy<Value = Step> {
    let late = prop_oneof![4 => 0..=15_000u64, 1 => 15_001..5_000_000u64];
    prop_oneof![
        4 => (0..400_000u64).prop_map(Step::Pass),
        1 => (0..3_000_000u64).prop_map(Step::Pass),
        8 => (0..6usize, 1..80u32, late, 0..=10_000u64)
            .prop_map(|(send, times, late, delay)| Step::Take { send, times, late, delay }),
        2 => any::<usize>().prop_map(Step::GiveBack),
        1 => (0..8usize, 0..2_000_000u64).prop_map(|(level, pause)| Step::Pause { level, pause }),
    ]
}

/// Two bots, a chat of both, chats of their own, an account of both with a large limit, an app with two windows.
fn levels() -> [Level; 8] {
    [
        level("b:1", 5, 1),
        level("b:2", 3, 1),
        level("c:shared", 5, 1),
        level("c:1", 2, 1),
        level("c:2", 1, 1),
        level("acc:x", 60, 1),
        level("a:1", 50, 1),
        level("a:1", 90, 60),
    ]
}

fn sends() -> [Vec<usize>; 6] {
    [
        vec![0, 2],
        vec![0, 3],
        vec![1, 2],
        vec![1, 4, 5],
        vec![5],
        vec![6, 7, 5],
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_window_of_any_level_holds_more_than_its_limit(
        steps in prop::collection::vec(step(), 1..150),
        horizon in prop_oneof![Just(0u64), Just(300_000), 0..1_000_000u64],
    ) {
        let all = levels();
        let horizon = Duration::from_micros(horizon);
        let mut log = SlidingWindowLog::new(0);
        let mut now = 1_000_000_000u64;
        let mut arrived: Vec<Vec<u64>> = vec![Vec::new(); all.len()];
        let mut reserved: Vec<(usize, u64, u64, u64)> = Vec::new();
        let chosen = |send: usize| sends()[send].iter().map(|index| all[*index].clone()).collect::<Vec<_>>();
        for step in steps {
            match step {
                Step::Pass(time) => now += time,
                Step::Take { send, times, late, delay } => {
                    for _ in 0..times {
                        let Offer::Slot { at, id } = log.take(now, &chosen(send), horizon) else { break };
                        prop_assert!(at >= now && at <= now + horizon.as_micros() as u64);
                        if Duration::from_micros(late) <= LATE_GUARD && Duration::from_micros(delay) <= JITTER {
                            reserved.push((send, at, id, at + late + delay));
                        }
                    }
                }
                Step::GiveBack(which) if !reserved.is_empty() => {
                    let (send, at, id, _) = reserved[which % reserved.len()];
                    // What is given back is not sent.
                    log.give_back(&chosen(send), at, id);
                    reserved.swap_remove(which % reserved.len());
                }
                Step::GiveBack(_) => {}
                Step::Pause { level, pause } => log.pause(&all[level].key, now + pause),
            }
        }
        for (send, _, _, arrival) in reserved {
            for index in &sends()[send] {
                arrived[*index].push(arrival);
            }
        }
        for (level, mut times) in all.iter().zip(arrived) {
            times.sort_unstable();
            let window = level.window.as_micros() as u64;
            for run in times.windows(level.count as usize + 1) {
                prop_assert!(run[run.len() - 1] - run[0] >= window, "{} in {:?}: {:?}", level.key, level.window, run);
            }
        }
    }

    #[test]
    fn a_pause_is_kept(pause in 1..5_000_000u64, count in 1..100u32) {
        let mut log = SlidingWindowLog::new(0);
        let now = 1_000_000_000;
        log.pause("b:1", now + pause);
        match log.take(now, &[level("b:1", count, 1)], HORIZON) {
            Offer::Slot { at, .. } => prop_assert_eq!(at, now + pause),
            Offer::Later { again, level } => {
                prop_assert!(again < now + pause && level == 0);
                prop_assert!(pause > HORIZON.as_micros() as u64);
            }
        }
    }
}

#[test]
fn a_backlog_uses_nearly_all_of_any_limit() {
    let cases = [
        (1, 1),
        (5, 1),
        (50, 1),
        (51, 1),
        (200, 1),
        (10_000, 1),
        (20, 60),
        (1_000, 60),
    ];
    for (count, seconds) in cases {
        let levels = [level("b:1", count, seconds)];
        let mut log = SlidingWindowLog::new(0);
        let begin = 1_000_000_000u64;
        let end = begin + 20 * seconds * 1_000_000;
        let (mut now, mut sent) = (begin, 0u64);
        while now < end {
            match log.take(now, &levels, HORIZON) {
                Offer::Slot { at, .. } => sent += u64::from(at < end),
                Offer::Later { again, .. } => now = again,
            }
        }
        let allowed = u64::from(count) * 20;
        // The first burst is for free: it needs no window before it.
        let used = (sent - u64::from(count)) as f64 / (allowed - u64::from(count)) as f64;
        assert!(used >= 0.97, "{count} in {seconds} s: {used:.4}");
    }
}

#[test]
fn a_large_limit_lets_a_burst_through_at_once() {
    let mut log = SlidingWindowLog::new(0);
    for _ in 0..1_000 {
        let offer = log.take(1_000_000_000, &[level("a:1", 1_000, 60)], HORIZON);
        assert!(matches!(offer, Offer::Slot { at: 1_000_000_000, .. }), "{offer:?}");
    }
    let offer = log.take(1_000_000_000, &[level("a:1", 1_000, 60)], HORIZON);
    assert!(matches!(offer, Offer::Later { .. }), "{offer:?}");
}

#[test]
fn idle_levels_are_forgotten() {
    let mut log = SlidingWindowLog::new(0);
    let mut now = 1_000_000_000;
    for chat in 0..10_000 {
        now += 10_000;
        log.take(now, &[level(&format!("c:{chat}"), 5, 1)], HORIZON);
    }
    assert!(log.len() < 400, "{} levels held, 100 were used a second", log.len());
}
