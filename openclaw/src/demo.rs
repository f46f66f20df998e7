//! `openclaw demo`: the pipeline at work against a simulated Feishu, everything in this process, over real sockets.
//!
//! Nothing here is staged: the same ingest and worker as `openclaw run`, encrypted and signed pushes over HTTP, the
//! simulator's own limits, and its ledger as the judge of the report.

mod report;
mod scene;

use std::io::IsTerminal as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use openclaw_common::bot::{BotSet, Bots};
use openclaw_common::config::{Backend, Config, Log};
use openclaw_common::store::State;
use openclaw_common::telemetry;
use openclaw_sim::push::{PushOptions, Pusher};
use openclaw_sim::{Options, Sim};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::cli;
use crate::exit::Failure;
use crate::node::{self, Node};
use crate::{print, roles, signals};
use scene::Scene;

/// The busy bot gets 8 events a second against a quota of 5: what is pushed in this part of the time drains in all of it.
const PUSHING: f64 = 0.6;
/// No answer for so long means that none is coming.
const PATIENCE: Duration = Duration::from_secs(15);
const LOOK: Duration = Duration::from_millis(100);

pub(crate) async fn run(arguments: cli::Demo) -> Result<(), Failure> {
    let stop = signals::stop_token().map_err(|error| anyhow::anyhow!("no stop signals: {error}"))?;
    let folder = data_folder(arguments.keep)?;
    let log = Log {
        level: "error".to_owned(),
        ..Log::default()
    };
    telemetry::init_logs(&log, "demo").map_err(Failure::usage)?;

    let feishu = loopback().await?;
    let webhook = loopback().await?;
    let scene = Scene::new(&node::address(&feishu));
    let sim = Sim::new(&Options {
        apps: scene.credentials(),
        ..Options::default()
    });
    let (background, tasks) = (CancellationToken::new(), TaskTracker::new());
    let platform_stop = CancellationToken::new();
    let platform = tokio::spawn(openclaw_sim::run(sim.clone(), feishu, platform_stop.clone()));

    let mut config = Config {
        backend: Backend::Embedded {
            data_dir: folder.path().to_owned(),
        },
        ..Config::default()
    };
    config.monitoring.metrics_enable = false;
    let bots = Bots::fixed(BotSet::new(scene.bots.iter().cloned(), false));
    let node = Node::open(Arc::new(config), bots, background, tasks).await?;
    let store = node.seams.store.clone();
    let target = format!("http://{}", node::address(&webhook));
    let pipeline_stop = CancellationToken::new();
    let pipeline = tokio::spawn(roles::all_in_one(node, webhook, pipeline_stop.clone()));

    introduce(&scene, &target, arguments.duration);
    let options = PushOptions {
        targets: vec![target.clone()],
        duplicates: scene::DUPLICATES,
        ..PushOptions::default()
    };
    let pusher = Pusher::new(options, Some(sim.clone()), stop.clone()).map_err(|error| anyhow::anyhow!(error))?;
    let begun = Instant::now();
    play(&scene, &sim, &pusher, arguments.duration.mul_f64(PUSHING), &stop).await;
    let took = begun.elapsed();
    let rows = store.count(None).await.map_err(|error| anyhow::anyhow!(error))?;
    let dead = rows.get(&State::Dead).copied().unwrap_or(0);
    let report = report::Report::of(&scene, &sim, &pusher, dead, took);
    print::line(&report.to_string());
    if arguments.keep {
        print::line(&format!(
            "\nstill running: webhooks at {target}/webhook/{{bot}}, data in {}; Ctrl-C ends it",
            folder.path().display()
        ));
        stop.cancelled().await;
    }
    pipeline_stop.cancel();
    ended(pipeline.await)??;
    platform_stop.cancel();
    ended(platform.await)?.map_err(|error| anyhow::anyhow!("the simulated Feishu: {error}"))?;
    let place = folder.path().to_owned();
    if !arguments.keep
        && let Err(error) = folder.close()
    {
        print::failure(&format!("{} is left behind: {error}", place.display()));
    }
    if report.passed() {
        Ok(())
    } else {
        Err(anyhow::anyhow!("the demo broke a promise: see the report").into())
    }
}

fn introduce(scene: &Scene, target: &str, duration: Duration) {
    print::line(&format!(
        "OpenClaw demo: {} bots in {} chats, encrypted and signed pushes to {target}, about {} s\n\n{}",
        scene.bots.len(),
        scene.chats(),
        duration.as_secs(),
        scene.story()
    ));
}

/// Pushes the scene's events, breaks what it wants broken, and waits until everything owed has been answered.
async fn play(scene: &Scene, sim: &Sim, pusher: &Pusher, pushing: Duration, stop: &CancellationToken) {
    let progress = progress_bar();
    let pushes = scene.pushes(pushing).map(|(rate, events)| {
        let pusher = pusher.clone();
        async move { pusher.open_loop(rate, events).await }
    });
    let mut pushes = std::pin::pin!(futures_util::future::join_all(pushes));
    let (mut pushed, mut broken) = (false, false);
    let begun = Instant::now();
    let (mut answered, mut last_change) = (0, Instant::now());
    while !stop.is_cancelled() {
        tokio::select! {
            _ = &mut pushes, if !pushed => pushed = true,
            () = tokio::time::sleep(LOOK) => {}
        }
        if !broken && begun.elapsed() > pushing / 3 {
            scene.break_something(sim);
            broken = true;
        }
        let (accepted, owed) = pusher.log(|log| (log.totals().accepted, log.totals().owed));
        let now = sim.ledger(|ledger| ledger.totals().replied);
        if now != answered {
            (answered, last_change) = (now, Instant::now());
        }
        progress.set_message(format!(
            "accepted {accepted:>4}   answered {answered:>4}   waiting {:>4}",
            owed.saturating_sub(answered)
        ));
        if pushed && (answered >= owed || last_change.elapsed() > PATIENCE) {
            break;
        }
    }
    pusher.settle().await;
    progress.finish_and_clear();
}

fn progress_bar() -> ProgressBar {
    let target = if std::io::stderr().is_terminal() {
        ProgressDrawTarget::stderr()
    } else {
        ProgressDrawTarget::hidden()
    };
    let style = ProgressStyle::with_template("{spinner} {elapsed_precise}   {msg}")
        .unwrap_or_else(|_| ProgressStyle::default_spinner());
    ProgressBar::with_draw_target(None, target).with_style(style)
}

async fn loopback() -> Result<TcpListener, Failure> {
    Ok(TcpListener::bind("127.0.0.1:0")
        .await
        .map_err(|error| anyhow::anyhow!("no port on loopback: {error}"))?)
}

fn ended<T>(ended: Result<T, tokio::task::JoinError>) -> Result<T, Failure> {
    Ok(ended.map_err(|error| anyhow::anyhow!("a part of the demo ended by a bug: {error}"))?)
}

/// Where the demo's database lives; it goes with the demo unless it is to be kept. Its name cannot be foreseen and it is
/// made anew: among the system's temporary files somebody else may have laid out a link under any name.
fn data_folder(keep: bool) -> Result<TempDir, Failure> {
    let mut folder = tempfile::Builder::new();
    let folder = folder.prefix("openclaw-demo-").disable_cleanup(keep);
    Ok(folder
        .tempdir()
        .map_err(|error| anyhow::anyhow!("no folder for the demo's data: {error}"))?)
}
