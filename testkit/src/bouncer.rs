//! A PgBouncer of a test's own, before a PostgreSQL.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tokio::net::TcpStream;

use crate::{addresses, eventually, free_port, unique_name};

/// Usually a few milliseconds.
const START: Duration = Duration::from_secs(10);

/// A PgBouncer process. Killed, and its folder removed, with this value.
#[derive(Debug)]
pub struct PgBouncer {
    folder: PathBuf,
    port: u16,
    process: Child,
}

impl PgBouncer {
    /// Before the server at this address, in `transaction` mode unless the settings (`name = value`) say otherwise.
    ///
    /// # Panics
    /// When it does not start.
    pub async fn start(server: SocketAddr, settings: &[&str]) -> Self {
        let folder = addresses::clusters().join(unique_name());
        fs::create_dir_all(&folder).expect("a folder under target/services: run `./dev services up`");
        let port = free_port();
        let process = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("../dev.d/pgbouncer-node.bash"))
            .arg(&folder)
            .args([port.to_string(), server.port().to_string()])
            .args(settings)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("dev.d/pgbouncer-node.bash runs");
        let bouncer = Self { folder, port, process };
        eventually("PgBouncer answers", START, async || {
            TcpStream::connect(bouncer.address()).await.is_ok()
        })
        .await;
        bouncer
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.port).into()
    }
}

impl Drop for PgBouncer {
    fn drop(&mut self) {
        // One that has ended already is no error for `Child`.
        self.process.kill().ok();
        self.process.wait().ok();
        // What is left under target/services goes with `./dev services down`.
        fs::remove_dir_all(&self.folder).ok();
    }
}
