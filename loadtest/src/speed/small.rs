//! Small machines: ingest and worker each inside half a core and 512 MiB, 200 bots at the defaults, 1,000 events a second.
//!
//! 200 bots at five messages a second are exactly that rate, and a strict limit uses 97 % of it or more; so 970 answers a
//! second is what holding it means.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use tokio::time::sleep;
use world::Kind;

use super::{Speed, accept, answered};
use crate::load::{Batch, Load, Pace, Shape};
use crate::report::{Report, Row, short};
use crate::usage::{Usage, mib};

const BOTS: usize = 200;
const RATE: f64 = 1_000.0;
const HELD: f64 = 970.0;
const LASTING: Duration = Duration::from_secs(60);
const MEMORY: u64 = 512 * 1_024 * 1_024;

/// Microseconds of every 100,000 that a role may run.
const QUOTA: u64 = 50_000;

pub(super) async fn measure(_: &Speed, report: &mut Report) -> anyhow::Result<()> {
    let world = super::world(Kind::Distributed, BOTS, "").await;
    let processes = world.start(1).await;
    let ingest = processes.first().context("no ingest")?;
    let cells: Vec<Cell> = processes
        .iter()
        .filter_map(|process| Cell::new(process.id()).ok())
        .collect();
    let confined = cells.len() == processes.len();
    let batch = Batch::new(
        &world.bots,
        Shape::default(),
        (RATE * (LASTING.as_secs_f64() + 5.0)) as usize,
    )
    .await?;
    let load = Load {
        target: ingest.address,
        connections: accept::CONNECTIONS,
        pace: Pace::Open(RATE),
        warm_up: Duration::from_secs(5),
        lasting: LASTING,
    };
    let used = || {
        processes
            .iter()
            .map(|process| Usage::of(process.id()))
            .collect::<anyhow::Result<Vec<_>>>()
    };
    let watch = async {
        sleep(Duration::from_secs(5)).await;
        let (first, begun, before) = (used()?, Instant::now(), answered(&world));
        sleep(LASTING.saturating_sub(Duration::from_secs(1))).await;
        let rate = (answered(&world) - before) as f64 / begun.elapsed().as_secs_f64();
        anyhow::Ok((first, used()?, rate))
    };
    let (tally, watched) = tokio::join!(load.run(batch), watch);
    let (tally, (first, last, rate)) = (tally?, watched?);
    tally.all_accepted("ingest")?;
    ensure!(
        tally.rate() > 0.99 * RATE,
        "only {} a second were accepted",
        tally.rate()
    );
    let how = if confined {
        "each in 0.5 CPU and 512 MiB by control groups"
    } else {
        "not confined: control groups are not writable here"
    };
    let beside = format!("{how}; accept p99 {} ms", short(tally.latency_ms(0.99)));
    report.add(Row::rate(
        "held at 1 000/s, 200 bots at the defaults",
        rate,
        beside,
        HELD,
    ));
    for (process, (first, last)) in processes.iter().zip(first.iter().zip(&last)) {
        let cores = (last.cpu - first.cpu).as_secs_f64() / (LASTING.as_secs_f64() - 1.0);
        let beside = format!(
            "{} MiB at most, {} MiB after 5 s",
            short(mib(last.peak)),
            short(mib(first.peak))
        );
        let what = format!("the same: cores that {} uses", process.role);
        report.add(Row::most(&what, cores, "cores", beside, 0.5));
        ensure!(last.peak < MEMORY, "{} used {} MiB", process.role, mib(last.peak));
    }
    Ok(())
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
