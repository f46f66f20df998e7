//! Reads the whole folder once, for a process that starts.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use super::Config;
use super::environment::Environment;
use super::mistake::{Mistake, Mistakes};
use super::reading::{Reading, app_taken};
use super::snapshot::{Form, Snapshot, place};
use crate::bot::{BotId, BotSet};

/// A configuration without mistakes.
#[derive(Debug)]
pub struct Loaded {
    /// The node's keys, and what bots inherit. A relative `data_dir` has become relative to the `-c` folder.
    pub config: Config,
    /// Every bot.
    pub bots: BotSet,
    /// Sentences to log once at the start: what is legal and probably not meant.
    pub warnings: Vec<String>,
    /// Sentences to log once at the start: keys that this version reads and does not serve.
    pub not_yet: Vec<String>,
    pub(super) dir: PathBuf,
    pub(super) form: Form,
    pub(super) digest: blake3::Hash,
}

/// Reads `dir`, which is a node's folder (`config/`) or one bot's own (`config/bot1`, told by its `credentials.yaml`).
///
/// # Errors
/// Every mistake of every file and of every `OPENCLAW_…` variable at once.
pub fn load(dir: &Path, environment: &Environment) -> Result<Loaded, Mistakes> {
    let only = |mistake| Mistakes::new(vec![mistake]);
    let form = Form::of(dir).map_err(only)?;
    let snapshot = Snapshot::take(dir, form).map_err(only)?;
    let reading = Reading::of(&snapshot, environment, None);

    let mut mistakes = doubled_apps(&reading);
    if snapshot.node.is_none() && snapshot.bots.is_empty() && reading.other_mistakes.is_empty() {
        let sentence =
            "is no configuration: expected a config.yaml, or a subfolder with a credentials.yaml for each bot";
        mistakes.push(Mistake::new(place(dir), "", sentence));
    }
    mistakes.extend(reading.node_mistakes);
    mistakes.extend(reading.other_mistakes);
    let mut bots = Vec::with_capacity(reading.bots.len());
    for bot in reading.bots {
        mistakes.extend(bot.mistakes);
        bots.extend(bot.bot);
    }
    if !mistakes.is_empty() {
        return Err(Mistakes::new(mistakes));
    }
    Ok(Loaded {
        bots: BotSet::new(bots, form == Form::Single).with_pools(&reading.config.pools, &reading.config.message),
        config: reading.config,
        warnings: reading.warnings,
        not_yet: reading.not_yet,
        dir: dir.to_owned(),
        form,
        digest: snapshot.digest(),
    })
}

fn doubled_apps(reading: &Reading) -> Vec<Mistake> {
    let mut owners: HashMap<&str, &BotId> = HashMap::new();
    let mut mistakes = Vec::new();
    for bot in &reading.bots {
        let Some(app) = &bot.app else { continue };
        match owners.get(&*app.id) {
            Some(owner) => mistakes.push(app_taken(app, owner)),
            None => {
                owners.insert(&app.id, &bot.id);
            }
        }
    }
    mistakes
}
