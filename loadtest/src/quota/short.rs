//! The promise in short, for the one table of all figures: a backlog on one, two and four workers.

use std::time::Duration;

use super::steady::{BOTS, Counted, counted, least_of, mean_of};
use crate::report::{Report, Row, percent};

const LASTING: Duration = Duration::from_secs(30);

/// Two rows for each number of workers.
pub(crate) async fn rows(report: &mut Report) -> anyhow::Result<()> {
    for workers in [1, 2, 4] {
        let Counted {
            arrivals, from, until, ..
        } = counted(workers, LASTING).await?;
        let under = format!("{BOTS} bots, 24 chats, sends ±10 ms, {} s", LASTING.as_secs());
        // From the first send on: a start is no excuse.
        report.add(Row::violations(
            &format!("quota, workers: {workers}; over a limit in any rolling window"),
            arrivals.violations(0, u64::MAX),
            arrivals.sends(),
            under.clone(),
        ));
        let used = arrivals.used("bot ", from, until);
        report.add(Row::share(
            &format!("quota, workers: {workers}; used by a backlog"),
            mean_of(&used),
            format!("{under}; the worst bot {}", percent(least_of(&used))),
            0.97,
        ));
    }
    Ok(())
}
