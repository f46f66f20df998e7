use super::*;

#[test]
fn durations_need_a_unit_and_keep_their_bounds() {
    let parse = duration(Duration::from_secs(1));
    for (text, ms) in [
        ("1000ms", 1000),
        ("5s", 5000),
        ("30m", 1_800_000),
        ("24h", 86_400_000),
        ("30d", 2_592_000_000),
    ] {
        assert_eq!(parse(text), Ok(Duration::from_millis(ms)), "{text}");
    }
    for text in [
        "",
        "5",
        "s",
        "1.5s",
        "-1s",
        "5 s",
        "5sec",
        "999ms",
        "0s",
        "40000d",
        "99999999999999999999s",
        "５s",
    ] {
        assert!(parse(text).is_err(), "{text}");
    }
    assert_eq!(
        parse("5"),
        Err("has no unit: write 5s, 5m or another of ms s m h d".to_owned())
    );
    assert_eq!(parse("10ms"), Err("is too short: at least 1s".to_owned()));
}

#[test]
fn a_shown_duration_reads_back() {
    for ms in [1, 500, 1000, 90_000, 600_000, 86_400_000, 2_592_000_000] {
        let duration_ms = Duration::from_millis(ms);
        assert_eq!(duration(Duration::ZERO)(&show_duration(duration_ms)), Ok(duration_ms));
    }
}

#[test]
fn rates_are_n_per_second_n_per_minute_or_off() {
    assert_eq!(rate("5/s"), Ok(Some(Rate::per_second(5))));
    assert_eq!(rate("1000/m"), Ok(Some(Rate::per_minute(1000))));
    assert_eq!(rate("off"), Ok(None));
    for text in [
        "0/s",
        "5",
        "5/h",
        "/s",
        "-5/s",
        "5 /s",
        "Off",
        "none",
        "5/s/s",
        "4294967296/s",
    ] {
        assert!(rate(text).is_err(), "{text}");
    }
    assert!(some_rate("off").is_err());
}

#[test]
fn sizes_need_a_unit_and_keep_their_bounds() {
    let parse = size(1..=16 * 1024 * 1024);
    assert_eq!(parse("512B"), Ok(512));
    assert_eq!(parse("64KiB"), Ok(65_536));
    assert_eq!(parse("16MiB"), Ok(16 * 1024 * 1024));
    for text in [
        "0B",
        "17MiB",
        "1",
        "1MB",
        "1.5MiB",
        "1 MiB",
        "",
        "99999999999999999999B",
    ] {
        assert!(parse(text).is_err(), "{text}");
    }
}

#[test]
fn networks_may_be_single_addresses_and_lose_their_host_bits() {
    let networks: Vec<_> = ["10.1.2.3/8", "192.0.2.7", "2001:db8::1"]
        .iter()
        .map(|it| network(it))
        .collect();
    let shown: Vec<_> = networks.into_iter().flatten().map(|it| it.to_string()).collect();
    assert_eq!(shown, ["10.0.0.0/8", "192.0.2.7/32", "2001:db8::1/128"]);
    assert!(network("10.0.0.0/33").is_err() && network("localhost").is_err());
}

#[test]
fn paths_of_the_service_itself_are_refused() {
    assert_eq!(own_path("/healthz"), Ok("/healthz".to_owned()));
    assert_eq!(own_path("/webhooks"), Ok("/webhooks".to_owned()));
    for text in [
        "healthz",
        "/",
        "/readyz",
        "/webhook/a",
        "/v1/messages",
        "/{bot}",
        "/a b",
        "/*x",
    ] {
        assert!(own_path(text).is_err(), "{text}");
    }
    assert_eq!(safe_path("/webhook/"), Ok("/webhook".to_owned()));
    assert_eq!(safe_path("//"), Ok("/".to_owned()));
    assert!(safe_path("webhook").is_err());
}

#[test]
fn log_levels_and_filters_are_told_from_slips() {
    for text in ["info", "off", "warn,openclaw_worker=debug", "lapin=error,info"] {
        assert_eq!(log_level(text), Ok(text.to_owned()));
    }
    for text in ["inof", "information", "", "openclaw=loud", "INFO"] {
        assert!(log_level(text).is_err(), "{text}");
    }
}
