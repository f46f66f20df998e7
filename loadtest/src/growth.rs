//! The cost of growth: the same load on more bots, more workers, larger bodies and a full database.
//!
//! The load is as much as is finished, so on a machine that is always busy a rate is the whole cost of an event, servers
//! included. What is allowed: anything that grows with the logarithm of a size (maps, trees, sorted sets) costs at most twice
//! as much over these ranges, so half the rate is the bound; what grows with the size itself would be at a hundredth for bots
//! and rows, and far below the bound for workers. Bodies cost by the byte, so their bound is the same bytes a second.

mod rows;

use std::time::Duration;

use world::{Kind, World};

use crate::load::Shape;
use crate::plot::{Axis, Chart, Line};
use crate::report::{self, Report, Row, whole};
use crate::speed::{self, BOTS, Found, Plan};

/// The median of these counts: one turn alone has been a third off.
const TURNS: usize = 3;
const LASTING: Duration = Duration::from_secs(4);
/// Of the rate at a dimension's first size.
const HALF: f64 = 0.5;
/// Above what a second can use up; fewer of large bodies, which are all made beforehand.
const EVENTS_A_SECOND: u64 = 9_000;
const LARGE_A_SECOND: u64 = 3_000;
const KIB: usize = 1_024;

#[derive(Debug, clap::Args)]
pub(crate) struct Growth {
    /// What grows; everything when none is named
    dimensions: Vec<Dimension>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Dimension {
    Workers,
    Bodies,
    Rows,
    // Last: the broker is busy for a while with getting rid of 2,000 queues.
    Bots,
}

impl Growth {
    pub(crate) async fn run(self) -> anyhow::Result<bool> {
        let all = <Dimension as clap::ValueEnum>::value_variants();
        let mut report = Report::default();
        for dimension in if self.dimensions.is_empty() {
            all
        } else {
            &self.dimensions
        } {
            report::say(&format!("-- {dimension:?}"));
            let mut cells = Cells::new(&mut report);
            match dimension {
                Dimension::Bots => {
                    for bots in [20, 200, 2_000] {
                        cells.add(
                            &format!("bots: {}", whole(bots as f64)),
                            1.0,
                            measured(bots, 1, KIB).await?,
                        );
                    }
                }
                Dimension::Workers => {
                    for workers in [1, 2, 4] {
                        cells.add(&format!("workers: {workers}"), 1.0, measured(BOTS, workers, KIB).await?);
                    }
                }
                Dimension::Bodies => {
                    for kib in [1, 32] {
                        let found = measured(BOTS, 1, kib * KIB).await?;
                        cells.add(&format!("bodies: {kib} KiB"), kib as f64, found);
                    }
                }
                Dimension::Rows => rows::measure(&mut cells).await?,
            }
        }
        let page = report::page("performance.md");
        report.write(&page, "growth")?;
        draw(&report::cells(&page, "growth")?)?;
        Ok(report.reached())
    }
}

/// The sizes of one dimension, each beside the first.
struct Cells<'a> {
    report: &'a mut Report,
    first: Option<f64>,
}

impl<'a> Cells<'a> {
    fn new(report: &'a mut Report) -> Self {
        Self { report, first: None }
    }

    /// `times`: how much more an event is than one of the first size.
    fn add(&mut self, what: &str, times: f64, found: Found) {
        let first = *self.first.get_or_insert(found.rate());
        let goal = if times > 1.0 { first / times } else { first * HALF };
        self.report.add(Row::rate(what, found.rate(), found.beside(), goal));
    }
}

async fn measured(bots: usize, workers: usize, event_bytes: usize) -> anyhow::Result<Found> {
    let world = speed::world(Kind::Distributed, bots, speed::UNBOUND).await;
    loaded(&world, workers, event_bytes).await
}

async fn loaded(world: &World, workers: usize, event_bytes: usize) -> anyhow::Result<Found> {
    let processes = speed::ready_with(world, workers).await?;
    let plan = Plan {
        turns: TURNS,
        lasting: LASTING,
        shape: Shape {
            event_bytes,
            ..Shape::default()
        },
        events_a_second: if event_bytes > KIB {
            LARGE_A_SECOND
        } else {
            EVENTS_A_SECOND
        },
    };
    speed::turns(&plan, world, &processes).await
}

/// Of the page's whole table, so that dimensions may be measured one by one.
fn draw(cells: &[(String, String)]) -> anyhow::Result<()> {
    let line = |name: &'static str, what: &str| {
        let rates = cells.iter().filter(|(cell, _)| cell.starts_with(what));
        let rates: Vec<f64> = rates
            .filter_map(|(_, figure)| figure.trim_end_matches("/s").replace(' ', "").parse().ok())
            .collect();
        let first = rates.first().copied().unwrap_or(1.0);
        let shares = rates
            .iter()
            .enumerate()
            .map(|(size, rate)| (size as f64 + 1.0, rate / first));
        Line {
            name,
            points: shares.collect(),
        }
    };
    Chart {
        title: "Events a second, as a share of those at the first size",
        x: Axis {
            label: "first, second, third size",
            range: 0.9..3.9,
        },
        y: Axis {
            label: "share",
            range: 0.0..1.4,
        },
        lines: vec![
            line("bots: 20, 200, 2 000", "bots"),
            line("workers: 1, 2, 4", "workers"),
            line("bodies: 1, 32 KiB", "bodies"),
            line("rows: 0, 10 million", "rows"),
        ],
    }
    .write(&report::page("growth.svg"))
}
