//! How fast ten quiet bots answer, with and without a bot beside them that has 50,000 waiting messages.
//!
//! Two deployments with the same quiet bots; the noisy one is in the second alone, and its folder is taken away while the
//! first is measured, so that its work slows nobody there. A B A B, five pairs, the median of their ratios counts.

use std::collections::HashMap;
use std::fs;
use std::sync::Arc;
use std::time::Duration;

use anyhow::ensure;
use openclaw_sim::clock::monotonic_us;
use openclaw_sim::event::{Recipient, Workload};
use testkit::eventually;
use tokio::time::sleep;

use super::Extent;
use super::stage::Stage;
use crate::report::{Report, Row, median, say};

const QUIET: usize = 10;
const WAITING: usize = 50_000;
const PAIRS: usize = 5;
/// Of all quiet bots: 4/s each, below their limit.
const RATE: f64 = 40.0;
const CHATS: u32 = 20;
const SECONDS: f64 = 12.0;
/// How fast the backlog is pushed.
const FILL: f64 = 1_500.0;
/// Until a bot whose folder is gone is served no more.
const CALM: Duration = Duration::from_secs(3);
const PATIENCE: Duration = Duration::from_secs(60);

pub(super) async fn run(extent: Extent, report: &mut Report) -> anyhow::Result<()> {
    let waiting = extent.seconds(WAITING as f64) as usize;
    say(&format!(
        "neighbour: {QUIET} quiet bots, with and without one with {waiting} waiting messages"
    ));
    let alone = Stage::new(QUIET, 2, "").await?;
    let beside = Stage::new(QUIET + 1, 2, "").await?;
    let noisy = beside.world.bots.last().cloned().into_iter().collect();
    beside
        .pusher
        .open_loop(FILL, Workload::new(noisy, 2_000, 16).take(waiting))
        .await;
    let accepted = beside.pusher.log(|log| log.totals().accepted);
    ensure!(accepted == waiting as u64, "{accepted} of {waiting} accepted");
    let (mut one, mut other) = (Quiet::of(&alone), Quiet::of(&beside));
    let seconds = extent.seconds(SECONDS);
    let (mut ratios, mut figures) = (Vec::new(), Vec::new());
    for pair in 0..=PAIRS {
        absent(&beside).await;
        let without = one.p99(&alone, seconds).await;
        present(&beside).await;
        let with = other.p99(&beside, seconds).await;
        // The first pair warms both.
        if pair > 0 {
            say(&format!("{:.1} ms without, {:.1} ms with", without / 1e3, with / 1e3));
            ratios.push(with / without);
            figures.push(format!("{:.1}/{:.1}", with / 1e3, without / 1e3));
        }
    }
    let left = waiting - replies(&beside);
    let beside = format!(
        "ms, with/without, in turns: {}; {left} still waiting at the end",
        figures.join(", ")
    );
    let what = "neighbour: p99 answer time beside a noisy bot, of that without";
    report.add(Row::most(what, median(&ratios), "×", beside, 1.2));
    Ok(())
}

/// The quiet bots' endless questions.
struct Quiet {
    load: Workload,
}

impl Quiet {
    fn of(stage: &Stage) -> Self {
        let bots: Vec<Arc<Recipient>> = stage.world.bots.iter().take(QUIET).cloned().collect();
        Self {
            load: Workload::new(bots, CHATS, 16).in_p2p_chats(),
        }
    }

    /// Asks for so long; microseconds from when a question is due to when its answer arrives.
    async fn p99(&mut self, stage: &Stage, seconds: f64) -> f64 {
        let begun = monotonic_us();
        let count = (RATE * seconds) as usize;
        let questions: Vec<_> = self.load.by_ref().take(count).collect();
        stage.pusher.open_loop(RATE, questions.into_iter()).await;
        let due: HashMap<Arc<str>, u64> = stage.pusher.log(|log| {
            let recent = log.events().rev().take_while(|event| event.due_us >= begun);
            recent.map(|event| (event.key.clone(), event.due_us)).collect()
        });
        let mut times = Vec::new();
        eventually("the quiet bots' questions are answered", PATIENCE, async || {
            times = stage.world.sim.ledger(|ledger| {
                let recent = ledger.messages().rev().take_while(|message| message.at_us >= begun);
                let answers = recent.filter_map(|message| Some(message.at_us - due.get(message.reply_to.as_ref()?)?));
                answers.collect()
            });
            times.len() >= count
        })
        .await;
        times.sort_unstable();
        let rank = (times.len() as f64 * 0.99).ceil() as usize;
        times.get(rank.saturating_sub(1)).copied().unwrap_or_default() as f64
    }
}

fn noisy_app(stage: &Stage) -> String {
    stage
        .world
        .bots
        .last()
        .map_or_else(String::new, |bot| bot.credentials.app_id.to_string())
}

fn replies(stage: &Stage) -> usize {
    let app = noisy_app(stage);
    stage
        .world
        .sim
        .ledger(|ledger| ledger.messages().filter(|message| *message.app == *app).count())
}

/// Takes the noisy bot's folder away: it is served no more, and its messages wait.
async fn absent(stage: &Stage) {
    let folder = stage.world.join(&format!("bot{QUIET}"));
    // Not there yet, or already away.
    fs::remove_dir_all(folder).ok();
    sleep(CALM).await;
}

/// Brings it back, and waits until it is served.
async fn present(stage: &Stage) {
    stage.world.add_bot(&format!("bot{QUIET}"));
    let before = replies(stage);
    eventually("the noisy bot is served again", PATIENCE, async || {
        replies(stage) > before + 10
    })
    .await;
}
