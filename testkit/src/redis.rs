//! A Redis process of its own for each test: it starts in milliseconds, and a test may do to it what happens in life.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::{eventually, free_port};

/// Longest time from start to the first answer; usually 20 ms.
const START: Duration = Duration::from_secs(10);

/// A Redis server with the durability of production (append-only file, synced each second, no eviction).
/// Killed, and its folder removed, with this value.
#[derive(Debug)]
pub struct RedisProcess {
    port: u16,
    folder: TempDir,
    process: Child,
}

impl RedisProcess {
    pub(crate) async fn start() -> Self {
        // The port that was free a moment ago may be taken by another test meanwhile: then the process ends at once.
        for _attempt in 0..20 {
            let port = free_port();
            let folder = TempDir::new().expect("a temporary folder");
            let mut server = Self {
                port,
                process: spawn(port, folder.path()),
                folder,
            };
            if server.answers().await {
                return server;
            }
        }
        panic!("redis-server does not start: run `./dev services up` once, it installs it")
    }

    /// `redis://…`, the same after a restart.
    #[must_use]
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Ends the process at once (SIGKILL): connections break, new ones are refused.
    /// Answered writes are kept: Redis hands them to the kernel before it answers.
    ///
    /// # Panics
    /// When the process cannot be killed.
    pub fn kill(&mut self) {
        end(&mut self.process);
    }

    /// Stops the process as an operator does (SIGTERM), and waits for its end.
    ///
    /// # Panics
    /// When it has ended before.
    pub async fn stop(&mut self) {
        self.signal("TERM");
        let process = &mut self.process;
        eventually("a stopped Redis ends", START, async || {
            process.try_wait().expect("the process can be asked").is_some()
        })
        .await;
    }

    /// Starts the killed (or still running) server again on the same port, with the data its append-only file kept.
    ///
    /// # Panics
    /// When it does not answer again.
    pub async fn restart(&mut self) {
        self.kill();
        self.process = spawn(self.port, self.folder.path());
        assert!(
            self.answers().await,
            "redis-server does not restart on port {}",
            self.port
        );
    }

    /// Like [`restart`](Self::restart), but everything is forgotten: a replaced machine, or a failover that lost data.
    ///
    /// # Panics
    /// When it does not answer again.
    pub async fn restart_empty(&mut self) {
        self.kill();
        self.folder = TempDir::new().expect("a temporary folder");
        self.restart().await;
    }

    /// Stops the process without closing its connections (SIGSTOP): it hangs, as on a frozen machine.
    ///
    /// # Panics
    /// When the process has ended.
    pub fn pause(&self) {
        self.signal("STOP");
    }

    /// Lets a paused process go on (SIGCONT).
    ///
    /// # Panics
    /// When the process has ended.
    pub fn resume(&self) {
        self.signal("CONT");
    }

    /// Runs one command, such as `["FLUSHALL"]`, as an operator would.
    ///
    /// # Panics
    /// When the server does not answer or refuses it.
    pub async fn command(&self, words: &[&str]) {
        let client = redis::Client::open(self.url()).expect("a valid URL");
        let mut connection = client
            .get_multiplexed_async_connection()
            .await
            .expect("Redis takes a connection");
        let mut command = redis::cmd(words.first().expect("a command"));
        for word in words.iter().skip(1) {
            command.arg(word);
        }
        command
            .query_async::<redis::Value>(&mut connection)
            .await
            .unwrap_or_else(|error| panic!("{words:?}: {error}"));
    }

    fn signal(&self, name: &str) {
        let status = Command::new("kill")
            .args(["-s", name, &self.process.id().to_string()])
            .status();
        assert!(
            status.is_ok_and(|status| status.success()),
            "redis-server has ended, it cannot get SIG{name}"
        );
    }

    /// Waits until the server answers; false when its process has ended.
    async fn answers(&mut self) -> bool {
        let client = redis::Client::open(self.url()).expect("a valid URL");
        let begin = Instant::now();
        loop {
            if let Ok(mut connection) = client.get_multiplexed_async_connection().await
                && redis::cmd("PING").query_async::<String>(&mut connection).await.is_ok()
            {
                return true;
            }
            if self.process.try_wait().expect("the process can be asked").is_some() {
                return false;
            }
            assert!(
                begin.elapsed() < START,
                "redis-server on port {} does not answer within {START:?}",
                self.port
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

impl Drop for RedisProcess {
    fn drop(&mut self) {
        end(&mut self.process);
    }
}

fn end(process: &mut Child) {
    // Killing what has ended already is no error for `Child`.
    process.kill().expect("redis-server can be killed");
    process.wait().expect("redis-server can be waited for");
}

/// `setpriv` has the kernel kill the server with the thread that started it, so that a test that is itself killed
/// leaves nothing behind.
fn spawn(port: u16, folder: &Path) -> Child {
    let port = port.to_string();
    Command::new("setpriv")
        .args([
            "--pdeathsig",
            "KILL",
            "redis-server",
            "--port",
            &port,
            "--bind",
            "127.0.0.1",
            "--save",
            "",
        ])
        .args([
            "--appendonly",
            "yes",
            "--appendfsync",
            "everysec",
            "--maxmemory-policy",
            "noeviction",
            "--dir",
        ])
        .arg(folder)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap_or_else(|error| panic!("setpriv (package util-linux) does not start: {error}"))
}
