//! `openclaw dlq`: what was given up, and what to do about it.
//!
//! The Store is the one source of truth, so this needs neither broker nor cache. With the embedded backend it needs the data
//! folder for itself: a running `openclaw run` has it, and is named.

pub(crate) mod letter;
mod replay;

use std::collections::BTreeMap;

use openclaw_backends::{BackendError, Seams};
use openclaw_common::bot::BotId;
use openclaw_common::config::Loaded;
use openclaw_common::seal::KeyRing;
use openclaw_common::store::{DeadFilter, DeadLetter, Store, StoreError};
use serde::Serialize;

use crate::cli;
use crate::exit::Failure;
use crate::{node, print};

/// Letters read in one go.
const PAGE: u32 = 500;

pub(crate) async fn run(command: cli::Dlq) -> Result<(), Failure> {
    match command {
        cli::Dlq::List(arguments) => list(&arguments).await,
        cli::Dlq::Show(arguments) => show(&arguments).await,
        cli::Dlq::Replay(arguments) => replay::run(&arguments).await,
        cli::Dlq::Drop(arguments) => close(&arguments).await,
    }
}

/// The folder's Store, open and of the right version.
pub(crate) struct Opened {
    pub(crate) loaded: Loaded,
    seams: Seams,
}

impl Opened {
    /// For `command`, which is named where another process has the folder.
    pub(crate) async fn of(command: &str, folder: &cli::Folder) -> Result<Self, Failure> {
        let loaded = node::load(&folder.config)?;
        let seams = openclaw_backends::open(&loaded.config.backend, &loaded.config.database, &node::instance())
            .await
            .map_err(|error| match error {
                BackendError::DataDir(error) => {
                    Failure::usage(format!("{command} needs the data folder for itself: {error}"))
                }
                error => node::backend_failure(error),
            })?;
        match seams.store.ready().await {
            // Looking is well done at a standby; what is to be changed is refused by it.
            Ok(()) | Err(StoreError::ReadOnly) => {}
            Err(error) => return Err(store_failure(error)),
        }
        Ok(Self { loaded, seams })
    }

    pub(crate) fn store(&self) -> &dyn Store {
        self.seams.store.as_ref()
    }
}

/// Whose fault it is that the Store did not do it.
pub(crate) fn store_failure(error: StoreError) -> Failure {
    match error {
        StoreError::Unavailable(_) | StoreError::ReadOnly => Failure::unreachable(error),
        error => anyhow::anyhow!(error).into(),
    }
}

fn filter(selection: &cli::Selection) -> Result<DeadFilter, Failure> {
    let bot = selection.bot.as_deref().map(BotId::new).transpose();
    Ok(DeadFilter {
        bot: bot.map_err(|error| Failure::usage(format!("--bot: {error}")))?,
        class: selection.class.clone(),
        code: selection.code,
        since_ms: selection.since,
        id: selection.id,
        ..DeadFilter::default()
    })
}

async fn list(arguments: &cli::DlqList) -> Result<(), Failure> {
    let opened = Opened::of("dlq", &arguments.selection.folder).await?;
    let filter = DeadFilter {
        closed: arguments.all,
        ..filter(&arguments.selection)?
    };
    let mut pages = Pages::newest_first(filter);
    let mut first = true;
    while let Some(letters) = pages.next(opened.store()).await? {
        if arguments.selection.json {
            for letter in &letters {
                print::line(&json(&letter::Line::of(letter))?);
            }
        } else {
            letter::table(&letters, first).iter().for_each(|row| print::line(row));
        }
        first = false;
    }
    if first && !arguments.selection.json {
        print::line("no dead letters");
    }
    Ok(())
}

async fn show(arguments: &cli::DlqShow) -> Result<(), Failure> {
    let opened = Opened::of("dlq", &arguments.selection.folder).await?;
    let keys = match &opened.loaded.config.encryption {
        Some(encryption) if arguments.body => KeyRing::new(encryption).map_err(Failure::usage)?,
        _ => KeyRing::default(),
    };
    // Who names a letter means it, closed or not.
    let filter = DeadFilter {
        closed: arguments.selection.id.is_some(),
        ..filter(&arguments.selection)?
    };
    let mut pages = Pages::newest_first(filter);
    let mut found = false;
    while let Some(letters) = pages.next(opened.store()).await? {
        for letter in &letters {
            let event = opened.store().inspect(&letter.key).await.map_err(store_failure)?;
            let details = letter::Details::of(letter, event.as_ref(), arguments.body.then_some(&keys))?;
            if arguments.selection.json {
                print::line(&json(&details)?);
            } else {
                details.sentences().iter().for_each(|line| print::line(line));
            }
            found = true;
        }
    }
    if !found && !arguments.selection.json {
        print::line("no dead letters");
    }
    Ok(())
}

/// `openclaw dlq drop`
async fn close(arguments: &cli::DlqDrop) -> Result<(), Failure> {
    let opened = Opened::of("dlq", &arguments.selection.folder).await?;
    let filter = bounded(opened.store(), filter(&arguments.selection)?).await?;
    let mut summary = Summary::of(opened.store(), &filter).await?;
    if !arguments.dry_run {
        let mut pages = Pages::oldest_first(filter);
        let who = who();
        while let Some(letters) = pages.next(opened.store()).await? {
            let ids: Vec<i64> = letters.iter().map(|letter| letter.id).collect();
            summary.done += opened.store().drop_dead(&ids, &who).await.map_err(store_failure)?;
        }
        summary.skipped = summary.matched.saturating_sub(summary.done);
    }
    summary.print("dropped", arguments.dry_run, arguments.selection.json)
}

/// Leaves out what dies from now on.
async fn bounded(store: &dyn Store, filter: DeadFilter) -> Result<DeadFilter, Failure> {
    let newest = store.dead_letters(&filter, 1).await.map_err(store_failure)?;
    Ok(DeadFilter {
        before: Some(newest.first().map_or(0, |letter| letter.id + 1)),
        ..filter
    })
}

/// Dead letters, page by page: no more than one page is in memory.
struct Pages {
    filter: DeadFilter,
}

impl Pages {
    fn newest_first(filter: DeadFilter) -> Self {
        Self { filter }
    }

    fn oldest_first(filter: DeadFilter) -> Self {
        Self {
            filter: DeadFilter {
                oldest_first: true,
                ..filter
            },
        }
    }

    async fn next(&mut self, store: &dyn Store) -> Result<Option<Vec<DeadLetter>>, Failure> {
        let letters = store.dead_letters(&self.filter, PAGE).await.map_err(store_failure)?;
        let Some(last) = letters.last() else { return Ok(None) };
        if self.filter.oldest_first {
            self.filter.after = Some(last.id);
        } else {
            self.filter.before = Some(last.id);
        }
        Ok(Some(letters))
    }
}

/// What `replay` and `drop` did.
#[derive(Debug, Serialize)]
struct Summary {
    /// Open dead letters that the filter named.
    matched: u64,
    /// Replayed or dropped by this very call.
    done: u64,
    /// Matched and not done.
    skipped: u64,
    /// The matched ones.
    by_class: BTreeMap<String, u64>,
}

impl Summary {
    async fn of(store: &dyn Store, filter: &DeadFilter) -> Result<Self, Failure> {
        let by_class: BTreeMap<_, _> = store
            .count_dead(filter)
            .await
            .map_err(store_failure)?
            .into_iter()
            .collect();
        Ok(Self {
            matched: by_class.values().sum(),
            done: 0,
            skipped: 0,
            by_class,
        })
    }

    fn print(&self, verb: &str, dry_run: bool, as_json: bool) -> Result<(), Failure> {
        if as_json {
            print::line(&json(self)?);
            return Ok(());
        }
        let classes: Vec<String> = self
            .by_class
            .iter()
            .map(|(class, count)| format!("{count} {}", letter::plain(class)))
            .collect();
        let classes = if classes.is_empty() {
            String::new()
        } else {
            format!(" ({})", classes.join(", "))
        };
        let matched = self.matched;
        print::line(&if dry_run {
            format!("{matched} dead letters match{classes}; nothing was changed")
        } else {
            format!(
                "{verb} {} of {matched} dead letters{classes}; {} skipped",
                self.done, self.skipped
            )
        });
        Ok(())
    }
}

pub(crate) fn json(value: &impl Serialize) -> Result<String, Failure> {
    serde_json::to_string(value).map_err(|error| anyhow::anyhow!(error).into())
}

/// Who is at the keyboard, for the audit: user and host.
#[expect(clippy::disallowed_methods, reason = "the login's variables, no configuration")]
pub(crate) fn who() -> String {
    let user = ["SUDO_USER", "LOGNAME", "USER"]
        .into_iter()
        .find_map(|name| std::env::var(name).ok().filter(|user| !user.is_empty()))
        .unwrap_or_else(|| format!("uid {}", rustix::process::getuid().as_raw()));
    format!("{user}@{}", node::host())
}
