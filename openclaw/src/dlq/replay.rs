//! `openclaw dlq replay`: every bot's letters on a schedule of their own, side by side.

use std::io::IsTerminal as _;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use openclaw_common::bot::{Bot, BotId};
use openclaw_common::replay::{Campaign, Ending, PATIENCE};
use openclaw_common::store::{DeadFilter, StoreError};

use super::{Opened, Summary, bounded, filter, letter, store_failure, who};
use crate::cli;
use crate::exit::Failure;
use crate::{print, signals};

/// The part of a bot's quota that a replay takes by itself, so that live traffic keeps the rest.
const SHARE: f64 = 0.2;
/// Letters a second for a bot without a quota.
const UNLIMITED_SHARE: f64 = 10.0;
/// Bots replayed side by side.
const SIDE_BY_SIDE: usize = 16;

pub(super) async fn run(arguments: &cli::DlqReplay) -> Result<(), Failure> {
    let opened = Opened::of("dlq", &arguments.selection.folder).await?;
    let store = opened.store();
    let filter = bounded(store, filter(&arguments.selection)?).await?;
    let mut summary = Summary::of(store, &filter).await?;
    if arguments.dry_run || summary.matched == 0 {
        return summary.print("replayed", arguments.dry_run, arguments.selection.json);
    }
    let stop = signals::stop_token().map_err(|error| anyhow::anyhow!("no stop signals: {error}"))?;
    let campaigns = campaigns(&opened, &filter, arguments).await?;
    let patience = if opened.seams.are_exclusive() {
        print::failure(
            "nothing is sent before `openclaw run` is started again, so nobody can look whether they die again",
        );
        None
    } else {
        Some(PATIENCE)
    };
    let progress = progress_bar(summary.matched);
    let done = Mutex::new(0);
    let endings: Vec<(BotId, Result<Ending, StoreError>)> = stream::iter(campaigns)
        .map(|(bot, campaign)| {
            let campaign = Campaign { patience, ..campaign };
            let (stop, progress, done) = (&stop, &progress, &done);
            async move {
                let ending = campaign
                    .run(store, stop, |replayed| {
                        let mut done = done.lock().unwrap_or_else(PoisonError::into_inner);
                        *done += replayed.done.values().sum::<u64>();
                        progress.set_position(*done);
                    })
                    .await;
                (bot, ending)
            }
        })
        .buffer_unordered(SIDE_BY_SIDE)
        .collect()
        .await;
    progress.finish_and_clear();
    summary.done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    summary.skipped = summary.matched.saturating_sub(summary.done);
    summary.print("replayed", false, arguments.selection.json)?;
    judge(endings)
}

/// One for each bot or pool that the folder serves and that has letters.
async fn campaigns(
    opened: &Opened,
    filter: &DeadFilter,
    arguments: &cli::DlqReplay,
) -> Result<Vec<(BotId, Campaign)>, Failure> {
    let mut campaigns = Vec::new();
    let mut matched = 0;
    for bot in opened.loaded.bots.all_served() {
        if filter.bot.as_ref().is_some_and(|only| *only != bot.id) {
            continue;
        }
        let filter = DeadFilter {
            bot: Some(bot.id.clone()),
            ..filter.clone()
        };
        let summary = Summary::of(opened.store(), &filter).await?;
        matched += summary.matched;
        if summary.matched > 0 {
            let campaign = Campaign {
                filter,
                spacing: Duration::from_secs_f64(1.0 / arguments.rate.unwrap_or_else(|| share(bot))),
                unknown: arguments.unknown.map(cli::Unknown::choice),
                force: arguments.force,
                who: who(),
                patience: None,
            };
            campaigns.push((bot.id.clone(), campaign));
        }
    }
    let all = Summary::of(opened.store(), filter).await?.matched;
    if all > matched {
        print::failure(&format!(
            "{} dead letters are of bots that {} does not serve: nobody would send them, so they are skipped",
            all - matched,
            arguments.selection.folder.config.display()
        ));
    }
    Ok(campaigns)
}

/// Letters a second that leave live traffic most of the bot's quota.
fn share(bot: &Bot) -> f64 {
    bot.quota.bot.map_or(UNLIMITED_SHARE, |rate| {
        SHARE * f64::from(rate.count) / rate.window.as_secs_f64()
    })
}

fn judge(endings: Vec<(BotId, Result<Ending, StoreError>)>) -> Result<(), Failure> {
    let mut sentences = Vec::new();
    for (bot, ending) in endings {
        match ending.map_err(store_failure)? {
            Ending::Finished | Ending::Stopped => {}
            Ending::DiedAgain { died, of, example } => {
                let example = example.map_or_else(String::new, |new| {
                    format!(" (dead letter {}, {}: {})", new.id, new.class, letter::plain(&new.error))
                });
                sentences.push(format!(
                    "{bot}: stopped, because {died} of the last {of} replayed died again{example}; mend the cause first"
                ));
            }
            Ending::NobodyThere { waiting } => sentences.push(format!(
                "{bot}: stopped, because {waiting} replayed events are due and have not ended for {} s: does a worker serve this bot?",
                PATIENCE.as_secs()
            )),
        }
    }
    if sentences.is_empty() {
        Ok(())
    } else {
        Err(anyhow::anyhow!(sentences.join("\n")).into())
    }
}

fn progress_bar(letters: u64) -> ProgressBar {
    let target = if std::io::stderr().is_terminal() {
        ProgressDrawTarget::stderr()
    } else {
        ProgressDrawTarget::hidden()
    };
    let style = ProgressStyle::with_template("{elapsed_precise} {wide_bar} {pos} of {len} replayed")
        .unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::with_draw_target(Some(letters), target).with_style(style)
}
