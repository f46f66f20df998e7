//! What a look at another server found: for `openclaw check`, and what a role says of it when it starts.

use std::time::Duration;

use serde::Serialize;

use crate::time;

/// From here on a clock's difference is worth a look: event ages, `send_at` and the hour of a uuid are told by clocks.
const UNEVEN: Duration = Duration::from_secs(30);
/// From here on what depends on time goes wrong.
const WRONG: Duration = Duration::from_secs(5 * 60);

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The server, the bot or the folder.
    pub what: String,
    /// How it is.
    pub result: Verdict,
    /// What was seen, in the server's own words where it has some.
    pub detail: String,
    /// What an operator should do; empty when there is nothing to do.
    pub to_do: String,
}

/// How something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// As it should be.
    Ok,
    /// It works, and is unwise.
    Warning,
    /// It was reached, and will not work like this.
    Wrong,
    /// It lets nobody in: not there, or it refuses who asks.
    Unreachable,
}

impl Finding {
    /// All is well.
    #[must_use]
    pub fn ok(what: impl Into<String>, detail: impl Into<String>) -> Self {
        Self::new(what, Verdict::Ok, detail, "")
    }

    /// Only unwise.
    #[must_use]
    pub fn warning(what: impl Into<String>, detail: impl Into<String>, to_do: impl Into<String>) -> Self {
        Self::new(what, Verdict::Warning, detail, to_do)
    }

    /// Reached, and wrong.
    #[must_use]
    pub fn wrong(what: impl Into<String>, detail: impl Into<String>, to_do: impl Into<String>) -> Self {
        Self::new(what, Verdict::Wrong, detail, to_do)
    }

    /// Not reached.
    #[must_use]
    pub fn unreachable(what: impl Into<String>, detail: impl Into<String>, to_do: impl Into<String>) -> Self {
        Self::new(what, Verdict::Unreachable, detail, to_do)
    }

    /// With a verdict that was reached elsewhere.
    #[must_use]
    pub fn new(what: impl Into<String>, result: Verdict, detail: impl Into<String>, to_do: impl Into<String>) -> Self {
        Self {
            what: what.into(),
            result,
            detail: detail.into(),
            to_do: to_do.into(),
        }
    }

    /// The same as one sentence.
    #[must_use]
    pub fn sentence(&self) -> String {
        match self.to_do.as_str() {
            "" => self.detail.clone(),
            to_do => format!("{}; to do: {to_do}", self.detail),
        }
    }
}

/// When a server's clock was read: between these two moments of ours.
#[derive(Clone, Copy, Debug)]
pub struct Asked {
    before_ms: i64,
}

impl Asked {
    /// Now, before the question is sent.
    #[must_use]
    pub fn now() -> Self {
        Self {
            before_ms: time::now_ms(),
        }
    }

    /// What a server's clock says about it and ours, given the answer just now. `grain` is the least that the clock tells.
    #[must_use]
    pub fn answered(self, what: &str, theirs_ms: i64, grain: Duration) -> Option<Finding> {
        compare(what, self.before_ms, theirs_ms, time::now_ms(), grain)
    }
}

/// A clock that was read between `before` and `after` is only known to differ by what lies outside of that.
fn compare(what: &str, before: i64, theirs: i64, after: i64, grain: Duration) -> Option<Finding> {
    let grain = i64::try_from(grain.as_millis()).unwrap_or(i64::MAX);
    let ahead = theirs.saturating_sub(after);
    let behind = before.saturating_sub(theirs.saturating_add(grain));
    let (by, word) = if ahead >= behind {
        (ahead, "ahead of")
    } else {
        (behind, "behind")
    };
    let by = Duration::from_millis(u64::try_from(by).unwrap_or(0));
    if by <= UNEVEN {
        return None;
    }
    let result = if by > WRONG { Verdict::Wrong } else { Verdict::Warning };
    let detail = format!("its clock is {} s {word} this machine's", by.as_secs());
    let to_do = "set both machines' clocks by NTP (`timedatectl`, `chronyc tracking`)";
    Some(Finding::new(what, result, detail, to_do))
}

/// Unix milliseconds of an HTTP `Date`.
#[must_use]
pub fn http_date_ms(date: &str) -> Option<i64> {
    let parsed = jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(date).ok()?;
    Some(parsed.as_millisecond())
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_800_000_000_000;
    const SECOND: Duration = Duration::from_secs(1);

    fn skew(theirs: i64, took: i64) -> Option<Verdict> {
        compare("redis", NOW, theirs, NOW + took, SECOND).map(|finding| finding.result)
    }

    #[test]
    fn a_clock_is_wrong_by_what_the_answers_way_does_not_explain() {
        assert_eq!(skew(NOW, 100), None);
        assert_eq!(skew(NOW + 29_000, 0), None);
        assert_eq!(skew(NOW - 30_900, 0), None);
        assert_eq!(skew(NOW + 31_000, 0), Some(Verdict::Warning));
        assert_eq!(skew(NOW - 33_000, 0), Some(Verdict::Warning));
        assert_eq!(skew(NOW + 301_000, 0), Some(Verdict::Wrong));
        assert_eq!(skew(NOW - 303_000, 0), Some(Verdict::Wrong));
        assert_eq!(
            skew(NOW + 35_000, 10_000),
            None,
            "it may have been read at the answer's end"
        );
    }

    #[test]
    fn an_http_date_is_read() {
        assert_eq!(http_date_ms("Thu, 01 Jan 1970 00:00:10 GMT"), Some(10_000));
        assert_eq!(http_date_ms("soon"), None);
    }
}
