//! The send limits under every disturbance: violations and use, judged by when sends arrive at the platform.
//!
//! | file | measures |
//! |---|---|
//! | `steady` | eight bots, one chat of all of them, sixteen private chats, four workers |
//! | `disturbed` | Redis gone and back, a worker frozen, a long way to Redis |
//! | `rivals` | the token bucket and the sliding log that people write, beside ours |
//! | `pool` | three bots behind one name |
//! | `neighbour` | a quiet bot beside one with 50,000 waiting messages |
//! | `short` | the promise in short, for docs/performance.md |
//!
//! | file | helps |
//! |---|---|
//! | `stage` | a deployment whose sends travel for an uneven time, and demand that never ends |
//! | `arrivals` | the judge |
//!
//! Each scenario writes its own rows into docs/quota.md, so they may be run one by one.

mod arrivals;
mod disturbed;
mod neighbour;
mod pool;
mod rivals;
pub(crate) mod short;
mod stage;
mod steady;

use clap::ValueEnum;

use crate::machine;
use crate::report::{self, Report, say};

/// A shorter run is a trial: its figures are printed and not published.
const PUBLISHED: f64 = 5.0;

#[derive(Debug, clap::Args)]
pub(crate) struct Quota {
    /// How long the steady run lasts; from 5 on the figures and plots go to docs/. Under 5 the others are shortened alike
    #[arg(long, default_value_t = PUBLISHED)]
    minutes: f64,
    /// Only these, in this order
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Scenario>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Scenario {
    Steady,
    Disturbed,
    Rivals,
    Pool,
    Neighbour,
}

/// How long to measure, and whether to publish.
#[derive(Clone, Copy, Debug)]
struct Extent {
    minutes: f64,
}

impl Extent {
    /// Full length in a run that is published, else a part of it, at least a quarter.
    fn seconds(self, full: f64) -> f64 {
        full * (self.minutes / PUBLISHED).clamp(0.25, 1.0)
    }

    fn published(self) -> bool {
        self.minutes >= PUBLISHED
    }
}

impl Quota {
    /// False when a goal was missed.
    pub(crate) async fn run(self) -> anyhow::Result<bool> {
        let extent = Extent { minutes: self.minutes };
        let all = Scenario::value_variants().to_vec();
        let mut reached = true;
        for scenario in if self.only.is_empty() { all } else { self.only } {
            let mut report = Report::default();
            match scenario {
                Scenario::Steady => steady::run(extent, &mut report).await?,
                Scenario::Disturbed => disturbed::run(extent, &mut report).await?,
                Scenario::Rivals => rivals::run(extent, &mut report).await?,
                Scenario::Pool => pool::run(extent, &mut report).await?,
                Scenario::Neighbour => neighbour::run(extent, &mut report).await?,
            }
            reached &= report.reached();
            if extent.published() {
                let page = report::page("quota.md");
                report.write(&page, "quota figures")?;
                report::replace(&page, "quota machine", &machine::described())?;
            } else {
                say("a trial: docs/quota.md is left as it is");
            }
        }
        Ok(reached)
    }
}
