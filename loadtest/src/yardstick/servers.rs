//! The HTTP yardsticks, each a process like the product: the harness starts itself once more, or Python.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, bail};
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep};
use world::World;

use super::{hello, naive};

const START: Duration = Duration::from_secs(20);
const ANSWER: Duration = Duration::from_secs(1);
/// From uvicorn's first worker to its second, which would otherwise have no connections.
const SECOND_WORKER: Duration = Duration::from_secs(2);

/// `openclaw-bench yardstick`: one of them, until it is killed.
#[derive(Debug, clap::Args)]
pub(crate) struct Yardstick {
    #[arg(long)]
    kind: Kind,
    #[arg(long)]
    listen: SocketAddr,
    #[arg(long, default_value = "")]
    amqp_url: String,
    #[arg(long, default_value = "")]
    redis_url: String,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Kind {
    Naive,
    Hello,
}

impl Yardstick {
    pub(crate) async fn run(self) -> anyhow::Result<bool> {
        let listener = openclaw_common::serve::listen(self.listen)?;
        match self.kind {
            Kind::Naive => naive::serve(listener, &self.amqp_url, &self.redis_url).await?,
            Kind::Hello => hello::serve(listener).await?,
        }
        Ok(true)
    }
}

/// A yardstick that is running; its whole process group is killed with this value.
#[derive(Debug)]
pub(crate) struct Server {
    child: Child,
    pub(crate) address: SocketAddr,
}

impl Server {
    /// The obvious ingest, on the world's broker and Redis.
    pub(crate) async fn naive(world: &World) -> anyhow::Result<Self> {
        let shared = world
            .shared
            .as_ref()
            .context("the naive path needs a distributed world")?;
        let urls = [
            "--amqp-url",
            shared.rabbitmq.amqp_url(),
            "--redis-url",
            &shared.redis.url(),
        ];
        Self::of_harness("naive", &urls).await
    }

    /// axum, answering.
    pub(crate) async fn hello() -> anyhow::Result<Self> {
        Self::of_harness("hello", &[]).await
    }

    /// The obvious ingest in Python, on the world's broker and Redis; `python` has what `loadtest/baseline` requires.
    pub(crate) async fn python(python: &Path, world: &World) -> anyhow::Result<Self> {
        let shared = world
            .shared
            .as_ref()
            .context("the Python path needs a distributed world")?;
        let address = free_address()?;
        let mut command = Command::new(python);
        command
            .args([
                "-m",
                "uvicorn",
                "baseline:app",
                "--workers",
                "2",
                "--loop",
                "uvloop",
                "--http",
                "httptools",
            ])
            .args([
                "--no-access-log",
                "--log-level",
                "error",
                "--host",
                "127.0.0.1",
                "--port",
            ])
            .arg(address.port().to_string())
            .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("baseline"))
            .env("AMQP_URL", shared.rabbitmq.amqp_url())
            .env("REDIS_URL", shared.redis.url());
        let server = Self::start(command, address).await?;
        sleep(SECOND_WORKER).await;
        Ok(server)
    }

    async fn of_harness(kind: &str, arguments: &[&str]) -> anyhow::Result<Self> {
        let address = free_address()?;
        let mut command = Command::new(std::env::current_exe()?);
        command
            .args(["yardstick", "--kind", kind, "--listen", &address.to_string()])
            .args(arguments);
        Self::start(command, address).await
    }

    async fn start(mut command: Command, address: SocketAddr) -> anyhow::Result<Self> {
        let child = command.stdin(Stdio::null()).process_group(0).spawn();
        let child = child.with_context(|| format!("{} does not start", command.get_program().display()))?;
        let mut server = Self { child, address };
        let begun = Instant::now();
        while !answers(address).await {
            if let Some(status) = server.child.try_wait()? {
                bail!("{} ended: {status}", command.get_program().display());
            }
            if begun.elapsed() > START {
                bail!("{} does not listen on {address}", command.get_program().display());
            }
            sleep(Duration::from_millis(20)).await;
        }
        Ok(server)
    }
}

/// Whether HTTP is answered there: a port that takes connections may belong to a program that is still starting.
async fn answers(address: SocketAddr) -> bool {
    let ask = async {
        let mut stream = TcpStream::connect(address).await?;
        stream
            .write_all(b"GET / HTTP/1.1\r\nhost: openclaw\r\nconnection: close\r\n\r\n")
            .await?;
        stream.read_u8().await
    };
    tokio::time::timeout(ANSWER, ask)
        .await
        .is_ok_and(|answer| answer.is_ok())
}

impl Drop for Server {
    fn drop(&mut self) {
        // uvicorn's workers are its children: the whole group goes. What has ended already is as it should be.
        if let Some(group) = Pid::from_raw(self.child.id().cast_signed()) {
            kill_process_group(group, Signal::KILL).ok();
        }
        self.child.wait().ok();
    }
}

fn free_address() -> anyhow::Result<SocketAddr> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?)
}
