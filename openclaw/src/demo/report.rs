//! The demo's report: what Feishu's side saw, against what was promised.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use openclaw_sim::Sim;
use openclaw_sim::check::{self, Expectations};
use openclaw_sim::ledger::Level;
use openclaw_sim::push::Pusher;

use super::scene::Scene;

/// What happened.
pub(super) struct Report {
    verdict: check::Report,
    duplicates: u64,
    dead: u64,
    took: Duration,
    accept: [Duration; 2],
    answer: [Duration; 2],
    /// For each bot: its name, the most calls in any rolling second, its quota.
    peaks: Vec<(String, usize, u32)>,
}

impl Report {
    pub(super) fn of(scene: &Scene, sim: &Sim, pusher: &Pusher, dead: u64, took: Duration) -> Self {
        let forgotten = sim.forgotten_uuids();
        let verdict =
            pusher.log(|log| sim.ledger(|ledger| check::check(log, ledger, forgotten, &Expectations::default())));
        let (accept, duplicates, accepted_us) = pusher.log(|log| {
            let latency = log.accept_latency();
            let accepted: HashMap<Arc<str>, u64> = log
                .events()
                .filter_map(|event| Some((event.key.clone(), event.accepted_us?)))
                .collect();
            let totals = log.totals();
            // Every further 200 of an event: it was known, and not stored again.
            let answered = totals.statuses.get(&Some(200)).copied().unwrap_or(0);
            let duplicates = answered.saturating_sub(totals.accepted);
            ([latency.quantile(0.5), latency.quantile(0.99)], duplicates, accepted)
        });
        let mut answers: Vec<u64> = sim.ledger(|ledger| {
            ledger
                .messages()
                .filter_map(|message| {
                    Some(
                        message
                            .at_us
                            .saturating_sub(*accepted_us.get(message.reply_to.as_ref()?)?),
                    )
                })
                .collect()
        });
        answers.sort_unstable();
        let peaks = scene
            .bots
            .iter()
            .map(|bot| {
                let peak = sim.ledger(|ledger| ledger.peak_of(Level::Bot, &bot.credentials.app_id));
                (
                    bot.id.to_string(),
                    peak,
                    bot.quota.bot.map_or(u32::MAX, |rate| rate.count),
                )
            })
            .collect();
        Self {
            verdict,
            duplicates,
            dead,
            took,
            accept,
            answer: [quantile(&answers, 50), quantile(&answers, 99)],
            peaks,
        }
    }

    /// Whether every promise was kept.
    pub(super) fn passed(&self) -> bool {
        self.verdict.passed() && self.verdict.owed > 0
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verdict = &self.verdict;
        let answered = verdict.owed - verdict.lost.len() as u64;
        writeln!(f, "after {:.1} s", self.took.as_secs_f64())?;
        writeln!(f, "  accepted            {:>6}", verdict.accepted)?;
        writeln!(f, "  duplicates dropped  {:>6}", self.duplicates)?;
        writeln!(f, "  answered            {answered:>6}")?;
        writeln!(f, "  dead letters        {:>6}", self.dead)?;
        writeln!(f, "  lost                {:>6}", verdict.lost.len())?;
        writeln!(f, "  doubled             {:>6}", verdict.doubled.len())?;
        writeln!(f, "  out of order        {:>6}", verdict.disordered.len())?;
        writeln!(
            f,
            "  accept latency      p50 {}  p99 {}",
            ms(self.accept[0]),
            ms(self.accept[1])
        )?;
        writeln!(
            f,
            "  answer latency      p50 {}  p99 {}   (the busy bot's backlog included)",
            ms(self.answer[0]),
            ms(self.answer[1])
        )?;
        writeln!(f, "  most sends in any rolling second")?;
        for (bot, peak, quota) in &self.peaks {
            let judgement = if *peak <= *quota as usize { "within" } else { "OVER" };
            writeln!(f, "    {bot:<16}  {peak:>6}   {judgement} its quota of {quota}/s")?;
        }
        if self.passed() {
            write!(f, "every promise kept")
        } else {
            write!(f, "{verdict}")
        }
    }
}

fn quantile(sorted: &[u64], percent: usize) -> Duration {
    let index = (sorted.len() * percent / 100).min(sorted.len().saturating_sub(1));
    Duration::from_micros(sorted.get(index).copied().unwrap_or(0))
}

fn ms(duration: Duration) -> String {
    format!("{:.1} ms", duration.as_secs_f64() * 1000.0)
}
