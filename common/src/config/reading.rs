//! One reading of a snapshot: the node's configuration and every bot by itself, so that one broken file spoils no
//! other. A pure function of the files' text and the environment.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::environment::Environment;
use super::mistake::{Mistake, Place};
use super::node;
use super::per_bot::PerBot;
use super::section::Section;
use super::snapshot::{BotFiles, File, Form, Snapshot, place};
use super::yaml::{self, Node, Value};
use super::{Config, credential};
use crate::bot::{Bot, BotId, Credentials};

/// What the reference describes and this version does not serve yet; one line goes with each feature that arrives.
pub(super) const NOT_YET: [&str; 1] = ["console"];

/// Rows of finished events are what recognises a re-push (up to 8 hours) and a repeated `Idempotency-Key` (24 hours).
const SAFE_RETENTION: Duration = Duration::from_secs(24 * 3600);

pub(super) struct Reading {
    /// Defaults stand where `node_mistakes` is about.
    pub(super) config: Config,
    pub(super) node_mistakes: Vec<Mistake>,
    pub(super) bots: Vec<BotReading>,
    /// About names of files and folders: they spoil nothing that is served.
    pub(super) other_mistakes: Vec<Mistake>,
    pub(super) warnings: Vec<String>,
    pub(super) not_yet: Vec<String>,
}

pub(super) struct BotReading {
    pub(super) id: BotId,
    pub(super) bot: Option<Arc<Bot>>,
    pub(super) mistakes: Vec<Mistake>,
    /// Readable even when the rest is not: two bots with one app are told at once.
    pub(super) app: Option<App>,
}

pub(super) struct App {
    pub(super) id: Arc<str>,
    pub(super) place: Place,
}

/// What the warnings need to know of all bots.
#[derive(Default)]
struct Notes {
    ignored: Vec<String>,
    echo: Vec<String>,
    plaintext: Vec<String>,
    not_yet: BTreeMap<&'static str, Place>,
}

impl Reading {
    /// Reads everything. When the node's own file is broken, bots inherit from `fallback`.
    pub(super) fn of(snapshot: &Snapshot, environment: &Environment, fallback: Option<&Config>) -> Self {
        let mut notes = Notes::default();
        let mut other_mistakes = snapshot.mistakes.clone();
        let named = snapshot.bots.iter().filter_map(|files| match BotId::new(&files.name) {
            Ok(id) => Some((id, files)),
            Err(invalid) => {
                other_mistakes.push(Mistake::new(files.folder.clone(), "", invalid.to_string()));
                None
            }
        });
        let named: Vec<(BotId, &BotFiles)> = named.collect();
        let ids: BTreeSet<BotId> = named.iter().map(|(id, _)| id.clone()).collect();

        let mut node_mistakes = Vec::new();
        let mut tree = tree(snapshot.node.as_ref(), &snapshot.dir, &mut node_mistakes);
        environment.override_keys(&mut tree, &mut node_mistakes);
        environment.expand(&mut tree, &mut node_mistakes);
        let mut config = node::read(&tree, &ids, &mut node_mistakes);
        node::resolve_data_dir(&mut config, &snapshot.dir);
        notes.note_not_yet(&tree);

        let node_handler = tree.written("handler").is_some();
        let base = if node_mistakes.is_empty() {
            &config
        } else {
            fallback.unwrap_or(&config)
        };
        let mut bots: Vec<BotReading> = Vec::with_capacity(named.len());
        for (id, files) in named {
            bots.push(read_bot(id, files, base, environment, node_handler, &mut notes));
        }
        if snapshot.form == Form::Single && !node_mistakes.is_empty() {
            // The node's file is the bot's own: broken, it is the bot that keeps what it had.
            bots.iter_mut().for_each(|reading| reading.bot = None);
        }
        let not_yet = notes.not_yet_sentences();
        let mut warnings = notes.warnings();
        warnings.extend(node_warnings(&config, &tree, snapshot));
        Self {
            config,
            node_mistakes,
            bots,
            other_mistakes,
            warnings,
            not_yet,
        }
    }
}

fn node_warnings(config: &Config, tree: &Node, snapshot: &Snapshot) -> Vec<String> {
    let mut warnings = Vec::new();
    if let Some(written) = tree
        .written("database.retention")
        .filter(|_| config.database.retention < SAFE_RETENTION)
    {
        warnings.push(format!(
            "{written}: database.retention: below 1d a repeated event or Idempotency-Key may be taken for a new one"
        ));
    }
    if snapshot.bots.is_empty() {
        let dir = snapshot.dir.display();
        warnings.push(format!(
            "{dir}: no bots yet: a bot is a subfolder with a credentials.yaml"
        ));
    }
    warnings
}

/// A file's tree; an empty mapping when the file is absent or broken.
fn tree(file: Option<&File>, dir: &Path, mistakes: &mut Vec<Mistake>) -> Node {
    let Some(file) = file else {
        return Node::empty_map(place(dir));
    };
    let whole = Place::whole(file.name.clone());
    match &file.text {
        Ok(text) => yaml::parse(text, &file.name, true, mistakes).unwrap_or_else(|| Node::empty_map(whole)),
        Err(reason) => {
            mistakes.push(Mistake::new(whole.clone(), "", reason.as_str()));
            Node::empty_map(whole)
        }
    }
}

fn read_bot(
    id: BotId,
    files: &BotFiles,
    base: &Config,
    environment: &Environment,
    node_handler: bool,
    notes: &mut Notes,
) -> BotReading {
    let mut mistakes = Vec::new();
    let mut sections = PerBot {
        message: base.message.clone(),
        quota: base.quota.clone(),
        handler: base.handler.clone(),
        security: base.security.clone(),
        feishu: base.feishu.clone(),
    };
    let mut own_handler = false;
    if let Some(file) = &files.config {
        let mut tree = tree(Some(file), Path::new(""), &mut mistakes);
        notes.ignore_node_keys(&mut tree);
        environment.expand(&mut tree, &mut mistakes);
        Section::read(&tree, String::new(), &tree.place, &mut mistakes, |root| {
            sections.read(root)
        });
        own_handler = tree.written("handler").is_some();
        notes.note_not_yet(&tree);
    }
    let read = read_credentials(&files.credentials, environment, &mut mistakes);
    if let Some(place) = read.unsigned {
        if sections.security.allow_plaintext {
            notes.plaintext.push(id.to_string());
        } else {
            let sentence = "is missing: without it anybody can forge events; copy it from the app's page (or accept \
                            that with `security.allow_plaintext: true`)";
            mistakes.push(Mistake::new(place, "encrypt_key", sentence));
        }
    }
    if !own_handler && !node_handler {
        notes.echo.push(id.to_string());
    }
    let bot = read.credentials.filter(|_| mistakes.is_empty()).map(|credentials| {
        Arc::new(Bot {
            id: id.clone(),
            credentials,
            message: sections.message,
            quota: sections.quota,
            handler: sections.handler,
            security: sections.security,
            feishu: sections.feishu,
        })
    });
    BotReading {
        id,
        bot,
        mistakes,
        app: read.app,
    }
}

/// What one `credentials.yaml` gives, as far as it can be read.
#[derive(Default)]
struct CredentialsReading {
    credentials: Option<Credentials>,
    app: Option<App>,
    /// Set when there is no `encrypt_key`: where it would stand.
    unsigned: Option<Place>,
}

fn read_credentials(file: &File, environment: &Environment, mistakes: &mut Vec<Mistake>) -> CredentialsReading {
    let mut read = CredentialsReading::default();
    let before = mistakes.len();
    let mut tree = tree(Some(file), Path::new(""), mistakes);
    if mistakes.len() > before {
        // Unreadable or no YAML: that its keys are missing would be no news.
        return read;
    }
    environment.expand(&mut tree, mistakes);
    Section::read(&tree, String::new(), &tree.place, mistakes, |root| {
        // Not secret, but easily taken for its neighbour: a wrong value is not repeated either.
        let app_id: Option<Arc<str>> = root.require_secret("app_id", credential::app_id).map(Into::into);
        let app_secret = root.require_secret("app_secret", credential::secret);
        let verification_token = root.require_secret("verification_token", credential::guard);
        let encrypt_key = root.take_secret("encrypt_key", credential::guard);
        if root.is_blank("encrypt_key") {
            read.unsigned = Some(tree.written("encrypt_key").unwrap_or(&tree.place).clone());
        }
        read.app = app_id.clone().map(|id| App {
            id,
            place: tree.written("app_id").unwrap_or(&tree.place).clone(),
        });
        if let (Some(app_id), Some(app_secret), Some(verification_token)) = (app_id, app_secret, verification_token) {
            read.credentials = Some(Credentials {
                app_id,
                app_secret,
                verification_token,
                encrypt_key,
            });
        }
    });
    read
}

/// That an app belongs to another bot already.
pub(super) fn app_taken(app: &App, owner: &BotId) -> Mistake {
    let sentence = format!(
        "`{}` is the app of bot {owner} too: every bot needs an app of its own",
        app.id
    );
    Mistake::new(app.place.clone(), "app_id", sentence)
}

impl Notes {
    /// Takes the node's keys out of a bot's tree.
    fn ignore_node_keys(&mut self, tree: &mut Node) {
        let place = tree.place.source.clone();
        let Value::Map(entries) = &mut tree.value else {
            return;
        };
        let node_key = |key: &str| node::SECTIONS.contains(&key);
        let ignored: Vec<&str> = entries
            .iter()
            .map(|it| it.key.as_str())
            .filter(|it| node_key(it))
            .collect();
        if !ignored.is_empty() {
            self.ignored.push(format!("{} in {place}", ignored.join(", ")));
        }
        entries.retain(|entry| !node_key(&entry.key));
    }

    fn note_not_yet(&mut self, tree: &Node) {
        for path in NOT_YET {
            if let Some(place) = tree.written(path) {
                self.not_yet.entry(path).or_insert_with(|| place.clone());
            }
        }
    }

    fn not_yet_sentences(&self) -> Vec<String> {
        let sentence =
            |(path, place): (&&str, &Place)| format!("{place}: `{path}` is set but this version does not serve it yet");
        self.not_yet.iter().map(sentence).collect()
    }

    fn warnings(self) -> Vec<String> {
        let mut warnings = Vec::new();
        if !self.ignored.is_empty() {
            let ignored = self.ignored.join("; ");
            warnings.push(format!(
                "keys of the node in a bot's config.yaml hold only when that bot is run alone; ignored: {ignored}"
            ));
        }
        if !self.echo.is_empty() {
            let bots = self.echo.join(", ");
            warnings.push(format!(
                "no `handler` for {bots}: every text is answered with itself (`kind: echo`)"
            ));
        }
        if !self.plaintext.is_empty() {
            let bots = self.plaintext.join(", ");
            warnings.push(format!(
                "no encrypt_key for {bots}: events are authenticated by the verification token alone"
            ));
        }
        warnings
    }
}
