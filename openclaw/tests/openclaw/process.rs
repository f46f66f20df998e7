//! A running `openclaw` process.

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use testkit::eventually;

const START: Duration = Duration::from_secs(20);
const STOP: Duration = Duration::from_secs(40);

/// One role of one node; killed when dropped.
pub(crate) struct Process {
    child: Child,
    log: Arc<Mutex<Vec<String>>>,
    pub(crate) address: SocketAddr,
}

/// `openclaw` with these arguments, to be run to its end.
pub(crate) fn openclaw(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_openclaw"));
    command.args(arguments).stdin(Stdio::null());
    command
}

impl Process {
    /// Starts a role on free ports and waits until it is ready.
    pub(crate) async fn start(role: &str, folder: &Path) -> Self {
        let process = Self::spawn(role, folder).await;
        process.ready().await;
        process
    }

    /// The same role again, where its predecessor listened.
    pub(crate) async fn start_at(role: &str, folder: &Path, address: SocketAddr) -> Self {
        let process = Self::spawn_at(role, folder, address.port()).await;
        process.ready().await;
        process
    }

    /// Starts a role on free ports and waits until it has said where it listens.
    pub(crate) async fn spawn(role: &str, folder: &Path) -> Self {
        Self::spawn_at(role, folder, 0).await
    }

    async fn spawn_at(role: &str, folder: &Path, port: u16) -> Self {
        let folder = folder.to_str().unwrap();
        let port = port.to_string();
        let mut child = openclaw(&[role, "-c", folder, "--port", &port, "--metrics-port", "0"])
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
        let mut address = None;
        eventually(&format!("openclaw {role} says where it listens"), START, async || {
            let gone = child.try_wait().unwrap();
            let lines = log.lock().unwrap();
            assert!(gone.is_none(), "openclaw {role} ended: {gone:?}\n{}", lines.join("\n"));
            address = lines
                .iter()
                .find_map(|line| line.split("address=").nth(1)?.split_whitespace().next()?.parse().ok());
            address.is_some()
        })
        .await;
        Self {
            child,
            log,
            address: address.unwrap(),
        }
    }

    /// Waits until `/readyz` says 200.
    #[expect(
        clippy::disallowed_methods,
        reason = "one call in a test, which has a deadline of its own"
    )]
    pub(crate) async fn ready(&self) {
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

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// SIGKILL, and the body is cleared away.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// SIGTERM; how it ended.
    pub(crate) async fn stop(mut self) -> ExitStatus {
        self.signal(Signal::TERM);
        let mut ended = None;
        eventually("a stopped process ends", STOP, async || {
            ended = self.child.try_wait().unwrap();
            ended.is_some()
        })
        .await;
        ended.unwrap()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_raw(self.child.id().cast_signed()).unwrap(), signal).unwrap();
    }

    /// Everything it has said so far.
    pub(crate) fn log(&self) -> String {
        self.log.lock().unwrap().join("\n")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Already gone when killed or stopped on purpose.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
