//! The command line.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

/// Answers the events of many Feishu/Lark bots: never loses one, answers each once, keeps every bot inside its quota.
#[derive(Debug, Parser)]
#[command(
    name = "openclaw",
    version,
    args_conflicts_with_subcommands = true,
    arg_required_else_help = true
)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
    /// Without a command: the same as `run`
    #[command(flatten)]
    pub(crate) run: Option<Node>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Show it working: a simulated Feishu, three bots, everything in one process; ends with a report
    Demo(Demo),
    /// All roles in one process
    Run(Node),
    /// Take events in: HTTP to queue (needs the distributed backend)
    Ingest(Node),
    /// Answer events: queue to Feishu (needs the distributed backend)
    Worker(Node),
    /// Name every mistake in the configuration, then try to reach each dependency
    Check(Check),
    /// Bring the database's schema to this version
    Migrate(Folder),
    /// Make encryption keys
    #[command(subcommand)]
    Keys(Keys),
    /// The Feishu simulator alone
    Sim(Sim),
}

/// The configuration folder.
#[derive(Args, Clone, Debug)]
pub(crate) struct Folder {
    /// Configuration folder: `config/` for all bots in it, `config/bot1` for that one
    #[arg(short = 'c', long = "config", value_name = "DIR")]
    pub(crate) config: PathBuf,
}

/// A role of a node.
#[derive(Args, Clone, Debug)]
pub(crate) struct Node {
    #[command(flatten)]
    pub(crate) folder: Folder,
    /// Listen here instead of `server.port`
    #[arg(long, value_name = "PORT")]
    pub(crate) port: Option<u16>,
    /// Serve metrics here instead of `monitoring.metrics.port`
    #[arg(long, value_name = "PORT")]
    pub(crate) metrics_port: Option<u16>,
}

#[derive(Args, Debug)]
pub(crate) struct Check {
    #[command(flatten)]
    pub(crate) folder: Folder,
    /// Only read the files
    #[arg(long)]
    pub(crate) offline: bool,
}

#[derive(Args, Debug)]
pub(crate) struct Demo {
    /// How long to push events, such as `20s` or `2m`
    #[arg(long, default_value = "20s", value_parser = duration)]
    pub(crate) duration: Duration,
    /// Leave everything running after the report, until Ctrl-C
    #[arg(long)]
    pub(crate) keep: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Keys {
    /// Print a new key for `encryption.keys`
    New,
    /// Print a new key and how to bring it in without losing what the old one sealed
    Rotate,
}

#[derive(Args, Debug)]
pub(crate) struct Sim {
    /// Where the simulated Open API listens
    #[arg(long, default_value = "127.0.0.1:9300")]
    pub(crate) listen: SocketAddr,
    /// How much faster than real its re-push timetable and uuid memory run
    #[arg(long, default_value_t = 1.0)]
    pub(crate) time_scale: f64,
    /// Answer without the platform's limits
    #[arg(long)]
    pub(crate) no_limits: bool,
}

fn duration(text: &str) -> Result<Duration, String> {
    openclaw_common::config::parse_duration(text)
}
