//! The folder of the embedded backend: one process at a time, and nobody's but its owner's.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use openclaw_common::checkup::Finding;

const LOCK_FILE: &str = "openclaw.lock";
/// With less than this SQLite soon has no room for its log.
const LEAST_MIB: u64 = 64;
/// A million events of the usual size.
const FEW_MIB: u64 = 1024;

/// The owner's alone: what people wrote to a bot is in here, in the clear unless there is a key ring.
const FOLDER_MODE: u32 = 0o700;
const FILE_MODE: u32 = 0o600;
/// What the group and others may do.
const FOREIGN: u32 = 0o077;

/// Holds a data folder until it is dropped or its process ends, however that happens: the operating system keeps the
/// lock, not the file's presence, so nothing is ever left behind.
#[derive(Debug)]
pub struct DataDirLock {
    path: PathBuf,
    /// Closing it is what releases the lock.
    _file: File,
}

/// Why a data folder cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum DataDirError {
    /// The operator's fault: retry when the other process has ended.
    #[error("{} is in use by {}: stop that one, or give this one another data_dir", .path.display(), holder(.pid))]
    InUse {
        /// The folder.
        path: PathBuf,
        /// The process that holds it, when it has written its number already.
        pid: Option<u32>,
    },
    /// The folder cannot be made or written: permissions, a full disk, a file in its place.
    #[error("{} cannot be used as data_dir: {source}", .path.display())]
    Unusable {
        /// The folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

fn holder(pid: &Option<u32>) -> String {
    pid.map_or_else(|| "another process".to_owned(), |pid| format!("process {pid}"))
}

impl DataDirLock {
    /// Makes the folder when it is not there and takes it. Call it before anything in the folder is opened.
    ///
    /// # Errors
    /// When another process (or another lock of this one) has it, or the folder cannot be written.
    pub fn take(path: &Path) -> Result<Self, DataDirError> {
        let unusable = |source| DataDirError::Unusable {
            path: path.to_owned(),
            source,
        };
        DirBuilder::new()
            .recursive(true)
            .mode(FOLDER_MODE)
            .create(path)
            .map_err(unusable)?;
        let mut file = own_file(&path.join(LOCK_FILE)).map_err(unusable)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::Error(source)) => return Err(unusable(source)),
            Err(TryLockError::WouldBlock) => {
                return Err(DataDirError::InUse {
                    path: path.to_owned(),
                    pid: read_pid(&mut file),
                });
            }
        }
        // The number is for people; the lock itself is already held.
        write_pid(&mut file).map_err(unusable)?;
        close_to_others(path).map_err(unusable)?;
        Ok(Self {
            path: path.to_owned(),
            _file: file,
        })
    }

    /// The folder that is held.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// How much room the file system of a data folder has, the folder's nearest parent while it is not there itself.
#[must_use]
pub fn free_space(folder: &Path) -> Finding {
    const WHAT: &str = "data_dir";
    let there = folder.ancestors().find(|path| path.exists()).unwrap_or(Path::new("."));
    let free = match rustix::fs::statvfs(there) {
        Ok(system) => system.f_bavail.saturating_mul(system.f_frsize),
        Err(error) => {
            let detail = format!("{} cannot be looked at: {error}", there.display());
            return Finding::wrong(WHAT, detail, "look at the folder's owner and rights");
        }
    };
    if !there.is_dir() || rustix::fs::access(there, rustix::fs::Access::WRITE_OK).is_err() {
        let detail = format!("{} cannot be written", there.display());
        return Finding::wrong(WHAT, detail, "give the folder to the user that runs openclaw");
    }
    room(WHAT, &folder.display().to_string(), free)
}

fn room(what: &str, folder: &str, free: u64) -> Finding {
    const MIB: u64 = 1024 * 1024;
    let detail = format!("{} MiB free for {folder}", free / MIB);
    let to_do = "free disk space, or move `backend.embedded.data_dir`: without room events are answered 503";
    if free < LEAST_MIB * MIB {
        Finding::wrong(what, detail, to_do)
    } else if free < FEW_MIB * MIB {
        Finding::warning(what, detail, to_do)
    } else {
        Finding::ok(what, detail)
    }
}

/// Opens a file, made readable by its owner alone when it is not there.
pub(crate) fn own_file(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    let options = options.read(true).write(true).create(true).truncate(false);
    options.mode(FILE_MODE).open(path)
}

/// Takes from the group and from others what they may do with the folder and the files in it, which earlier versions left
/// readable. What belongs to somebody else, such as a mounted volume's root, stays as it is, with a warning.
fn close_to_others(folder: &Path) -> io::Result<()> {
    let mut open = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        // Not through a link: what it points to is not ours.
        if entry.file_type()?.is_file() && is_open(&entry.metadata()?) {
            open.push((entry.path(), FILE_MODE));
        }
    }
    if is_open(&fs::metadata(folder)?) {
        open.push((folder.to_owned(), FOLDER_MODE));
    }
    for (path, mode) in open {
        let (path_shown, mode_shown) = (path.display(), format!("{mode:o}"));
        match fs::set_permissions(&path, Permissions::from_mode(mode)) {
            Ok(()) => tracing::warn!(
                "{path_shown} could be read by other users of this machine: its mode is {mode_shown} now; a backup has to run as the same user"
            ),
            Err(error) => tracing::warn!(
                "{path_shown} can be read by other users of this machine, and cannot be changed ({error}): `chmod {mode_shown}` it"
            ),
        }
    }
    Ok(())
}

fn is_open(metadata: &fs::Metadata) -> bool {
    metadata.permissions().mode() & FOREIGN != 0
}

fn write_pid(file: &mut File) -> io::Result<()> {
    file.set_len(0)?;
    file.seek(SeekFrom::Start(0))?;
    writeln!(file, "{}", std::process::id())
}

fn read_pid(file: &mut File) -> Option<u32> {
    let mut text = String::new();
    file.take(32).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

    use super::*;
    use openclaw_common::checkup::Verdict;

    #[test]
    fn a_second_taker_is_told_the_first_ones_pid_until_it_lets_go() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("not/there/yet");
        let first = DataDirLock::take(&path).unwrap();
        let refused = DataDirLock::take(&path).unwrap_err();
        let pid = std::process::id();
        let expected = format!(
            "{} is in use by process {pid}: stop that one, or give this one another data_dir",
            path.display()
        );
        assert_eq!(refused.to_string(), expected);
        drop(first);
        assert_eq!(DataDirLock::take(&path).unwrap().path(), path);
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn nobody_else_may_look_into_a_new_folder() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("not/there/yet");
        let _lock = DataDirLock::take(&path).unwrap();
        assert_eq!(mode(&path), 0o700);
        assert_eq!(mode(&path.join(LOCK_FILE)), 0o600);
    }

    #[test]
    fn a_folder_that_others_may_read_is_closed_to_them_with_all_its_files() {
        let folder = tempfile::tempdir().unwrap();
        let elsewhere = tempfile::tempdir().unwrap();
        let (outside, link) = (elsewhere.path().join("file"), folder.path().join("link"));
        fs::write(&outside, "").unwrap();
        fs::set_permissions(&outside, Permissions::from_mode(0o644)).unwrap();
        std::os::unix::fs::symlink(&outside, &link).unwrap();
        let files =
            ["openclaw.db", "openclaw.db-wal", "openclaw.db-shm", LOCK_FILE].map(|name| folder.path().join(name));
        for file in &files {
            fs::write(file, "").unwrap();
            fs::set_permissions(file, Permissions::from_mode(0o644)).unwrap();
        }
        fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).unwrap();
        let _lock = DataDirLock::take(folder.path()).unwrap();
        assert_eq!(mode(folder.path()), 0o700);
        for file in &files {
            assert_eq!(mode(file), 0o600, "{}", file.display());
        }
        assert_eq!(mode(&outside), 0o644, "what a link leads to is not ours");
    }

    #[test]
    fn a_file_left_by_a_dead_process_hinders_nobody() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(
            folder.path().join(LOCK_FILE),
            "4294967295 and a long line of the past\n",
        )
        .unwrap();
        let lock = DataDirLock::take(folder.path()).unwrap();
        let text = fs::read_to_string(folder.path().join(LOCK_FILE)).unwrap();
        assert_eq!(text, format!("{}\n", std::process::id()));
        drop(lock);
    }

    #[test]
    fn a_full_disk_is_wrong_and_a_nearly_full_one_unwise() {
        const MIB: u64 = 1024 * 1024;
        let result = |free| room("data_dir", "data", free).result;
        assert_eq!(result(63 * MIB), Verdict::Wrong);
        assert_eq!(result(1023 * MIB), Verdict::Warning);
        assert_eq!(result(1024 * MIB), Verdict::Ok);
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        fs::write(&file, "").unwrap();
        assert_eq!(
            free_space(&file.join("data")).result,
            Verdict::Wrong,
            "no folder can be made below a file"
        );
    }

    #[test]
    fn a_folder_that_cannot_be_made_is_unusable() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        fs::write(&file, "").unwrap();
        assert!(matches!(DataDirLock::take(&file), Err(DataDirError::Unusable { .. })));
    }
}
