//! Draining, and both at once, with a busy loop beside it on each core.
//!
//! Some of the processor's time is all that is lost: an event must cost no more because there is little time, or a machine that
//! has once fallen behind stays behind. And when the loops end in the middle of the work, all must be as before at once.

use std::pin::pin;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use tokio::time::sleep;
use world::{Kind, Process, World};

use super::{BOTS, Speed, UNBOUND, answered, both, drain};
use crate::report::{Report, Row, short, whole};
use crate::usage;

/// Each of them has to reach the goals.
const TURNS: usize = 6;
/// PostgreSQL's processor time an event, of that without the loops.
const COST: f64 = 1.3;
/// The rate, of that without the loops.
const RATE: f64 = 1.0 / 3.0;
/// Seconds from the end of the loops until a full rate has been seen.
const BACK: f64 = 5.0;
/// Of a whole turn's rate, in a single second of it: seconds differ by a fifth as it is.
const FULL: f64 = 0.8;
const LOOK: Duration = Duration::from_millis(100);
/// Looks in a second.
const LOOKS: usize = 10;

pub(super) async fn measure(speed: &Speed, report: &mut Report) -> anyhow::Result<()> {
    let turns = if speed.trial { speed.pairs } else { TURNS };
    let world = super::world(Kind::Distributed, BOTS, UNBOUND).await;
    let stage = Stage::new(&world, speed).await?;
    let ingest = Process::start("ingest", world.path()).await;
    let mut found = Vec::new();
    for _ in 0..turns {
        found.push([
            stage.drain(&ingest, Beside::Nothing).await?,
            stage.drain(&ingest, Beside::Loops).await?,
            stage.drain(&ingest, Beside::LoopsAtFirst).await?,
        ]);
    }
    rows("draining", &found, report);
    drop(ingest);

    let world = super::world(Kind::Distributed, BOTS, UNBOUND).await;
    let stage = Stage::new(&world, speed).await?;
    let processes = world.start(1).await;
    let mut found = Vec::new();
    for _ in 0..turns {
        found.push([
            stage.carry(&processes, Beside::Nothing).await?,
            stage.carry(&processes, Beside::Loops).await?,
            stage.carry(&processes, Beside::LoopsAtFirst).await?,
        ]);
    }
    rows("both at once", &found, report);
    world.finished(answered(&world)).await;
    Ok(())
}

/// Of each turn what was found without the loops, with them, and with them until the middle.
fn rows(what: &str, found: &[[Turn; 3]], report: &mut Report) {
    let list = |figures: &[f64]| {
        figures
            .iter()
            .map(|figure| short(*figure))
            .collect::<Vec<_>>()
            .join(", ")
    };
    let of = |figure: fn(&Turn) -> f64| -> Vec<f64> {
        let ratio = |[alone, busy, _]: &[Turn; 3]| figure(busy) / figure(alone);
        found.iter().map(ratio).collect()
    };
    let (costs, rates) = (of(|turn| turn.cost), of(|turn| turn.rate));
    let back = found.iter().map(|[alone, _, back]| back.until(alone.rate * FULL));
    let back: Vec<f64> = back.collect();
    let alone = |figure: fn(&Turn) -> String| -> String {
        let figures = found.iter().map(|[alone, ..]| figure(alone));
        figures.collect::<Vec<_>>().join(", ")
    };
    report.add(Row::most(
        &format!("{what} beside two busy loops: PostgreSQL's time an event"),
        costs.iter().copied().fold(0.0, f64::max),
        "×",
        format!(
            "the worst of turns {}; alone {} µs",
            list(&costs),
            alone(|turn| short(turn.cost))
        ),
        COST,
    ));
    let worst = rates.iter().copied().fold(f64::INFINITY, f64::min);
    report.add(Row {
        goal: "≥ a third".to_owned(),
        ..Row::ratio(
            &format!("{what} beside two busy loops: rate"),
            worst,
            format!(
                "the worst of turns {}; alone {}/s",
                list(&rates),
                alone(|turn| whole(turn.rate))
            ),
            RATE,
        )
    });
    report.add(Row::most(
        &format!("{what}, the loops ended in mid-backlog: a full second"),
        back.iter().copied().fold(0.0, f64::max),
        "s later",
        format!("the worst of turns {}; full: {FULL} × alone", list(&back)),
        BACK,
    ));
}

/// What else runs on the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Beside {
    Nothing,
    Loops,
    /// Until the middle of the work.
    LoopsAtFirst,
}

/// One turn.
struct Turn {
    /// Events a second.
    rate: f64,
    /// PostgreSQL's microseconds of processor an event.
    cost: f64,
    /// From when the loops had ended in the middle: answers by the time.
    looks: Vec<(Instant, u64)>,
}

impl Turn {
    /// Seconds from the first look until a second with that rate has passed; infinite when there was none.
    fn until(&self, rate: f64) -> f64 {
        let begun = self.looks.first().map(|(at, _)| *at);
        let full = self.looks.windows(LOOKS + 1).find_map(|looks| {
            let ((from, before), (to, after)) = (looks.first()?, looks.last()?);
            let is_full = (after - before) as f64 / (*to - *from).as_secs_f64() >= rate;
            is_full.then_some((*to - begun?).as_secs_f64())
        });
        full.unwrap_or(f64::INFINITY)
    }
}

/// A world, and the process that its database's sessions come from.
struct Stage<'w> {
    world: &'w World,
    speed: &'w Speed,
    postgres: u32,
}

impl<'w> Stage<'w> {
    async fn new(world: &'w World, speed: &'w Speed) -> anyhow::Result<Self> {
        let (session,): (i32,) = world.row("SELECT pg_backend_pid()").await;
        let postgres = usage::parent(u32::try_from(session)?)?;
        Ok(Self { world, speed, postgres })
    }

    /// A backlog, from the worker's start to its end.
    async fn drain(&self, ingest: &Process, beside: Beside) -> anyhow::Result<Turn> {
        let (world, before) = (self.world, answered(self.world));
        let events = drain::EVENTS_A_SECOND * self.speed.seconds;
        drain::push(world, ingest, events).await?;
        let turn = self.watch(beside, |_, answered| answered >= before + events / 2, async {
            let worker = Process::spawn("worker", world.path()).await;
            let took = drain::drained(world, before, events).await?;
            Ok((worker, events as f64 / took.as_secs_f64()))
        });
        let (turn, worker) = turn.await?;
        ensure!(worker.stop().await.success(), "the worker did not stop in order");
        Ok(turn)
    }

    /// As much accepted as is finished, for a while.
    async fn carry(&self, processes: &[Process], beside: Beside) -> anyhow::Result<Turn> {
        let mut plan = both::Plan::of(self.speed);
        plan.turns = 1;
        let middle = both::WARM_UP + plan.lasting;
        if beside == Beside::LoopsAtFirst {
            plan.lasting *= 3;
        }
        // The load is made before it begins.
        let idle = answered(self.world);
        let mut begun = None;
        let is_middle = move |now: Instant, answered: u64| {
            if answered > idle {
                begun.get_or_insert(now);
            }
            begun.is_some_and(|begun| now >= begun + middle)
        };
        let turn = self.watch(beside, is_middle, async {
            Ok(((), both::turns(&plan, self.world, processes).await?.rate()))
        });
        Ok(turn.await?.0)
    }

    /// Does the work, which says its rate, and looks at it.
    async fn watch<T>(
        &self,
        beside: Beside,
        mut is_middle: impl FnMut(Instant, u64) -> bool,
        work: impl Future<Output = anyhow::Result<(T, f64)>>,
    ) -> anyhow::Result<(Turn, T)> {
        let mut loops = (beside != Beside::Nothing).then(Loops::start).transpose()?;
        let (before, spent, mut looks) = (answered(self.world), usage::family(self.postgres)?, Vec::new());
        let mut work = pin!(work);
        let (value, rate) = loop {
            tokio::select! {
                done = &mut work => break done?,
                () = sleep(LOOK) => {}
            }
            let now = (Instant::now(), answered(self.world));
            if beside == Beside::LoopsAtFirst && loops.is_some() && is_middle(now.0, now.1) {
                loops = None;
            }
            if loops.is_none() {
                looks.push(now);
            }
        };
        let events = (answered(self.world) - before) as f64;
        let cost = (usage::family(self.postgres)? - spent).as_secs_f64() * 1e6 / events;
        Ok((Turn { rate, cost, looks }, value))
    }
}

/// A busy loop on each core, as nice as everything else; ended when dropped.
struct Loops(Vec<Child>);

impl Loops {
    fn start() -> anyhow::Result<Self> {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let mut loops = Self(Vec::new());
        for core in 0..cores {
            let child = Command::new("taskset")
                .args(["--cpu-list", &core.to_string(), "sh", "-c", "while :; do :; done"])
                .stdin(Stdio::null())
                .spawn()
                .context("`taskset` of util-linux is needed")?;
            loops.0.push(child);
        }
        Ok(loops)
    }
}

impl Drop for Loops {
    fn drop(&mut self) {
        for child in &mut self.0 {
            child.kill().ok();
            child.wait().ok();
        }
    }
}
