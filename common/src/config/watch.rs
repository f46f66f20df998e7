//! Follows the configuration folder while the process runs: bots come, change and go without a restart.
//!
//! A change is acted on once the files have stood still for a moment, because editors and deployments write in steps.
//! What then parses is swapped in as one set; a bot whose files are broken keeps what it had.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use notify::event::{AccessKind, AccessMode, EventKind};
use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::environment::Environment;
use super::load::Loaded;
use super::mistake::{Mistake, Mistakes};
use super::node::changed_sections;
use super::reading::{App, BotReading, Reading, app_taken};
use super::snapshot::{Form, Snapshot};
use super::{Backend, Config};
use crate::bot::{Bot, BotId, BotSet, Bots};

/// How long the files must stand still.
const SETTLE: Duration = Duration::from_millis(200);
/// Between hearing of a change and looking.
const REST: Duration = Duration::from_millis(50);
/// Files that never stand still are read anyway after this many looks (5 s).
const MOST_LOOKS: usize = 25;
/// How often the files are looked at though nothing was heard: notifications miss network file systems, a replaced
/// folder and some of the symlink swaps of Kubernetes.
const POLL: Duration = Duration::from_secs(3);

/// Follows the folder that `loaded` came from. Returns the live directory and the task that keeps it, which the caller
/// spawns and which ends soon after `shutdown`; without it the directory stays as loaded.
pub fn follow(
    loaded: &Loaded,
    environment: Environment,
    shutdown: CancellationToken,
) -> (Bots, impl Future<Output = ()> + Send + 'static) {
    let (current, receiver) = watch::channel(Arc::new(loaded.bots.clone()));
    let mut follower = Follower {
        dir: loaded.dir.clone(),
        form: loaded.form,
        environment,
        running: loaded.config.clone(),
        config: loaded.config.clone(),
        digest: loaded.digest,
        said: loaded.warnings.iter().chain(&loaded.not_yet).cloned().collect(),
        restart_for: Vec::new(),
        current,
    };
    (Bots::following(receiver), async move { follower.run(&shutdown).await })
}

struct Follower {
    dir: PathBuf,
    form: Form,
    environment: Environment,
    /// What the process was started with; its node sections hold until a restart.
    running: Config,
    /// The last node file without mistakes: what bots inherit.
    config: Config,
    /// Of the files that were last acted on.
    digest: blake3::Hash,
    /// Warnings of the reading before: only new ones are logged.
    said: BTreeSet<String>,
    restart_for: Vec<&'static str>,
    current: watch::Sender<Arc<BotSet>>,
}

impl Follower {
    async fn run(&mut self, shutdown: &CancellationToken) {
        let wake = Arc::new(Notify::new());
        let mut watches = Watches::new(&wake, &self.running);
        // The first look is at once: the files may have changed since they were loaded.
        loop {
            match shutdown.run_until_cancelled(self.settled(&mut watches)).await {
                None => return,
                Some(Some(snapshot)) => self.act_on(&snapshot),
                Some(None) => {}
            }
            tokio::select! {
                () = shutdown.cancelled() => return,
                // A moment's rest bounds the looks when something writes in the folder without end.
                () = wake.notified() => tokio::time::sleep(REST).await,
                () = tokio::time::sleep(POLL) => {}
            }
        }
    }

    /// The files as they are once they stand still; `None` when they are those that were acted on last.
    async fn settled(&mut self, watches: &mut Watches) -> Option<Snapshot> {
        let mut before = None;
        for look in 0..MOST_LOOKS {
            let snapshot = self.look().await?;
            watches.listen_to(&self.dir, &snapshot.subfolders);
            let digest = snapshot.digest();
            if digest == self.digest {
                return None;
            }
            if before == Some(digest) || look + 1 == MOST_LOOKS {
                self.digest = digest;
                return Some(snapshot);
            }
            before = Some(digest);
            tokio::time::sleep(SETTLE).await;
        }
        None
    }

    async fn look(&mut self) -> Option<Snapshot> {
        let (dir, form) = (self.dir.clone(), self.form);
        let taken = tokio::task::spawn_blocking(move || Snapshot::take(&dir, form)).await;
        let reason = match taken {
            Ok(Ok(snapshot)) => return Some(snapshot),
            Ok(Err(mistake)) => mistake.to_string(),
            // The process ends: nobody follows anything any more.
            Err(ended) if ended.is_cancelled() => return None,
            Err(panic) => panic.to_string(),
        };
        // A folder that cannot be listed says nothing about its bots: all stay. Said once until that changes.
        if self.said.insert(reason.clone()) {
            error!(
                reason,
                "the configuration folder cannot be read: everything stays as it was"
            );
        }
        None
    }

    fn act_on(&mut self, snapshot: &Snapshot) {
        let reading = Reading::of(snapshot, &self.environment, Some(&self.config));
        let old = self.current.borrow().clone();
        let (bots, refused) = next_bots(&old, &reading.bots);

        let kept = reading.bots.iter().flat_map(|bot| bot.mistakes.iter().cloned());
        let mistakes = reading.node_mistakes.iter().chain(&reading.other_mistakes).cloned();
        for mistake in Mistakes::new(mistakes.chain(kept).chain(refused).collect()).iter() {
            error!(%mistake, "configuration refused: what was there before stays in force");
        }
        let said: BTreeSet<String> = reading.warnings.into_iter().chain(reading.not_yet).collect();
        for sentence in said.difference(&self.said) {
            warn!("{sentence}");
        }
        self.said = said;
        if reading.node_mistakes.is_empty() {
            self.take_over_node(reading.config);
        }
        let changes = changes(&old, &bots);
        let next = BotSet::new(bots.into_values(), self.form == Form::Single)
            .with_pools(&self.config.pools, &self.config.message);
        let pools = pool_changes(&old, &next);
        if !changes.is_empty() || !pools.is_empty() {
            self.current.send_replace(Arc::new(next));
            for (bot, change) in changes {
                info!(%bot, "bot {change}");
            }
            for (pool, change) in pools {
                info!(%pool, "pool {change}");
            }
        }
    }

    fn take_over_node(&mut self, config: Config) {
        let restart_for = changed_sections(&self.running, &config);
        if restart_for != self.restart_for && !restart_for.is_empty() {
            warn!(
                sections = restart_for.join(", "),
                "node configuration changed: restart for it to take effect"
            );
        }
        self.restart_for = restart_for;
        self.config = config;
    }
}

/// The set after a reading: new where the files are good, as before where they are not, without those whose folder is
/// gone. An app stays with the bot that has it: whoever else claims it is refused.
fn next_bots(old: &BotSet, readings: &[BotReading]) -> (BTreeMap<BotId, Arc<Bot>>, Vec<Mistake>) {
    let candidates = readings.iter().filter_map(|reading| {
        let before = old.get(reading.id.as_str());
        // An equal bot keeps its `Arc`: readers may compare by pointer.
        let bot = match (&reading.bot, before) {
            (Some(new), Some(before)) if new == before => before,
            (Some(new), _) => new,
            (None, Some(before)) => before,
            (None, None) => return None,
        };
        Some((reading, bot))
    });
    let keeps_app = |bot: &Bot| {
        old.get(bot.id.as_str())
            .is_some_and(|before| before.credentials.app_id == bot.credentials.app_id)
    };
    let (settled, moving): (Vec<_>, Vec<_>) = candidates.partition(|(_, bot)| keeps_app(bot));

    let mut owners: HashMap<Arc<str>, BotId> = HashMap::new();
    let mut next: BTreeMap<BotId, Arc<Bot>> = BTreeMap::new();
    let mut refused = Vec::new();
    for (reading, bot) in settled.into_iter().chain(moving) {
        let app = &bot.credentials.app_id;
        if let Some(owner) = owners.get(app) {
            refused.extend(reading.app.as_ref().map(|app: &App| app_taken(app, owner)));
            // Back to what it was, unless somebody has that app by now.
            let before = old
                .get(reading.id.as_str())
                .filter(|before| !owners.contains_key(&before.credentials.app_id));
            if let Some(before) = before {
                owners.insert(before.credentials.app_id.clone(), reading.id.clone());
                next.insert(reading.id.clone(), before.clone());
            }
        } else {
            owners.insert(app.clone(), reading.id.clone());
            next.insert(reading.id.clone(), bot.clone());
        }
    }
    (next, refused)
}

fn changes(old: &BotSet, new: &BTreeMap<BotId, Arc<Bot>>) -> Vec<(BotId, &'static str)> {
    let removed = old
        .iter()
        .filter(|bot| !new.contains_key(&bot.id))
        .map(|bot| (bot.id.clone(), "removed"));
    let others = new.iter().filter_map(|(id, bot)| match old.get(id.as_str()) {
        None => Some((id.clone(), "added")),
        Some(before) if before != bot => Some((id.clone(), "changed")),
        Some(_) => None,
    });
    removed.chain(others).collect()
}

fn pool_changes(old: &BotSet, new: &BotSet) -> Vec<(BotId, &'static str)> {
    let (old, new) = (old.pools(), new.pools());
    let removed = old.keys().filter(|name| !new.contains_key(*name));
    let others = new.iter().filter_map(|(name, pool)| match old.get(name) {
        None => Some((name.clone(), "added")),
        Some(before) if before != pool => Some((name.clone(), "changed")),
        Some(_) => None,
    });
    removed.map(|name| (name.clone(), "removed")).chain(others).collect()
}

/// The operating system's notifications; deaf when it gives none, and then the poll alone is left.
struct Watches {
    watcher: Option<RecommendedWatcher>,
    heard: BTreeSet<PathBuf>,
    /// Databases write all the time: this folder is not listened to.
    data_dir: Option<PathBuf>,
}

impl Watches {
    fn new(wake: &Arc<Notify>, config: &Config) -> Self {
        let wake = wake.clone();
        let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            // Our own reading is an access too: it must not wake us. Lost notifications (an error) must.
            if event.is_ok_and(|event| !is_change(event.kind)) {
                return;
            }
            wake.notify_one();
        });
        let data_dir = match &config.backend {
            Backend::Embedded { data_dir } => Some(data_dir.clone()),
            Backend::Distributed { .. } => None,
        };
        Self {
            watcher: watcher.inspect_err(deaf).ok(),
            heard: BTreeSet::new(),
            data_dir,
        }
    }

    fn listen_to(&mut self, dir: &Path, subfolders: &[PathBuf]) {
        let Some(watcher) = &mut self.watcher else {
            return;
        };
        let others = subfolders
            .iter()
            .filter(|folder| self.data_dir.as_ref() != Some(folder));
        let wanted: BTreeSet<PathBuf> = others.cloned().chain([dir.to_owned()]).collect();
        for gone in self.heard.difference(&wanted) {
            // The system drops the watch of a removed folder by itself; forgetting it twice is no failure.
            drop(watcher.unwatch(gone));
        }
        for new in wanted.difference(&self.heard) {
            if let Err(reason) = watcher.watch(new, RecursiveMode::NonRecursive) {
                deaf(&reason);
            }
        }
        self.heard = wanted;
    }
}

fn deaf(reason: &notify::Error) {
    warn!(%reason, "no notifications of configuration changes: they are found by looking every {POLL:?}");
}

fn is_change(kind: EventKind) -> bool {
    !matches!(kind, EventKind::Access(access) if access != AccessKind::Close(AccessMode::Write))
}
