use openclaw_sim::rolling::{Rolling, SECOND_US, max_in_any_window};

#[test]
fn a_call_exactly_one_window_later_is_in_the_next_window() {
    let times = [0, 1, 2, 3, 4, SECOND_US];
    assert_eq!(max_in_any_window(times, SECOND_US), 5);
    assert_eq!(max_in_any_window([0, 1, 2, 3, 4, SECOND_US - 1], SECOND_US), 6);
}

#[test]
fn a_burst_across_two_calendar_seconds_is_seen() {
    let times = (0..5).map(|n| 900_000 + n).chain((0..4).map(|n| 1_100_000 + n));
    assert_eq!(max_in_any_window(times, SECOND_US), 9);
}

#[test]
fn the_running_maximum_equals_counting_every_window() {
    let mut state = 12345_u64;
    let mut times: Vec<u64> = (0..2000)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 33) % 60_000_000
        })
        .collect();
    times.sort_unstable();
    let exhaustive = times
        .iter()
        .map(|start| {
            times
                .iter()
                .filter(|time| (*start..start + SECOND_US).contains(*time))
                .count()
        })
        .max();
    assert_eq!(Some(max_in_any_window(times.iter().copied(), SECOND_US)), exhaustive);
    let mut rolling = Rolling::default();
    for time in &times {
        rolling.record(*time, SECOND_US);
    }
    assert_eq!(Some(rolling.max()), exhaustive);
}
