//! A PostgreSQL server of a test's own, for what would hurt every other test: stopping it, killing it, failing it over.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use sqlx::{Connection as _, PgConnection};

use crate::postgres::Database;
use crate::{addresses, eventually, free_port, unique_name};

/// Longest time from start to the first answer; usually 2 s with the making of its data, longer after a kill with much to
/// recover.
const START: Duration = Duration::from_secs(60);
const STOP: Duration = Duration::from_secs(30);

/// A PostgreSQL server. Killed, and its folder removed, with this value.
#[derive(Debug)]
pub struct PostgresProcess {
    folder: PathBuf,
    port: u16,
    /// The server it streams from, until it is promoted.
    primary: Option<u16>,
    server: Child,
}

impl PostgresProcess {
    pub(crate) async fn start() -> Self {
        Self::start_of(None).await
    }

    async fn start_of(primary: Option<u16>) -> Self {
        let folder = addresses::clusters().join(unique_name());
        fs::create_dir_all(&folder).expect("a folder under target/services: run `./dev services up`");
        let port = free_port();
        let mut cluster = Self {
            server: spawn(&folder, port, primary),
            folder,
            port,
            primary,
        };
        cluster.answers().await;
        cluster
    }

    /// A standby that streams from this server, with everything it holds so far.
    ///
    /// # Panics
    /// When it cannot be made.
    pub async fn standby(&self) -> Self {
        Self::start_of(Some(self.port)).await
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.port).into()
    }

    /// From now on no transaction may write, in sessions that are open either: a primary that was stood down.
    ///
    /// # Panics
    /// When the server does not answer.
    pub async fn stand_down(&self) {
        self.tell("ALTER SYSTEM SET default_transaction_read_only = on").await;
        self.tell("SELECT pg_reload_conf()").await;
    }

    /// Makes a standby the primary.
    ///
    /// # Panics
    /// When it is none.
    pub async fn promote(&self) {
        self.tell("SELECT pg_promote(true, 30)").await;
    }

    async fn tell(&self, text: &'static str) {
        let mut connection = PgConnection::connect(&self.url()).await.expect("PostgreSQL answers");
        sqlx::query(text)
            .execute(&mut connection)
            .await
            .expect("PostgreSQL obeys");
        connection.close().await.expect("PostgreSQL answers");
    }

    /// An empty database on this server; drop it before the server.
    ///
    /// # Panics
    /// When the server does not run.
    pub async fn database(&self) -> Database {
        Database::create_on(&self.url()).await
    }

    /// Stops the server as an operator does (the fast shutdown): connections end, what was committed is written out.
    ///
    /// # Panics
    /// When it does not end.
    pub async fn stop(&mut self) {
        let pid = self.server.id().to_string();
        let status = Command::new("kill").args(["-s", "INT", &pid]).status();
        assert!(status.is_ok_and(|status| status.success()), "no PostgreSQL gets SIGINT");
        let server = &mut self.server;
        eventually("a stopped PostgreSQL ends", STOP, async || {
            server.try_wait().expect("the process can be asked").is_some()
        })
        .await;
    }

    /// SIGKILL: the next start recovers from the log.
    ///
    /// # Panics
    /// When the process cannot be killed.
    pub fn kill(&mut self) {
        // Killing what has ended already is no error for `Child`.
        self.server.kill().expect("PostgreSQL can be killed");
        self.server.wait().expect("PostgreSQL can be waited for");
    }

    /// Starts the stopped or killed server again with its data and waits until it answers.
    ///
    /// # Panics
    /// When it does not answer again.
    pub async fn restart(&mut self) {
        self.server = spawn(&self.folder, self.port, self.primary);
        self.answers().await;
    }

    fn url(&self) -> String {
        format!("postgres://postgres@127.0.0.1:{}/postgres", self.port)
    }

    /// Started again whenever it ends: a killed server's children hold its memory until they notice.
    async fn answers(&mut self) {
        let (url, begun) = (self.url(), Instant::now());
        while PgConnection::connect(&url).await.is_err() {
            assert!(begun.elapsed() < START, "PostgreSQL does not answer within {START:?}");
            if self.server.try_wait().expect("the process can be asked").is_some() {
                self.server = spawn(&self.folder, self.port, self.primary);
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

impl Drop for PostgresProcess {
    fn drop(&mut self) {
        self.kill();
        // What is left under target/services goes with `./dev services down`.
        fs::remove_dir_all(&self.folder).ok();
    }
}

fn spawn(folder: &Path, port: u16, primary: Option<u16>) -> Child {
    Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("../dev.d/postgres-node.bash"))
        .arg(folder)
        .arg(port.to_string())
        .args(primary.map(|port| port.to_string()))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("dev.d/postgres-node.bash runs")
}
