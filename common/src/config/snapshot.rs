//! The text of a configuration folder at one moment: what is parsed, and what tells a changed folder from an equal one.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::mistake::{Mistake, Place};

const NODE_FILE: &str = "config.yaml";
const CREDENTIALS_FILE: &str = "credentials.yaml";
/// The other common ending: such a file would be passed over and its bot be missed only in production.
const MISNAMED: [(&str, &str); 2] = [("config.yml", NODE_FILE), ("credentials.yml", CREDENTIALS_FILE)];
/// A configuration is a few KiB: more is a mistaken path, and must not be read into memory every few seconds.
const MAX_FILE_BYTES: u64 = 4 * 1024 * 1024;

/// What the `-c` folder is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// `config/`: the node, with a folder for each bot.
    Folder,
    /// `config/bot1`: one bot alone, recognised by its `credentials.yaml`.
    Single,
}

/// One file's text, or why it cannot be read.
pub(super) struct File {
    pub(super) name: Arc<str>,
    pub(super) text: Result<String, String>,
}

/// One bot's folder.
pub(super) struct BotFiles {
    pub(super) folder: Place,
    /// The folder's own name: the bot's id.
    pub(super) name: String,
    /// `None` when absent, and in the single form, where it is the node's file.
    pub(super) config: Option<File>,
    pub(super) credentials: File,
}

pub(super) struct Snapshot {
    pub(super) dir: PathBuf,
    pub(super) form: Form,
    pub(super) node: Option<File>,
    /// By folder name.
    pub(super) bots: Vec<BotFiles>,
    /// Every visible subfolder: where the next bot may appear.
    pub(super) subfolders: Vec<PathBuf>,
    /// Files and folders with names that cannot be meant.
    pub(super) mistakes: Vec<Mistake>,
}

impl Form {
    /// Looks at the folder.
    pub(super) fn of(dir: &Path) -> Result<Self, Mistake> {
        let refuse = |sentence: String| Err(Mistake::new(place(dir), "", sentence));
        match fs::metadata(dir) {
            Ok(found) if !found.is_dir() => refuse("is a file: give the folder it is in".to_owned()),
            Ok(_) if dir.join(CREDENTIALS_FILE).exists() => Ok(Self::Single),
            Ok(_) => Ok(Self::Folder),
            Err(error) if error.kind() == io::ErrorKind::NotFound => refuse("does not exist".to_owned()),
            Err(error) => refuse(format!("cannot be read: {error}")),
        }
    }
}

impl Snapshot {
    /// Reads all files. An error only when the folder itself cannot be listed in full; a file that cannot be read is told
    /// apart from one that is not there.
    pub(super) fn take(dir: &Path, form: Form) -> Result<Self, Mistake> {
        let unreadable = |error: io::Error| Mistake::new(place(dir), "", format!("cannot be read: {error}"));
        let mut subfolders = Vec::new();
        for entry in fs::read_dir(dir).map_err(unreadable)? {
            let path = entry.map_err(unreadable)?.path();
            let hidden = path
                .file_name()
                .is_none_or(|name| name.as_encoded_bytes().starts_with(b"."));
            if hidden {
                continue;
            }
            match fs::metadata(&path) {
                Ok(found) if found.is_dir() => subfolders.push(path),
                Ok(_) => {}
                // It has just gone, or is a link that leads nowhere.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                // A bot whose folder a disk does not tell of is no bot that was removed.
                Err(error) => return Err(unreadable(error)),
            }
        }
        subfolders.sort();
        let mut snapshot = Self {
            dir: dir.to_owned(),
            form,
            node: File::read(dir.join(NODE_FILE)),
            bots: Vec::new(),
            subfolders,
            mistakes: Vec::new(),
        };
        snapshot.note_misnamed(dir);
        match form {
            Form::Single => snapshot.add_bot(dir, None),
            Form::Folder => {
                for folder in snapshot.subfolders.clone() {
                    snapshot.note_misnamed(&folder);
                    snapshot.add_bot(&folder, File::read(folder.join(NODE_FILE)));
                }
            }
        }
        Ok(snapshot)
    }

    fn add_bot(&mut self, folder: &Path, config: Option<File>) {
        if let Some(credentials) = File::read(folder.join(CREDENTIALS_FILE)) {
            self.bots.push(BotFiles {
                folder: place(folder),
                name: folder_name(folder),
                config,
                credentials,
            });
        }
    }

    fn note_misnamed(&mut self, folder: &Path) {
        for (wrong, right) in MISNAMED {
            let path = folder.join(wrong);
            if path.is_file() && !folder.join(right).exists() {
                let sentence = format!("is not read: rename it to {right}");
                self.mistakes.push(Mistake::new(place(&path), "", sentence));
            }
        }
    }

    /// Equal for equal files. A hash, so that the watcher keeps no second copy of all credentials.
    pub(super) fn digest(&self) -> blake3::Hash {
        let mut hasher = blake3::Hasher::new();
        let bots = self
            .bots
            .iter()
            .flat_map(|bot| bot.config.iter().chain([&bot.credentials]));
        for file in self.node.iter().chain(bots) {
            let (tag, text) = match &file.text {
                Ok(text) => (b"+", text),
                Err(reason) => (b"-", reason),
            };
            for part in [file.name.as_bytes(), tag, text.as_bytes()] {
                hasher.update(&part.len().to_le_bytes());
                hasher.update(part);
            }
        }
        for mistake in &self.mistakes {
            hasher.update(mistake.to_string().as_bytes());
        }
        hasher.finalize()
    }
}

impl File {
    /// `None` when there is no such file.
    fn read(path: PathBuf) -> Option<Self> {
        let text = match fs::metadata(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
            Err(error) => Err(format!("cannot be read: {error}")),
            Ok(found) if !found.is_file() => Err("is not a file".to_owned()),
            Ok(found) if found.len() > MAX_FILE_BYTES => Err("is larger than 4 MiB".to_owned()),
            Ok(_) => match fs::read_to_string(&path) {
                Ok(text) => Ok(text),
                // Removed since the line above.
                Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
                Err(error) if error.kind() == io::ErrorKind::InvalidData => Err("is not UTF-8 text".to_owned()),
                Err(error) => Err(format!("cannot be read: {error}")),
            },
        };
        let name = path.display().to_string().into();
        Some(Self { name, text })
    }
}

/// A path as a mistake's place, the way the operator wrote it.
pub(super) fn place(path: &Path) -> Place {
    Place::whole(path.display().to_string())
}

/// The folder's name; for `.` and the like, the name of what it stands for.
fn folder_name(folder: &Path) -> String {
    let real = || fs::canonicalize(folder).ok()?.file_name().map(ToOwned::to_owned);
    let name = folder.file_name().map(ToOwned::to_owned).or_else(real);
    name.map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}
