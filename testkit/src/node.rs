//! A RabbitMQ node of a test's own, for what would hurt every other test: stopping, killing, starving it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::rabbitmq::Vhost;
use crate::{addresses, eventually, free_port, unique_name};

/// Longest time from start to the management API's first answer; usually 10 s, Erlang starts slowly on a busy machine.
const START: Duration = Duration::from_secs(90);
const STOP: Duration = Duration::from_secs(30);

/// A broker process. Killed, and its folder removed, with this value.
#[derive(Debug)]
pub struct RabbitNode {
    folder: PathBuf,
    /// AMQP, management API, metrics, Erlang distribution.
    ports: [u16; 4],
    server: Child,
}

impl RabbitNode {
    pub(crate) async fn start() -> Self {
        let folder = addresses::nodes().join(unique_name());
        fs::create_dir_all(&folder).expect("a folder under target/services: run `./dev services up`");
        let ports = std::array::from_fn(|_| free_port());
        let node = Self {
            server: spawn(&folder, ports),
            folder,
            ports,
        };
        node.answers().await;
        node
    }

    /// An empty virtual host on this node; drop it before the node.
    ///
    /// # Panics
    /// When the node does not run.
    pub async fn vhost(&self) -> Vhost {
        let amqp = format!("amqp://openclaw:openclaw@127.0.0.1:{}/%2f", self.ports[0]);
        let api = format!("http://openclaw:openclaw@127.0.0.1:{}", self.ports[1]);
        Vhost::create_on(&amqp, &api).await
    }

    /// Stops the broker as an operator does (SIGTERM), and waits for its end.
    ///
    /// # Panics
    /// When it does not end.
    pub async fn stop(&mut self) {
        self.signal("TERM");
        let server = &mut self.server;
        eventually("a stopped broker ends", STOP, async || {
            server.try_wait().expect("the process can be asked").is_some()
        })
        .await;
    }

    /// SIGKILL to the broker: what was not on disk is gone.
    ///
    /// # Panics
    /// When it has ended before.
    pub fn kill(&mut self) {
        self.signal("KILL");
        self.server.wait().expect("the process can be waited for");
    }

    /// Starts the stopped or killed broker again with its data and waits until it answers.
    ///
    /// # Panics
    /// When it does not answer again.
    pub async fn restart(&mut self) {
        self.server = spawn(&self.folder, self.ports);
        self.answers().await;
    }

    /// `rabbitmqctl` with these arguments.
    ///
    /// # Panics
    /// When it fails; the text is what it said.
    pub async fn ctl(&self, arguments: &[&str]) {
        let mut command = command(&self.folder, self.ports, "rabbitmqctl");
        command.args(arguments);
        let output = tokio::task::spawn_blocking(move || command.output()).await;
        let output = output.expect("no panic").expect("rabbitmqctl runs");
        assert!(
            output.status.success(),
            "rabbitmqctl {arguments:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }

    /// The pid file names the Erlang machine itself; the child is the shell around it.
    fn signal(&self, name: &str) {
        let pid = fs::read_to_string(self.folder.join("pid")).expect("the broker's pid file");
        let status = Command::new("kill").args(["-s", name, pid.trim()]).status();
        assert!(status.is_ok_and(|status| status.success()), "no broker gets SIG{name}");
    }

    async fn answers(&self) {
        let url = format!("http://127.0.0.1:{}/api/health/checks/local-alarms", self.ports[1]);
        // reqwest wants a TLS provider even for plain HTTP; an error means that one is installed already.
        rustls::crypto::ring::default_provider().install_default().ok();
        let client = reqwest::Client::builder()
            .timeout(Duration::from_secs(2))
            .build()
            .expect("an HTTP client");
        eventually("the broker answers", START, async || {
            let asked = client.get(&url).basic_auth("openclaw", Some("openclaw")).send().await;
            asked.is_ok_and(|answer| answer.status().is_success())
                && tokio::net::TcpStream::connect(("127.0.0.1", self.ports[0]))
                    .await
                    .is_ok()
        })
        .await;
    }
}

impl Drop for RabbitNode {
    fn drop(&mut self) {
        if matches!(self.server.try_wait(), Ok(None)) {
            self.kill();
        }
        // What is left under target/services goes with `./dev services down`.
        fs::remove_dir_all(&self.folder).ok();
    }
}

fn spawn(folder: &Path, ports: [u16; 4]) -> Child {
    command(folder, ports, "rabbitmq-server")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("dev.d/rabbitmq-node.bash runs")
}

fn command(folder: &Path, ports: [u16; 4], program: &str) -> Command {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../dev.d/rabbitmq-node.bash");
    let mut command = Command::new(script);
    command
        .arg(folder)
        .args(ports.map(|port| port.to_string()))
        .args([&addresses::epmd_port(), program])
        .stdin(Stdio::null());
    command
}
