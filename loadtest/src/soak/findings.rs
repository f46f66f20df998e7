//! What a run came to, and which promises it broke.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use openclaw_sim::check::{Disordered, Expectations, Report};
use openclaw_sim::push::Pusher;
use world::{Rows, World};

/// After the load, as long as answers keep coming; then no longer.
const SILENCE: Duration = Duration::from_secs(60);
const SETTLING: Duration = Duration::from_secs(15 * 60);
const EMPTYING: Duration = Duration::from_secs(20);

/// Percentiles of the time from acceptance to the visible answer.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Answers {
    pub(crate) half: Duration,
    pub(crate) ninety: Duration,
    pub(crate) ninety_nine: Duration,
    pub(crate) longest: Duration,
}

/// Everything measured after the processes have stopped.
pub(crate) struct Findings {
    pub(crate) report: Report,
    pub(crate) rows: Rows,
    /// Queues that are not empty.
    pub(crate) left: Vec<(String, u32)>,
    /// Out of order where no send was retried: what is promised.
    pub(crate) disordered: Vec<Disordered>,
    /// Chats in which a send failed and was tried again later: there order is not promised.
    pub(crate) retried: usize,
    pub(crate) answers: Answers,
    pub(crate) pause: Duration,
    /// Attempts by status; `None`: no answer.
    pub(crate) statuses: Vec<(Option<u16>, u64)>,
    /// Events accepted at a later attempt than the first.
    pub(crate) repushed: usize,
    /// Sends that Feishu answered with the message it had already shown.
    pub(crate) collapsed: u64,
}

/// Waits until all that is owed is answered and every row is terminal, or until it is clear that this will not be.
/// How long it took.
pub(crate) async fn settle(world: &World, pusher: &Pusher) -> Duration {
    pusher.settle().await;
    let begun = Instant::now();
    let mut last = (u64::MAX, Instant::now());
    while begun.elapsed() < SETTLING && last.1.elapsed() < SILENCE {
        let owed = pusher.log(|log| log.totals().owed);
        let replied = world.sim.ledger(|ledger| ledger.totals().replied);
        if replied >= owed && world.rows().await.are_terminal() {
            break;
        }
        if replied != last.0 {
            last = (replied, Instant::now());
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    begun.elapsed()
}

/// Reads tables, queues, ledger and log. The processes have stopped: what they held is ready again, and counted.
pub(crate) async fn find(world: &World, pusher: &Pusher) -> Findings {
    let begun = Instant::now();
    let left = loop {
        let mut queues = world.queues().await;
        queues.retain(|(_, depth)| *depth > 0);
        if queues.is_empty() || begun.elapsed() > EMPTYING {
            break queues;
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    };
    let retried = retried(world).await;
    let report = world.report(pusher, &Expectations::default());
    let promised = |found: &&Disordered| !retried.contains(&found.chat);
    Findings {
        rows: world.rows().await,
        left,
        disordered: report.disordered.iter().filter(promised).cloned().collect(),
        retried: retried.len(),
        answers: answers(world, pusher),
        pause: world.longest_pause(),
        statuses: pusher.log(|log| log.totals().statuses.clone().into_iter().collect()),
        repushed: pusher.log(|log| {
            let accepted = log.events().filter(|event| event.accepted_us.is_some());
            accepted.filter(|event| event.attempts > 1).count()
        }),
        collapsed: world.sim.ledger(|ledger| ledger.totals().collapsed),
        report,
    }
}

/// A re-push excuses nothing: the next event of its chat is pushed only after it was accepted. A failed send does.
async fn retried(world: &World) -> HashSet<Arc<str>> {
    let (chats,): (Option<Vec<String>>,) = world
        .row("SELECT array_agg(DISTINCT chat) FROM events WHERE attempt > 0")
        .await;
    chats.unwrap_or_default().into_iter().map(Into::into).collect()
}

fn answers(world: &World, pusher: &Pusher) -> Answers {
    let accepted: HashMap<Arc<str>, u64> = pusher.log(|log| {
        let events = log.events();
        events
            .filter_map(|event| Some((event.key.clone(), event.accepted_us?)))
            .collect()
    });
    let mut took: Vec<u64> = world.sim.ledger(|ledger| {
        let replies = ledger
            .messages()
            .filter_map(|message| Some((message.visible_us, accepted.get(message.reply_to.as_ref()?)?)));
        // An answer may be seen before the 200 is.
        replies
            .map(|(visible_us, accepted_us)| visible_us.saturating_sub(*accepted_us))
            .collect()
    });
    took.sort_unstable();
    let at = |share: usize| {
        let index = (took.len() * share / 100).min(took.len().saturating_sub(1));
        Duration::from_micros(took.get(index).copied().unwrap_or(0))
    };
    Answers {
        half: at(50),
        ninety: at(90),
        ninety_nine: at(99),
        longest: at(100),
    }
}

impl Findings {
    /// Each broken promise in a sentence; none is what the run is for.
    pub(crate) fn violations(&self) -> Vec<String> {
        let Report {
            accepted,
            given_up,
            lost,
            doubled,
            over_quota,
            ..
        } = &self.report;
        let mut broken = Vec::new();
        let mut unless = |kept: bool, text: String| {
            if !kept {
                broken.push(text);
            }
        };
        let Rows {
            done,
            dead,
            letters,
            all,
        } = self.rows;
        unless(lost.is_empty(), format!("{} lost", lost.len()));
        unless(doubled.is_empty(), format!("{} doubled", doubled.len()));
        unless(over_quota.is_empty(), format!("{} over quota", over_quota.len()));
        unless(
            self.disordered.is_empty(),
            format!("{} out of order", self.disordered.len()),
        );
        unless(
            self.rows.are_terminal(),
            format!("{} rows are not finished", all - done - dead),
        );
        unless(
            (*accepted..=accepted + given_up).contains(&all),
            format!("{all} rows for {accepted} accepted events"),
        );
        unless(dead + letters == 0, format!("{dead} dead, {letters} dead letters"));
        unless(self.left.is_empty(), format!("left in queues: {:?}", self.left));
        unless(
            self.report.incomplete.is_none(),
            "the ledger could not keep the whole run".to_owned(),
        );
        broken
    }
}
