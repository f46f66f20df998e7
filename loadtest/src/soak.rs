//! Random kills of processes and restarts of servers under load, and what became of every event.
//!
//! | file | job |
//! |---|---|
//! | `schedule` | what is broken when, from a seed |
//! | `fleet` | the processes, started again as soon as they are gone |
//! | `servers` | RabbitMQ, Redis, PostgreSQL: stopped, killed, started again |
//! | `findings` | settles the run and holds it against the promises |
//! | `page` | the report in docs/reliability.md |

mod findings;
mod fleet;
mod page;
mod schedule;
mod servers;

use std::fmt::Write as _;
use std::fs;
use std::io::{IsTerminal as _, stderr};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, bail};
use openclaw_sim::event::Workload;
use openclaw_sim::push::{PushOptions, Pusher};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};
use tokio_util::sync::CancellationToken;
use world::World;

use findings::Findings;
use fleet::Fleet;
use schedule::Kill;
use servers::Restart;

const ROLES: [&str; 5] = ["ingest", "ingest", "worker", "worker", "worker"];
const CHATS: u32 = 5;
/// The ledger keeps so many single events and messages; beyond it a verdict would rest on totals.
const EVENTS: u64 = 450_000;
/// A shorter run is a trial: its report stays in target/soak.
const PUBLISHED: u32 = 10;

#[derive(Debug, clap::Args)]
pub(crate) struct Soak {
    /// How long the load lasts; from 10 on the report goes to docs/reliability.md
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=720))]
    minutes: u32,
    /// Repeats the kills and restarts of an earlier run; else it is drawn
    #[arg(long)]
    seed: Option<u64>,
    /// Events per second, over all bots
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=2000))]
    rate: u32,
    /// Bots
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..=1000))]
    bots: u32,
}

/// One finished run.
pub(crate) struct Run {
    minutes: u32,
    seed: u64,
    rate: u32,
    bots: u32,
    machine: String,
    fleet: Fleet,
    restarts: Vec<Restart>,
    settled: Duration,
    found: Findings,
    broken: Vec<String>,
}

impl Soak {
    pub(crate) async fn run(self) -> anyhow::Result<bool> {
        let events = u64::from(self.rate) * u64::from(self.minutes) * 60;
        if events > EVENTS {
            bail!("{events} events are more than the judge keeps singly ({EVENTS}): fewer --minutes or a lower --rate");
        }
        let seed = self.seed.unwrap_or_else(|| u64::from(rand::random::<u32>()));
        let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/soak");
        fs::create_dir_all(&target)?;
        say(&format!("soak: seed {seed}, logs in target/soak"));
        let (run, mut world) = self.measure(seed, &target).await?;
        let report = page::render(&run)?;
        fs::write(target.join("report.md"), &report)?;
        say(&report);
        if !run.broken.is_empty() {
            say(&run.found.report.to_string());
        }
        if self.minutes >= PUBLISHED {
            page::write(
                &Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/reliability.md"),
                &report,
            )?;
        }
        // The broker's virtual host and the database go before their servers.
        world.shared.take();
        Ok(run.broken.is_empty())
    }

    async fn measure(&self, seed: u64, target: &Path) -> anyhow::Result<(Run, World)> {
        let mut world = World::with_servers(self.bots as usize, "").await;
        for bot in world.bots.iter().skip(2).step_by(3) {
            // A third of them answer by rules: another handler, another content.
            let rules = "handler: { kind: rules, rules: [ { prefix: \"#\", reply: \"You wrote: {text}\" } ] }\n";
            world.write(&format!("{}/config.yaml", bot.bot), rules);
        }
        let fleet = Fleet::start(world.path(), target, &ROLES)?;
        fleet.ready().await?;
        let span = Duration::from_secs(60) * self.minutes;
        let (kills, outages) = (
            schedule::kills(seed, span, ROLES.len()),
            schedule::outages(seed, self.minutes),
        );
        fs::write(target.join("schedule.txt"), format!("{kills:#?}\n{outages:#?}\n"))?;
        let options = PushOptions {
            targets: fleet.intakes(),
            timetable: vec![Duration::from_millis(1500); 80],
            duplicates: 0.02,
            ..PushOptions::default()
        };
        let pusher = Pusher::new(options, Some(world.sim.clone()), world.stop.clone())?;
        let mut shared = world.shared.take().context("a distributed world")?;
        let events = self.rate as usize * self.minutes as usize * 60;
        let load = Workload::new(world.bots.clone(), CHATS, 16).take(events);
        let fleet = Arc::new(Mutex::new(fleet));
        let watching = CancellationToken::new();
        let watch = tokio::spawn(watch(
            fleet.clone(),
            world.sim.clone(),
            pusher.clone(),
            watching.clone(),
        ));
        let begun = Instant::now();
        let (_, killed, restarts) = tokio::join!(
            pusher.open_loop(f64::from(self.rate), load),
            kill(&fleet, begun, &kills),
            servers::disturb(&mut shared, begun, &outages),
        );
        killed?;
        let restarts = restarts?;
        world.shared = Some(shared);
        let settled = findings::settle(&world, &pusher).await;
        watching.cancel();
        watch.await??;
        let fleet = Arc::into_inner(fleet).context("nobody else holds the fleet")?;
        let mut fleet = fleet.into_inner().unwrap_or_else(PoisonError::into_inner);
        let mut broken = fleet.stop().await?;
        let found = findings::find(&world, &pusher).await;
        broken.extend(found.violations());
        broken.extend(fleet.improper()?);
        let run = Run {
            minutes: self.minutes,
            seed,
            rate: self.rate,
            bots: self.bots,
            machine: machine(),
            fleet,
            restarts,
            settled,
            found,
            broken,
        };
        Ok((run, world))
    }
}

async fn kill(fleet: &Mutex<Fleet>, begun: Instant, kills: &[Kill]) -> anyhow::Result<()> {
    for kill in kills {
        sleep_until(begun + kill.at).await;
        fleet
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .kill(kill.process)?;
    }
    Ok(())
}

/// Looks after the fleet each second, and tells how far the run is.
async fn watch(
    fleet: Arc<Mutex<Fleet>>,
    sim: openclaw_sim::Sim,
    pusher: Pusher,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let every = if stderr().is_terminal() { 5 } else { 60 };
    let mut ticks = interval(Duration::from_secs(1));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut second = 0;
    while stop.run_until_cancelled(ticks.tick()).await.is_some() {
        let mut status = String::new();
        {
            let mut fleet = fleet.lock().unwrap_or_else(PoisonError::into_inner);
            fleet.look_after()?;
            let kills: u32 = fleet.places.iter().map(|place| place.kills).sum();
            write!(status, "{second:>5} s: {kills} kills")?;
        }
        if second % every == 0 {
            let accepted = pusher.log(|log| log.totals().accepted);
            let replied = sim.ledger(|ledger| ledger.totals().replied);
            say(&format!("{status}, {accepted} accepted, {replied} answered"));
        }
        second += 1;
    }
    Ok(())
}

/// Processor and cores, as far as the system tells.
fn machine() -> String {
    let information = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = information
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": "))
        .map_or("an unnamed processor", |(_, model)| model);
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    format!("{cores} cores of {model}")
}

#[expect(
    clippy::print_stderr,
    reason = "progress and the report are for whoever started the run"
)]
fn say(text: &str) {
    eprintln!("{text}");
}
