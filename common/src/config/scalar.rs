//! Single values from their text: each parser returns the value or the end of the sentence "`text` …".

use std::fmt::Display;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::Duration;

use ipnet::IpNet;

use super::Rate;
use super::section::nearest;

type Parsed<T> = Result<T, String>;

/// Text that says something.
pub(super) fn text(text: &str) -> Parsed<String> {
    if text.trim().is_empty() {
        Err("is empty".to_owned())
    } else {
        Ok(text.to_owned())
    }
}

pub(super) fn boolean(text: &str) -> Parsed<bool> {
    choice(&[("true", true), ("false", false)])(text)
}

/// One word of a few.
pub(super) fn choice<T: Copy>(known: &[(&'static str, T)]) -> impl Fn(&str) -> Parsed<T> {
    move |text| {
        let found = known.iter().find(|(word, _)| *word == text);
        found.map(|(_, value)| *value).ok_or_else(|| {
            let words: Vec<&str> = known.iter().map(|(word, _)| *word).collect();
            match nearest(text, words.iter().copied()) {
                Some(near) => format!("is not known, did you mean `{near}`?"),
                None => format!("is not one of {}", words.join(", ")),
            }
        })
    }
}

/// A whole number inside a range.
pub(super) fn integer<T: FromStr + PartialOrd + Display>(range: RangeInclusive<T>) -> impl Fn(&str) -> Parsed<T> {
    move |text| match text.parse() {
        Ok(number) if range.contains(&number) => Ok(number),
        _ => Err(format!(
            "is not a whole number from {} to {}",
            range.start(),
            range.end()
        )),
    }
}

/// 0 lets the system choose.
pub(super) fn port(text: &str) -> Parsed<u16> {
    text.parse().map_err(|_| "is not a port: 0 to 65535".to_owned())
}

/// The growth of a wait from try to try: below 1 it would shrink.
pub(super) fn multiplier(text: &str) -> Parsed<f64> {
    match text.parse() {
        Ok(number) if (1.0..=1000.0).contains(&number) => Ok(number),
        _ => Err("is not a number from 1 to 1000".to_owned()),
    }
}

pub(super) fn address(text: &str) -> Parsed<IpAddr> {
    text.parse()
        .map_err(|_| "is not an IP address such as 0.0.0.0, 127.0.0.1 or ::".to_owned())
}

/// A network, or one address as the network of itself.
pub(super) fn network(text: &str) -> Parsed<IpNet> {
    let one_address = || text.parse::<IpAddr>().map(IpNet::from);
    let network = text.parse::<IpNet>().or_else(|_| one_address());
    network
        .map(|network| network.trunc())
        .map_err(|_| "is not an address or a network such as 10.0.0.0/8".to_owned())
}

/// An integer with its unit, at least `least`.
pub(super) fn duration(least: Duration) -> impl Fn(&str) -> Parsed<Duration> {
    move |text| {
        let (number, unit) = split_unit(text);
        let unit_ms: u64 = match unit {
            "ms" => 1,
            "s" => 1000,
            "m" => 60 * 1000,
            "h" => 3600 * 1000,
            "d" => 24 * 3600 * 1000,
            "" if !number.is_empty() => {
                return Err(format!(
                    "has no unit: write {number}s, {number}m or another of ms s m h d"
                ));
            }
            _ => return Err("is not a duration: an integer with ms, s, m, h or d, such as 500ms".to_owned()),
        };
        // A century keeps every sum of durations and every `Instant` in range.
        let most_ms = 100 * 365 * 24 * 3600 * 1000;
        let ms = number
            .parse::<u64>()
            .ok()
            .and_then(|number| number.checked_mul(unit_ms))
            .filter(|ms| *ms <= most_ms);
        match ms.map(Duration::from_millis) {
            Some(duration) if duration >= least => Ok(duration),
            Some(_) => Err(format!("is too short: at least {}", show_duration(least))),
            None => Err("is not a duration: an integer with ms, s, m, h or d, such as 500ms".to_owned()),
        }
    }
}

/// A time of day and date, as Unix milliseconds.
pub(super) fn time_ms(text: &str) -> Parsed<i64> {
    let time: Result<jiff::Timestamp, _> = text.parse();
    time.map(jiff::Timestamp::as_millisecond)
        .map_err(|_| "is not a time: write it such as 2026-12-01T00:00:00Z".to_owned())
}

/// A duration as the configuration writes it, in the largest unit that divides it.
pub(super) fn show_duration(duration: Duration) -> String {
    let ms = duration.as_millis();
    let units = [
        (24 * 3600 * 1000, "d"),
        (3600 * 1000, "h"),
        (60 * 1000, "m"),
        (1000, "s"),
    ];
    match units.into_iter().find(|(unit, _)| ms > 0 && ms.is_multiple_of(*unit)) {
        Some((unit, name)) => format!("{}{name}", ms / unit),
        None => format!("{ms}ms"),
    }
}

/// `N/s`, `N/m` or `off`.
pub(super) fn rate(text: &str) -> Parsed<Option<Rate>> {
    if text == "off" {
        return Ok(None);
    }
    let rate = match text.split_once('/') {
        Some((count, "s")) => count.parse().ok().map(Rate::per_second),
        Some((count, "m")) => count.parse().ok().map(Rate::per_minute),
        _ => None,
    };
    match rate {
        Some(rate) if rate.count >= 1 => Ok(Some(rate)),
        _ => Err("is not a rate: N/s, N/m (N from 1) or off".to_owned()),
    }
}

/// A rate where `off` has no meaning of its own.
pub(super) fn some_rate(text: &str) -> Parsed<Rate> {
    rate(text)?.ok_or_else(|| "stands in a list of rates: remove it, or write `off` instead of the list".to_owned())
}

/// A size in bytes inside a range, written with its unit.
pub(super) fn size(range: RangeInclusive<usize>) -> impl Fn(&str) -> Parsed<usize> {
    move |text| {
        let (number, unit) = split_unit(text);
        let unit: usize = match unit {
            "B" => 1,
            "KiB" => 1024,
            "MiB" => 1024 * 1024,
            _ => return Err("is not a size: an integer with B, KiB or MiB, such as 1MiB".to_owned()),
        };
        match number.parse::<usize>().ok().and_then(|number| number.checked_mul(unit)) {
            Some(bytes) if range.contains(&bytes) => Ok(bytes),
            _ => Err(format!(
                "is not from {}B to {}MiB",
                range.start(),
                range.end() / (1024 * 1024)
            )),
        }
    }
}

fn split_unit(text: &str) -> (&str, &str) {
    let end = text
        .find(|character: char| !character.is_ascii_digit())
        .unwrap_or(text.len());
    text.split_at(end)
}

/// Of the paths this service answers itself, and of the characters that a router gives a meaning.
const RESERVED_PATHS: [&str; 3] = ["/readyz", "/webhook", "/v1"];

/// A path that is served beside the webhooks.
pub(super) fn own_path(text: &str) -> Parsed<String> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'/' | b'_' | b'-' | b'.');
    if !text.starts_with('/') || text.len() < 2 || !text.bytes().all(plain) {
        Err("is not a path: `/` and then letters, digits, `_`, `-`, `.` and `/`".to_owned())
    } else if RESERVED_PATHS.iter().any(|reserved| is_below(text, reserved)) {
        Err("is taken by the service itself: choose another path".to_owned())
    } else {
        Ok(text.to_owned())
    }
}

fn is_below(path: &str, parent: &str) -> bool {
    path.strip_prefix(parent)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// A path that events may be pushed to, without a slash at its end: whole segments are compared.
pub(super) fn safe_path(text: &str) -> Parsed<String> {
    match text.strip_prefix('/') {
        None => Err("does not begin with `/`".to_owned()),
        Some(_) if text.contains(['?', '#']) => Err("is more than a path: leave out `?` and `#`".to_owned()),
        Some(rest) if rest.trim_end_matches('/').is_empty() => Ok("/".to_owned()),
        Some(_) => Ok(text.trim_end_matches('/').to_owned()),
    }
}

/// A level, or a list of `target=level` as `tracing` filters have it.
pub(super) fn log_level(text: &str) -> Parsed<String> {
    const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
    for part in text.split(',').map(str::trim) {
        // A bare word that is no level would be taken for a module's name and silence the log.
        if !part.contains(['=', '[']) && !LEVELS.contains(&part) {
            return Err(match nearest(part, LEVELS) {
                Some(near) => format!("is not a log level, did you mean `{near}`?"),
                None => format!("is not a log level: {}, or a list of module=level", LEVELS.join(", ")),
            });
        }
    }
    tracing_subscriber::EnvFilter::builder()
        .parse(text)
        .map(|_| text.to_owned())
        .map_err(|reason| format!("is not a log filter: {reason}"))
}

#[cfg(test)]
mod tests;
