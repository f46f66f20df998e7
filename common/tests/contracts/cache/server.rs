//! A Redis server of the test's own.

use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use openclaw_common::cache::Cache;
use openclaw_common::caches::redis::Redis;
use openclaw_common::secret::Secret;
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

pub(super) struct Server {
    folder: TempDir,
    process: Child,
    pub(super) port: u16,
}

impl Server {
    pub(super) fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let port = free_port();
        let process = spawn(&folder, port);
        Self { folder, process, port }
    }

    pub(super) fn url(&self) -> Secret {
        Secret::new(format!("redis://127.0.0.1:{}", self.port))
    }

    /// A cache that is connected.
    pub(super) async fn cache(&self) -> Redis {
        let cache = Redis::connect(&self.url()).unwrap();
        reachable(&cache).await;
        cache
    }

    /// For what no cache does: FLUSHALL, CONFIG.
    pub(super) fn admin(&self) -> redis::Connection {
        let client = redis::Client::open(self.url().expose()).unwrap();
        let deadline = std::time::Instant::now() + Duration::from_secs(10);
        loop {
            match client.get_connection() {
                Ok(connection) => return connection,
                Err(error) => assert!(
                    std::time::Instant::now() < deadline,
                    "redis-server does not answer: {error}"
                ),
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// As a power cut would.
    pub(super) fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    /// On the same port, with what its file remembers.
    pub(super) fn restart(&mut self) {
        self.process = spawn(&self.folder, self.port);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Already dead is as good.
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

/// Waits until a cache answers.
pub(super) async fn reachable(cache: &dyn Cache) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while let Err(error) = cache.ping().await {
        assert!(Instant::now() < deadline, "Redis was not reached: {error}");
        sleep(Duration::from_millis(5)).await;
    }
}

pub(super) fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn spawn(folder: &TempDir, port: u16) -> Child {
    Command::new("redis-server")
        .args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "yes", "--port"])
        .arg(port.to_string())
        .arg("--dir")
        .arg(folder.path())
        .stdout(Stdio::null())
        .spawn()
        .expect("redis-server must be installed: apt-get install redis-server")
}
