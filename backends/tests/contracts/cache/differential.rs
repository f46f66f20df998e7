//! The script in Redis and the algorithm in Rust are the same: both get the same steps at the same times.

use std::cell::RefCell;
use std::time::Duration;

use openclaw_common::cache::Level;
use openclaw_common::quota::{HORIZON, JITTER, LATE_GUARD, Offer, QUIET, SlidingWindowLog};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use redis::Script;
use testkit::{RedisProcess, Servers};

use super::level;
use super::server;

/// The scripts as shipped, except that the time is the test's: the shipped ones get it from `now.lua`.
const CLOCK: &str = "local now = tonumber(table.remove(ARGV))\n";

pub(super) struct Scripts {
    connection: redis::Connection,
    take: Script,
    hold: Script,
    pause: Script,
}

impl Scripts {
    pub(super) fn new(server: &RedisProcess) -> Self {
        let script = |text: &str| Script::new(&format!("{CLOCK}{text}"));
        Self {
            connection: server::admin(server),
            take: script(concat!(
                include_str!("../../../src/caches/redis/born.lua"),
                include_str!("../../../src/caches/redis/take.lua")
            )),
            hold: script(include_str!("../../../src/caches/redis/hold.lua")),
            pause: script(include_str!("../../../src/caches/redis/pause.lua")),
        }
    }

    pub(super) fn flush(&mut self) {
        redis::cmd("FLUSHALL").exec(&mut self.connection).unwrap();
    }

    pub(super) fn take(
        &mut self,
        now: u64,
        levels: &[Level],
        run: &str,
        nonce: u64,
        late: Duration,
    ) -> (bool, u64, redis::Value) {
        let mut call = self.take.prepare_invoke();
        call.key("born")
            .key("late")
            .arg(run)
            .arg(nonce)
            .arg(HORIZON.as_micros() as u64);
        call.arg(QUIET.as_micros() as u64)
            .arg(late.as_micros() as u64)
            .arg(JITTER.as_micros() as u64);
        call.arg(LATE_GUARD.as_micros() as u64);
        for level in levels {
            call.key(log(level)).key(format!("{}:pause", level.key));
            call.arg(level.count).arg(level.window.as_micros() as u64);
        }
        call.arg(now).invoke(&mut self.connection).unwrap()
    }

    pub(super) fn give_back(&mut self, levels: &[Level], member: &str) {
        for level in levels {
            let mut command = redis::cmd("ZREM");
            command.arg(log(level)).arg(member).exec(&mut self.connection).unwrap();
        }
    }

    pub(super) fn hold(&mut self, now: u64, levels: &[Level], member: &str) {
        let mut call = self.hold.prepare_invoke();
        call.key("late");
        for level in levels {
            call.key(log(level));
        }
        call.arg(member)
            .arg(LATE_GUARD.as_micros() as u64)
            .arg(JITTER.as_micros() as u64);
        call.arg(now).invoke::<i64>(&mut self.connection).unwrap();
    }

    pub(super) fn pause(&mut self, now: u64, key: &str, pause: u64) {
        let mut call = self.pause.prepare_invoke();
        call.key(format!("{key}:pause")).arg(pause).arg(now);
        call.invoke::<i64>(&mut self.connection).unwrap();
    }
}

fn log(level: &Level) -> String {
    format!("{}:{}", level.key, level.window.as_millis())
}

#[derive(Clone, Debug)]
enum Step {
    Pass(u64),
    Take { first: usize, second: usize, times: u32 },
    GiveBack(usize),
    Hold(usize),
    Pause { level: usize, pause: u64 },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (0..700_000u64).prop_map(Step::Pass),
        6 => (0..5usize, 0..5usize, 1..30u32).prop_map(|(first, second, times)| Step::Take { first, second, times }),
        1 => any::<usize>().prop_map(Step::GiveBack),
        2 => any::<usize>().prop_map(Step::Hold),
        1 => (0..5usize, 0..1_500_000u64).prop_map(|(level, pause)| Step::Pause { level, pause }),
    ]
}

#[tokio::test]
async fn the_script_and_the_board_give_the_same_answers() {
    let server = Servers::redis().await;
    let scripts = RefCell::new(Scripts::new(&server));
    let all = [
        level("b:1", 5, 1),
        level("c:1", 3, 1),
        level("acc:x", 55, 1),
        level("a:1", 7, 2),
        level("z", 0, 1),
    ];
    let config = Config {
        cases: 100,
        failure_persistence: None,
        ..Config::default()
    };
    let steps = prop::collection::vec(step(), 1..60);
    TestRunner::new(config)
        .run(&steps, |steps| {
            let mut scripts = scripts.borrow_mut();
            scripts.flush();
            // Of the order of a real server's clock, so that the numbers have as many digits.
            let mut now = 1_800_000_000_000_000u64;
            let mut log = SlidingWindowLog::new(now);
            scripts.take(now, &all[..1], "run", 0, LATE_GUARD);
            let mut held: Vec<(Vec<Level>, u64, u64, String)> = Vec::new();
            for (number, step) in steps.into_iter().enumerate() {
                match step {
                    Step::Pass(time) => now += time,
                    Step::Take { first, second, times } => {
                        let levels = [all[first].clone(), all[second].clone()];
                        for time in 0..times {
                            let nonce = (number as u64) * 1_000 + u64::from(time) + 1;
                            let (granted, wait, rest) = scripts.take(now, &levels, "run", nonce, LATE_GUARD);
                            match log.take(now, &levels, HORIZON) {
                                Offer::Slot { at, id } => {
                                    prop_assert!(
                                        granted,
                                        "the log granted {at}, the script said later {wait} {rest:?}"
                                    );
                                    prop_assert_eq!(now + wait, at);
                                    held.push((levels.to_vec(), at, id, redis::from_redis_value(rest).unwrap()));
                                }
                                Offer::Later { again, level } => {
                                    prop_assert!(!granted, "the script granted {wait}, the log said later");
                                    let script_level: usize = redis::from_redis_value(rest).unwrap();
                                    prop_assert_eq!((now + wait, script_level), (again, level));
                                    break;
                                }
                            }
                        }
                    }
                    Step::GiveBack(which) if !held.is_empty() => {
                        let (levels, at, id, member) = held.swap_remove(which % held.len());
                        log.give_back(&levels, at, id);
                        scripts.give_back(&levels, &member);
                    }
                    // Answered: the slot counts from then on. Once it no longer counts it is gone here and there, sooner or later.
                    Step::Hold(which) if !held.is_empty() => {
                        let (levels, at, id, member) = held.swap_remove(which % held.len());
                        if (at..at + 1_000_000).contains(&now) {
                            log.hold(now, &levels, at, id);
                            scripts.hold(now, &levels, &member);
                        }
                    }
                    Step::GiveBack(_) | Step::Hold(_) => {}
                    Step::Pause { level, pause } => {
                        log.pause(&all[level].key, now + pause);
                        scripts.pause(now, &all[level].key, pause);
                    }
                }
            }
            Ok(())
        })
        .unwrap();
}

#[tokio::test]
async fn another_server_process_is_silent_first() {
    let server = Servers::redis().await;
    let mut scripts = Scripts::new(&server);
    let levels = [level("b:1", 5, 1)];
    let now = 1_800_000_000_000_000u64;
    assert!(!scripts.take(now, &levels, "one", 1, LATE_GUARD).0);
    assert!(scripts.take(now + 1_700_000, &levels, "one", 2, LATE_GUARD).0);
    let (granted, wait, _) = scripts.take(now + 1_700_000, &levels, "two", 3, LATE_GUARD);
    assert!(
        !granted && wait > QUIET.as_micros() as u64,
        "granted {granted}, wait {wait}"
    );
    assert!(scripts.take(now + 3_400_000, &levels, "two", 4, LATE_GUARD).0);
}

#[tokio::test]
async fn a_clock_that_is_set_back_costs_a_quiet_time_and_not_the_difference() {
    let server = Servers::redis().await;
    for count in [5, 60] {
        let mut scripts = Scripts::new(&server);
        scripts.flush();
        let levels = [level("b:1", count, 1)];
        let now = 1_800_000_000_000_000u64;
        scripts.take(now, &levels, "run", 0, LATE_GUARD);
        for nonce in 0..u64::from(count) {
            assert!(scripts.take(now + 7_200_000_000, &levels, "run", nonce, LATE_GUARD).0);
        }
        let back = now + 3_600_000_000;
        let (granted, wait, _) = scripts.take(back, &levels, "run", 100, LATE_GUARD);
        assert!(
            !granted && wait > 1_000_000 && wait < 2_000_000,
            "granted {granted}, wait {wait}"
        );
        assert!(scripts.take(back + 1_700_000, &levels, "run", 101, LATE_GUARD).0);
    }
}
