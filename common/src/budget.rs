//! The monthly calls of a tenant: which month it is, how full the budget is, and what is given up when.
//!
//! A month is the calendar month in **UTC+8**, where Feishu bills, and its clock is the database's: a machine whose clock is
//! off counts into the same month as all others.

use jiff::civil::{DateTime, date};
use jiff::tz::{Offset, offset};
use jiff::{Timestamp, ToSpan as _};

use crate::config::{Budget, SendKind};

/// Where Feishu bills.
const ZONE: Offset = offset(8);

/// Per cent of a budget at which operators are told, once each a month.
pub const WARNINGS: [u32; 3] = [50, 80, 95];

/// From here on a budget is given up piece by piece, per cent.
const SCARCE: u64 = 80;

/// Nothing is foretold from less than this part of a month: one busy minute would become a year's bill.
const SHORTEST_BASIS_MS: i64 = 6 * 3600 * 1000;

/// A calendar month.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Month {
    year: i16,
    month: i8,
}

impl Month {
    /// The month of a time, Unix milliseconds.
    #[must_use]
    pub fn at(now_ms: i64) -> Self {
        let now = civil(now_ms);
        Self {
            year: now.year(),
            month: now.month(),
        }
    }

    /// As stored: 202611.
    #[must_use]
    pub fn number(self) -> i64 {
        i64::from(self.year) * 100 + i64::from(self.month)
    }

    /// Its first instant and the next month's, Unix milliseconds.
    fn bounds_ms(self) -> (i64, i64) {
        let first = date(self.year, self.month, 1).at(0, 0, 0, 0);
        let next = first.saturating_add(1.month());
        (unix_ms(first), unix_ms(next))
    }
}

impl std::fmt::Display for Month {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{:04}-{:02}", self.year, self.month)
    }
}

fn civil(now_ms: i64) -> DateTime {
    // Out of range is some ten thousand years away: then any month does.
    ZONE.to_datetime(Timestamp::from_millisecond(now_ms).unwrap_or(Timestamp::MAX))
}

fn unix_ms(time: DateTime) -> i64 {
    ZONE.to_timestamp(time).unwrap_or(Timestamp::MAX).as_millisecond()
}

/// Milliseconds until the next month begins.
#[must_use]
pub fn rest_of_month_ms(now_ms: i64) -> i64 {
    Month::at(now_ms).bounds_ms().1 - now_ms
}

/// Calls at the month's end if they go on as they have since its beginning.
#[must_use]
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a forecast, and never negative"
)]
pub fn forecast(used: u64, now_ms: i64) -> u64 {
    let (first, next) = Month::at(now_ms).bounds_ms();
    let elapsed = (now_ms - first).clamp(SHORTEST_BASIS_MS, next - first);
    (used as f64 * (next - first) as f64 / elapsed as f64).round() as u64
}

/// How full a budget is, per cent, rounded down.
#[must_use]
pub fn percent(used: u64, calls: u64) -> u64 {
    let percent = u128::from(used) * 100 / u128::from(calls.max(1));
    u64::try_from(percent).unwrap_or(u64::MAX)
}

/// From how many calls on sends of this kind wait: what `degrade` names first at 90 % of the budget, what it names second,
/// or not at all, at 100 %.
#[must_use]
pub fn gives_up_at(budget: &Budget, kind: SendKind) -> Option<u64> {
    let calls = budget.calls?;
    let place = budget.degrade.iter().position(|given_up| *given_up == kind);
    // Evenly from there to the end, and what is named last has all of it: an unspent rest would serve nobody.
    let steps = SendKind::ALL.len() as u64;
    let step = place.map_or(steps, |place| (place as u64 + 1).min(steps));
    let at = SCARCE + (100 - SCARCE) * step / steps;
    let exact = u128::from(calls) * u128::from(at) / 100;
    // A budget of a few calls still has its first one.
    Some(u64::try_from(exact).unwrap_or(u64::MAX).max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(text: &str) -> i64 {
        text.parse::<Timestamp>().map_or(0, Timestamp::as_millisecond)
    }

    fn budget(calls: u64, degrade: &[SendKind]) -> Budget {
        Budget {
            calls: Some(calls),
            degrade: degrade.to_vec(),
        }
    }

    #[test]
    fn a_month_begins_at_midnight_in_utc_plus_8() {
        let (before, after) = (ms("2026-10-31T15:59:59.999Z"), ms("2026-10-31T16:00:00Z"));
        assert_eq!(
            (Month::at(before).number(), Month::at(after).number()),
            (202_610, 202_611)
        );
        assert_eq!(Month::at(after).to_string(), "2026-11");
        assert_eq!(rest_of_month_ms(before), 1);
        assert_eq!(rest_of_month_ms(after), 30 * 24 * 3600 * 1000);
        assert_eq!(Month::at(ms("2026-12-31T16:00:00Z")).number(), 202_701);
    }

    #[test]
    fn a_forecast_goes_on_as_the_month_has_begun() {
        assert_eq!(
            forecast(1000, ms("2026-11-15T16:00:00Z")),
            2000,
            "half of November is over"
        );
        assert_eq!(forecast(1000, ms("2026-11-30T15:59:59.999Z")), 1000, "all of it");
        // In the first six hours as if they were over.
        assert_eq!(forecast(10, ms("2026-10-31T16:00:01Z")), 10 * 30 * 4);
        assert_eq!(forecast(0, ms("2026-11-15T16:00:00Z")), 0);
    }

    #[test]
    fn kinds_are_given_up_in_order_and_everything_at_the_end() {
        use SendKind::{Notify, Reply};
        let at =
            |degrade: &[SendKind]| [Notify, Reply].map(|kind| gives_up_at(&budget(1000, degrade), kind).unwrap_or(0));
        assert_eq!(at(&[Notify, Reply]), [900, 1000]);
        assert_eq!(at(&[Reply, Notify]), [1000, 900]);
        assert_eq!(at(&[Notify]), [900, 1000]);
        assert_eq!(at(&[]), [1000, 1000]);
        assert_eq!(gives_up_at(&Budget::default(), Notify), None, "off");
        assert_eq!(gives_up_at(&budget(1, &[Notify]), Notify), Some(1));
        assert_eq!(gives_up_at(&budget(u64::MAX, &[]), Reply), Some(u64::MAX));
    }

    #[test]
    fn a_percentage_never_overflows_or_divides_by_nothing() {
        assert_eq!((percent(949, 1000), percent(950, 1000)), (94, 95));
        assert_eq!((percent(u64::MAX, u64::MAX), percent(3, 0)), (100, 300));
    }
}
