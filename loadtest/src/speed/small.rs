//! Small machines: ingest and worker each inside half a core and 512 MiB, 200 bots at the defaults, 1,000 events a second.
//!
//! 200 bots at five messages a second are a quota of exactly that rate, of which a strict limit uses 97 % or more. So what
//! holding it means is: everything pushed is accepted, the quota is used as well as by a backlog on a large machine, nothing
//! is lost, and neither role needs more than its half core and its memory.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use tokio::time::sleep;
use world::{Kind, Process, World};

use super::{Speed, accept, answered, both};
use crate::load::{Batch, Load, Pace, Shape};
use crate::report::{Report, Row, percent, short, whole};
use crate::usage::{Usage, mib};

pub(super) const BOTS: usize = 200;
/// The quota of all bots together, and what is pushed.
const RATE: f64 = 1_000.0;
/// Of the quota.
const USED: f64 = 0.97;
/// What is pushed at the quota's rate and drained at 97 % of it is two seconds behind after a minute.
const BEHIND: Duration = Duration::from_secs(5);
const WARM_UP: Duration = Duration::from_secs(5);
const LASTING: Duration = Duration::from_secs(60);
const MEMORY: u64 = 512 * 1_024 * 1_024;

/// Microseconds of every 100,000 that a role may run.
const QUOTA: u64 = 50_000;

pub(super) async fn measure(_: &Speed, report: &mut Report) -> anyhow::Result<()> {
    let world = super::world(Kind::Distributed, BOTS, "").await;
    hold(&world, "half a core a role", report).await
}

/// Puts the load on and reports what came of it, in rows that begin with `name`.
pub(super) async fn hold(world: &World, name: &str, report: &mut Report) -> anyhow::Result<()> {
    let processes = super::ready_with(world, 1).await?;
    let before = answered(world);
    let ingest = processes.first().context("no ingest")?;
    let cells = processes.iter().map(|process| Cell::new(process.id()));
    let cells: Vec<Cell> = cells.filter_map(anyhow::Result::ok).collect();
    let confined = if cells.len() == processes.len() {
        "each in 0.5 CPU and 512 MiB by control groups"
    } else {
        "not confined: control groups are not writable here"
    };
    let events = RATE * (WARM_UP + LASTING).as_secs_f64();
    let batch = Batch::new(&world.bots, Shape::default(), events as usize).await?;
    let load = Load {
        target: ingest.address,
        connections: accept::CONNECTIONS,
        pace: Pace::Open(RATE),
        warm_up: WARM_UP,
        lasting: LASTING,
    };
    let (tally, watched) = tokio::join!(load.run(batch), watch(world, &processes));
    let (tally, watched) = (tally?, watched?);
    let pushed = Instant::now();
    // Its own judge: all of them, and none twice.
    let refused = tally.pushed - tally.accepted_in_all;
    let done = both::settle(world, before + tally.accepted_in_all, refused).await?;
    // Where some were refused it was waited for their copies too.
    let quiet = if refused > 0 { both::QUIET } else { Duration::ZERO };
    let behind = pushed.elapsed().saturating_sub(quiet);
    world.finished(done).await;
    report.add(Row {
        what: format!("{name}: accepted of 1 000/s"),
        figure: format!(
            "{} of {}",
            whole(tally.accepted_in_all as f64),
            whole(tally.pushed as f64)
        ),
        beside: format!("{BOTS} bots, {confined}; p99 {} ms", short(tally.latency_ms(0.99))),
        goal: "all".to_owned(),
        reached: Some(tally.accepted_in_all == tally.pushed),
    });
    let used = watched.rate / RATE;
    let lost = if refused == 0 { "none lost or" } else { "none" };
    report.add(Row::share(
        &format!("{name}: use of the bots' quota"),
        used,
        format!("5/s a bot, {}/s answered, {lost} doubled", whole(watched.rate)),
        USED,
    ));
    report.add(Row::most(
        &format!("{name}: behind at the end"),
        behind.as_secs_f64(),
        "s",
        "from the last push to the last answer".to_owned(),
        BEHIND.as_secs_f64(),
    ));
    for (number, (process, (cores, peak))) in processes.iter().zip(watched.used).enumerate() {
        let role = &process.role;
        let what = format!("{name}: cores that {role} uses");
        let held = cells.get(number).and_then(Cell::throttled);
        let beside = held.map(|share| format!("held up in {} of the tenths of a second", percent(share)));
        report.add(Row::most(&what, cores, "cores", beside.unwrap_or_default(), 0.5));
        let what = format!("{name}: memory of {role}");
        report.add(Row::most(&what, mib(peak), "MiB", "at most".to_owned(), mib(MEMORY)));
    }
    Ok(())
}

struct Watched {
    /// Answers a second.
    rate: f64,
    /// Cores and most bytes of each process.
    used: Vec<(f64, u64)>,
}

/// From the warm-up's end almost to the load's.
async fn watch(world: &World, processes: &[Process]) -> anyhow::Result<Watched> {
    let used = || {
        let used = processes.iter().map(|process| Usage::of(process.id()));
        used.collect::<anyhow::Result<Vec<_>>>()
    };
    sleep(WARM_UP).await;
    let (begun, first, before) = (Instant::now(), used()?, answered(world));
    sleep(LASTING.saturating_sub(Duration::from_secs(1))).await;
    let (last, after, lasted) = (used()?, answered(world), begun.elapsed().as_secs_f64());
    let used = first.iter().zip(&last);
    Ok(Watched {
        rate: (after - before) as f64 / lasted,
        used: used
            .map(|(first, last)| ((last.cpu - first.cpu).as_secs_f64() / lasted, last.peak))
            .collect(),
    })
}

/// The control groups that confine one process, in either version of them; removed with this value.
struct Cell {
    folders: Vec<PathBuf>,
}

impl Cell {
    fn new(process: u32) -> anyhow::Result<Self> {
        let (root, name) = (Path::new("/sys/fs/cgroup"), format!("openclaw-bench-{process}"));
        let unified = root.join("cgroup.controllers").exists();
        let mut cell = Self { folders: Vec::new() };
        if unified {
            let folder = cell.make(root.join(name))?;
            fs::write(folder.join("cpu.max"), format!("{QUOTA} 100000"))?;
            fs::write(folder.join("memory.max"), MEMORY.to_string())?;
            fs::write(folder.join("cgroup.procs"), process.to_string())?;
        } else {
            let cpu = cell.make(root.join("cpu").join(&name))?;
            fs::write(cpu.join("cpu.cfs_period_us"), "100000")?;
            fs::write(cpu.join("cpu.cfs_quota_us"), QUOTA.to_string())?;
            fs::write(cpu.join("cgroup.procs"), process.to_string())?;
            let memory = cell.make(root.join("memory").join(&name))?;
            fs::write(memory.join("memory.limit_in_bytes"), MEMORY.to_string())?;
            fs::write(memory.join("cgroup.procs"), process.to_string())?;
        }
        Ok(cell)
    }

    /// Of the periods in which it ran, the share in which it had used up its part.
    fn throttled(&self) -> Option<f64> {
        let stat = self
            .folders
            .iter()
            .find_map(|folder| fs::read_to_string(folder.join("cpu.stat")).ok())?;
        let count = |name: &str| -> Option<f64> {
            let line = stat.lines().find_map(|line| line.strip_prefix(name))?;
            line.trim().parse().ok()
        };
        Some(count("nr_throttled ")? / count("nr_periods ")?.max(1.0))
    }

    fn make(&mut self, folder: PathBuf) -> anyhow::Result<PathBuf> {
        fs::create_dir(&folder)?;
        self.folders.push(folder.clone());
        Ok(folder)
    }
}

impl Drop for Cell {
    fn drop(&mut self) {
        for folder in &self.folders {
            // A group with a living process in it cannot be removed: the processes go back to the group above first.
            let members = fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default();
            if let Some(above) = folder.parent() {
                for member in members.lines() {
                    fs::write(above.join("cgroup.procs"), member).ok();
                }
            }
            fs::remove_dir(folder).ok();
        }
    }
}
