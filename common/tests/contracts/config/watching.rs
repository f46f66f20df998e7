use std::fs;
use std::io::Write;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use openclaw_common::bot::{BotSet, Bots};
use openclaw_common::config::{Environment, follow};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::{Folder, credentials};

/// Far beyond the settling time and the poll together.
const DEADLINE: Duration = Duration::from_secs(20);

/// Everything that was logged on this thread; the tests run their tasks on it.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().expect("the lines").write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Lines {
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().expect("the lines")).into_owned()
    }

    async fn wait_for(&self, part: &str) {
        let seen = async {
            while !self.text().contains(part) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let waited = tokio::time::timeout(DEADLINE, seen).await;
        assert!(waited.is_ok(), "`{part}` was not logged:\n{}", self.text());
    }
}

/// A folder that is followed until the test ends.
struct Followed {
    folder: Folder,
    bots: Bots,
    changes: watch::Receiver<Arc<BotSet>>,
    lines: Lines,
    shutdown: CancellationToken,
    task: JoinHandle<()>,
    _subscriber: tracing::subscriber::DefaultGuard,
}

impl Followed {
    fn new(folder: Folder) -> Self {
        let lines = Lines::default();
        let writer = lines.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_ansi(false)
            .with_writer(move || writer.clone())
            .finish();
        let guard = tracing::subscriber::set_default(subscriber);
        let loaded = folder.load(&[]).expect("a good folder to begin with");
        let shutdown = CancellationToken::new();
        let (bots, following) = follow(&loaded, Environment::default(), shutdown.clone());
        Self {
            changes: bots.watch(),
            folder,
            bots,
            lines,
            shutdown,
            task: tokio::spawn(following),
            _subscriber: guard,
        }
    }

    async fn until(&mut self, what: &str, holds: impl Fn(&BotSet) -> bool) {
        let waited = tokio::time::timeout(DEADLINE, self.changes.wait_for(|set| holds(set))).await;
        assert!(
            waited.is_ok_and(|it| it.is_ok()),
            "never: {what}\n{}",
            self.lines.text()
        );
    }

    fn attempts(&self, bot: &str) -> Option<u32> {
        self.bots.now().get(bot).map(|bot| bot.message.retry.max_attempts)
    }

    async fn stop(self) {
        self.shutdown.cancel();
        let ended = tokio::time::timeout(DEADLINE, self.task).await;
        assert!(ended.is_ok_and(|it| it.is_ok()), "the follower ends with its token");
    }
}

fn two_bots() -> Folder {
    let folder = Folder::new();
    folder
        .write("config.yaml", "handler: { kind: echo }\n")
        .bot("bot1")
        .bot("bot2");
    folder
}

fn attempts(number: u32) -> String {
    format!("message: {{ retry_policy: {{ max_attempts: {number} }} }}\n")
}

#[tokio::test]
async fn bots_are_added_changed_and_removed_while_it_runs() {
    let mut followed = Followed::new(two_bots());
    let untouched = followed.bots.now().get("bot2").expect("bot2").clone();

    followed.folder.bot("bot3");
    followed.until("bot3 is served", |set| set.get("bot3").is_some()).await;
    followed.folder.write("bot1/config.yaml", &attempts(3));
    followed
        .until("bot1 has its own file", |set| {
            set.get("bot1").is_some_and(|bot| bot.message.retry.max_attempts == 3)
        })
        .await;
    fs::remove_dir_all(followed.folder.path().join("bot3")).expect("bot3's folder");
    followed.until("bot3 is gone", |set| set.get("bot3").is_none()).await;

    let now = followed.bots.now();
    assert!(
        Arc::ptr_eq(now.get("bot2").expect("bot2"), &untouched),
        "an unchanged bot is the same object"
    );
    for line in ["bot added bot=bot3", "bot changed bot=bot1", "bot removed bot=bot3"] {
        assert!(
            followed.lines.text().contains(line),
            "{line}\n{}",
            followed.lines.text()
        );
    }
    followed.stop().await;
}

#[tokio::test]
async fn a_broken_file_keeps_its_bot_as_it_was_and_lets_the_others_change() {
    let folder = two_bots();
    folder.write("bot1/config.yaml", &attempts(3));
    let mut followed = Followed::new(folder);
    followed
        .folder
        .write("bot1/config.yaml", "message: { retry_polcy: {} }\n")
        .write("bot2/config.yaml", &attempts(4));
    followed
        .until("bot2 changed", |set| {
            set.get("bot2").is_some_and(|bot| bot.message.retry.max_attempts == 4)
        })
        .await;
    assert_eq!(followed.attempts("bot1"), Some(3));
    let log = followed.lines.text();
    assert!(
        log.contains("ERROR") && log.contains("retry_polcy: unknown key, did you mean `retry_policy`?"),
        "{log}"
    );
    assert!(!log.contains("bot=bot1"), "{log}");

    followed.folder.write("bot1/config.yaml", &attempts(5));
    followed
        .until("bot1 is mended", |set| {
            set.get("bot1").is_some_and(|bot| bot.message.retry.max_attempts == 5)
        })
        .await;
    followed.stop().await;
}

#[tokio::test]
async fn the_nodes_file_changes_what_bots_inherit_and_asks_for_a_restart_for_the_rest() {
    let mut followed = Followed::new(two_bots());
    let broken = format!("handler: {{ kind: echo }}\nserver: {{ prot: 1 }}\n{}", attempts(2));
    followed.folder.write("config.yaml", &broken);
    followed.lines.wait_for("server.prot: unknown key").await;
    assert_eq!(
        followed.attempts("bot1"),
        Some(8),
        "nothing of a broken file is taken over"
    );

    followed.folder.write("config.yaml", &broken.replace("prot", "port"));
    followed
        .until("both inherit", |set| {
            set.iter().all(|bot| bot.message.retry.max_attempts == 2)
        })
        .await;
    let log = followed.lines.text();
    assert_eq!(log.matches("restart for it to take effect").count(), 1, "{log}");
    assert!(log.contains("sections=\"server\""), "{log}");
    followed.stop().await;
}

#[tokio::test]
async fn an_app_stays_with_the_bot_that_has_it_and_may_be_handed_over() {
    let mut followed = Followed::new(two_bots());
    followed
        .folder
        .write("bot0/credentials.yaml", &credentials("bot1"))
        .bot("bot3");
    followed.until("bot3 is served", |set| set.get("bot3").is_some()).await;
    let now = followed.bots.now();
    assert!(now.get("bot0").is_none());
    assert_eq!(now.by_app("cli_bot1").map(|bot| bot.id.as_str()), Some("bot1"));
    assert!(
        followed.lines.text().contains("`cli_bot1` is the app of bot bot1 too"),
        "{}",
        followed.lines.text()
    );

    let path = followed.folder.path();
    fs::rename(path.join("bot1/credentials.yaml"), path.join("bot1/old")).expect("a rename");
    followed
        .until("bot0 has it", |set| {
            set.by_app("cli_bot1").is_some_and(|bot| bot.id.as_str() == "bot0")
        })
        .await;
    assert!(followed.bots.now().get("bot1").is_none());
    followed.stop().await;
}

#[tokio::test]
async fn a_file_written_in_steps_is_read_once_it_is_whole() {
    let mut followed = Followed::new(two_bots());
    let path = followed.folder.path().join("bot1/config.yaml");
    let text = "message:\n  retry_policy:\n    max_attempts: 6\n  orde";
    let mut file = fs::File::create(&path).expect("a file");
    for step in text.as_bytes().chunks(9).chain([&b"r: strict\n"[..]]) {
        file.write_all(step).expect("a step");
        tokio::time::sleep(Duration::from_millis(40)).await;
    }
    followed
        .until("the whole file holds", |set| {
            set.get("bot1").is_some_and(|bot| bot.message.retry.max_attempts == 6)
        })
        .await;
    let log = followed.lines.text();
    assert!(!log.contains("ERROR"), "{log}");
    assert_eq!(log.matches("bot changed").count(), 1, "{log}");
    followed.stop().await;
}

/// Kubernetes mounts a Secret as links through `..data`, and swaps that one link.
#[cfg(unix)]
#[tokio::test]
async fn a_swapped_symlink_is_noticed() {
    use std::os::unix::fs::symlink;
    let folder = two_bots();
    let mount = folder.path().join("bot3");
    folder
        .write("bot3/..v1/credentials.yaml", &credentials("one"))
        .write("bot3/..v2/credentials.yaml", &credentials("two"));
    symlink("..v1", mount.join("..data")).expect("a link");
    symlink("..data/credentials.yaml", mount.join("credentials.yaml")).expect("a link");
    let mut followed = Followed::new(folder);
    assert!(followed.bots.now().by_app("cli_one").is_some());
    symlink("..v2", mount.join("..data_tmp")).expect("a link");
    fs::rename(mount.join("..data_tmp"), mount.join("..data")).expect("the swap");
    followed
        .until("the new credentials hold", |set| {
            set.by_app("cli_two").is_some() && set.by_app("cli_one").is_none()
        })
        .await;
    followed.stop().await;
}

#[tokio::test]
async fn a_folder_that_is_replaced_as_a_whole_is_noticed_and_one_that_vanishes_changes_nothing() {
    let mut followed = Followed::new(two_bots());
    let path = followed.folder.path();
    let aside = path.with_file_name("aside");
    fs::rename(&path, &aside).expect("a rename");
    followed.lines.wait_for("the configuration folder cannot be read").await;
    assert_eq!(followed.bots.now().len(), 2);

    fs::create_dir(&path).expect("the new folder");
    followed
        .folder
        .write("config.yaml", "handler: { kind: echo }\n")
        .bot("bot1")
        .bot("bot3");
    followed
        .until("the new folder holds", |set| {
            set.get("bot3").is_some() && set.get("bot2").is_none()
        })
        .await;
    followed.stop().await;
}
