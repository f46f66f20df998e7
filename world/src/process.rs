//! A running `openclaw` process.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use testkit::eventually;

const START: Duration = Duration::from_secs(20);
const STOP: Duration = Duration::from_secs(40);

/// What no log may hold: parts of the secrets of every test's world.
const SECRETS: [&str; 4] = ["secret-of-", "token-of-", "key-of-", "openclaw:openclaw"];

/// One role of one node; killed when dropped. Its log must be free of secrets, and of panics nobody asked for.
pub struct Process {
    child: Child,
    log: Arc<Mutex<Vec<String>>>,
    /// What it was started as.
    pub role: String,
    folder: PathBuf,
    /// Where it listens.
    pub address: SocketAddr,
    may_panic: bool,
}

/// The program of the build that runs this: cargo puts it beside its benchmarks, and one folder above its tests.
fn program() -> PathBuf {
    let here = std::env::current_exe().unwrap();
    let program = here.ancestors().skip(1).take(2).map(|folder| folder.join("openclaw"));
    program
        .into_iter()
        .find(|program| program.is_file())
        .unwrap_or_else(|| {
            panic!(
                "there is no `openclaw` beside {}: cargo build --package openclaw",
                here.display()
            )
        })
}

/// `openclaw` with these arguments, to be run to its end.
///
/// # Panics
/// When this build has no `openclaw`.
pub fn openclaw(arguments: &[&str]) -> Command {
    let mut command = Command::new(program());
    command.args(arguments).stdin(Stdio::null());
    command
}

/// What no log may hold, when this line holds it.
pub fn improper(line: &str) -> Option<&'static str> {
    if SECRETS.iter().any(|secret| line.contains(secret)) {
        return Some("a secret");
    }
    line.contains("panicked").then_some("a panic")
}

impl Process {
    /// Starts a role on free ports and waits until it is ready.
    pub async fn start(role: &str, folder: &Path) -> Self {
        let process = Self::spawn(role, folder).await;
        process.ready().await;
        process
    }

    /// Starts a role on free ports and waits until it has said where it listens.
    pub async fn spawn(role: &str, folder: &Path) -> Self {
        Self::spawn_with(role, folder, 0, &[]).await
    }

    /// Starts a role with these variables, such as a fail point, and waits until it is ready.
    pub async fn start_with(role: &str, folder: &Path, variables: &[(&str, &str)]) -> Self {
        let process = Self::spawn_with(role, folder, 0, variables).await;
        process.ready().await;
        process
    }

    /// Kills it and starts another one in its place, on the same port; ready when this returns.
    pub async fn kill_and_replace(&mut self) {
        let next = (self.role.clone(), self.folder.clone(), self.address.port());
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        *self = Self::spawn_with(&next.0, &next.1, next.2, &[]).await;
        self.ready().await;
    }

    /// Starts a role on this port (0: a free one) with these variables, and waits until it has said where it listens.
    pub async fn spawn_with(role: &str, folder: &Path, port: u16, variables: &[(&str, &str)]) -> Self {
        let place = folder.to_str().unwrap();
        let port = port.to_string();
        let mut child = openclaw(&[role, "-c", place, "--port", &port, "--metrics-port", "0"])
            .envs(variables.iter().copied())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let log = Arc::new(Mutex::new(Vec::new()));
        let (stderr, lines) = (child.stderr.take().unwrap(), log.clone());
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                lines.lock().unwrap().push(line);
            }
        });
        let (mut address, mut ended) = (None, None);
        eventually(&format!("openclaw {role} says where it listens"), START, async || {
            let lines = log.lock().unwrap();
            address = lines
                .iter()
                .find_map(|line| line.split("address=").nth(1)?.split_whitespace().next()?.parse().ok());
            // One that is to crash may have said it, and ended, before this look.
            let early = address.is_none() && std::mem::replace(&mut ended, child.try_wait().unwrap()).is_some();
            assert!(!early, "openclaw {role} ended: {ended:?}\n{}", lines.join("\n"));
            address.is_some()
        })
        .await;
        Self {
            child,
            log,
            role: role.to_owned(),
            folder: folder.to_owned(),
            address: address.unwrap(),
            may_panic: variables.iter().any(|(_, value)| value.ends_with("!panic")),
        }
    }

    /// Waits until `/readyz` says 200.
    #[expect(
        clippy::disallowed_methods,
        reason = "one call in a test, which has a deadline of its own"
    )]
    pub async fn ready(&self) {
        // reqwest wants a TLS provider even for plain HTTP.
        rustls::crypto::ring::default_provider().install_default().ok();
        let url = format!("http://{}/readyz", self.address);
        let log = self.log.clone();
        eventually(
            &format!("{url} is ready; log:\n{}", log.lock().unwrap().join("\n")),
            START,
            async || reqwest::get(&url).await.is_ok_and(|answer| answer.status() == 200),
        )
        .await;
    }

    /// Its address as a URL.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The process's id, for who measures it.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// SIGKILL, and the body is cleared away.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// SIGTERM; how it ended.
    pub async fn stop(mut self) -> ExitStatus {
        self.signal(Signal::TERM);
        self.ended("a stopped process ends").await
    }

    /// Waits for it to end by itself.
    pub async fn ended(&mut self, what: &str) -> ExitStatus {
        let mut ended = None;
        eventually(what, STOP, async || {
            ended = self.child.try_wait().unwrap();
            ended.is_some()
        })
        .await;
        ended.unwrap()
    }

    /// Whether it has ended by itself.
    pub fn is_gone(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_raw(self.child.id().cast_signed()).unwrap(), signal).unwrap();
    }

    /// The log of a process in a test that failed is what its reader needs.
    fn keep(&self, log: &str) {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/test-logs");
        let name = format!(
            "{}-{}-{}",
            std::thread::current().name().unwrap_or("test").replace("::", "."),
            self.role,
            self.child.id()
        );
        // Without the log the failure still stands.
        fs::create_dir_all(&folder)
            .and_then(|()| fs::write(folder.join(name), log))
            .ok();
    }

    /// Everything it has said so far.
    pub fn log(&self) -> String {
        self.log.lock().unwrap().join("\n")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Already gone when killed or stopped on purpose.
        self.child.kill().ok();
        self.child.wait().ok();
        let log = self.log();
        if std::thread::panicking() {
            self.keep(&log);
            return;
        }
        for line in log.lines() {
            match improper(line) {
                Some("a panic") if self.may_panic => {}
                Some(what) => panic!("openclaw {} prints {what}: {line}\n{log}", self.role),
                None => {}
            }
        }
    }
}
