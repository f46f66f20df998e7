//! The command line.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use openclaw_common::store::UnknownChoice;
use openclaw_common::time;

use crate::exit::Failure;

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
    run: Bare,
}

impl Cli {
    /// What is to be done.
    pub(crate) fn command(self) -> Result<Command, Failure> {
        match (self.command, self.run.config) {
            (Some(command), _) => Ok(command),
            (None, Some(config)) => Ok(Command::Run(Node {
                folder: Folder { config },
                port: self.run.port,
                metrics_port: self.run.metrics_port,
            })),
            (None, None) => Err(Failure::usage(
                "which configuration folder? give it by -c, or a command: see `openclaw --help`",
            )),
        }
    }
}

/// A [`Node`] that need not be there. An `Option<Node>` would not do: clap makes one only when an argument of its own was
/// given, and `-c` is one of its folder's.
#[derive(Args, Debug)]
struct Bare {
    /// Configuration folder: `config/` for all bots in it, `config/bot1` for that one
    #[arg(short = 'c', long = "config", value_name = "DIR")]
    config: Option<PathBuf>,
    /// Listen here instead of `server.port`
    #[arg(long, value_name = "PORT")]
    port: Option<u16>,
    /// Serve metrics here instead of `monitoring.metrics.port`
    #[arg(long, value_name = "PORT")]
    metrics_port: Option<u16>,
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
    /// Name every mistake in the configuration, then look at each server, and at each bot's app
    Check(Check),
    /// Bring the database's schema to this version
    Migrate(Folder),
    /// Look at what was given up, send it again, or close it
    #[command(subcommand)]
    Dlq(Dlq),
    /// Send one message through the running node
    Send(Send),
    /// Look at the monthly calls, and let a stopped tenant go on
    #[command(subcommand)]
    Quota(Quota),
    /// Make encryption keys
    #[command(subcommand)]
    Keys(Keys),
    /// The Feishu simulator alone
    Sim(Sim),
}

/// One message.
#[derive(Args, Debug)]
pub(crate) struct Send {
    #[command(flatten)]
    pub(crate) folder: Folder,
    /// Through this bot
    #[arg(long, required_unless_present = "pool", conflicts_with = "pool")]
    pub(crate) bot: Option<String>,
    /// Through this pool's bot with the earliest free slot
    #[arg(long)]
    pub(crate) pool: Option<String>,
    /// To this chat (`oc_…`), person (`ou_…`, `on_…`, an email address) or user id
    #[arg(long, value_name = "ID")]
    pub(crate) to: String,
    /// What it says
    #[arg(long)]
    pub(crate) text: String,
    /// The same key again is the same message, sent once
    #[arg(long, value_name = "KEY")]
    pub(crate) idempotency_key: Option<String>,
    /// Where the node listens, instead of `server.port`
    #[arg(long, value_name = "PORT")]
    pub(crate) port: Option<u16>,
    /// For machines: `{"id":…}`
    #[arg(long)]
    pub(crate) json: bool,
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
    /// For machines: JSON, one object a line
    #[arg(long)]
    pub(crate) json: bool,
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
pub(crate) enum Dlq {
    /// List dead letters, newest first
    List(DlqList),
    /// Everything about dead letters, with their actions
    Show(DlqShow),
    /// Send again what was not sent: oldest first, slowly, and no further when most of it dies again
    Replay(DlqReplay),
    /// Close dead letters for good
    Drop(DlqDrop),
}

/// Which dead letters; all open ones when nothing is said.
#[derive(Args, Debug)]
pub(crate) struct Selection {
    #[command(flatten)]
    pub(crate) folder: Folder,
    /// Only this bot's
    #[arg(long)]
    pub(crate) bot: Option<String>,
    /// Only this class: `permanent`, `exhausted`, `ambiguous`, `stale`, `poison`, `handler`, `delivery_limit`, …
    #[arg(long)]
    pub(crate) class: Option<String>,
    /// Only this code of Feishu's
    #[arg(long, value_name = "N")]
    pub(crate) code: Option<i64>,
    /// Only what died since: a time (`2026-11-23T08:00:00Z`) or so long ago (`2h`)
    #[arg(long, value_name = "T", value_parser = since)]
    pub(crate) since: Option<i64>,
    /// Only this one
    #[arg(long)]
    pub(crate) id: Option<i64>,
    /// For machines: JSON, one object a line
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args, Debug)]
pub(crate) struct DlqList {
    #[command(flatten)]
    pub(crate) selection: Selection,
    /// Also those that were replayed or dropped
    #[arg(long)]
    pub(crate) all: bool,
}

#[derive(Args, Debug)]
pub(crate) struct DlqShow {
    #[command(flatten)]
    pub(crate) selection: Selection,
    /// Also what was said and what was to be answered: somebody's messages, opened with the key ring
    #[arg(long)]
    pub(crate) body: bool,
}

#[derive(Args, Debug)]
pub(crate) struct DlqReplay {
    #[command(flatten)]
    pub(crate) selection: Selection,
    /// Only count, by class
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Letters a second, for each bot [default: a fifth of the bot's quota]
    #[arg(long, value_name = "N", value_parser = rate)]
    pub(crate) rate: Option<f64>,
    /// What becomes of sends whose outcome nobody can tell [default: their letters are skipped]
    #[arg(long, value_enum)]
    pub(crate) unknown: Option<Unknown>,
    /// Also what was replayed three times already
    #[arg(long)]
    pub(crate) force: bool,
}

#[derive(Args, Debug)]
pub(crate) struct DlqDrop {
    #[command(flatten)]
    pub(crate) selection: Selection,
    /// Only count, by class
    #[arg(long)]
    pub(crate) dry_run: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Unknown {
    /// Send it again as a new message: it may be visible twice
    Resend,
    /// Take it as sent: it may be lost
    Drop,
}

impl Unknown {
    pub(crate) fn choice(self) -> UnknownChoice {
        match self {
            Self::Resend => UnknownChoice::Resend,
            Self::Drop => UnknownChoice::Drop,
        }
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum Quota {
    /// Each tenant's calls this month, its budget, and whether it is stopped
    Show(Tenants),
    /// Let stopped tenants go on, once Feishu has calls for them again
    Resume(Tenants),
}

/// Which tenants; all when nothing is said.
#[derive(Args, Debug)]
pub(crate) struct Tenants {
    #[command(flatten)]
    pub(crate) folder: Folder,
    /// Only this bot's
    #[arg(long)]
    pub(crate) bot: Option<String>,
    /// For machines: JSON, one object a line
    #[arg(long)]
    pub(crate) json: bool,
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

/// Unix milliseconds.
fn since(text: &str) -> Result<i64, String> {
    if let Ok(time) = text.parse::<jiff::Timestamp>() {
        return Ok(time.as_millisecond());
    }
    let ago = duration(text)
        .map_err(|_| "give a time such as 2026-11-23T08:00:00Z, or a duration such as 90m or 2h".to_owned())?;
    Ok(time::now_ms().saturating_sub(i64::try_from(ago.as_millis()).unwrap_or(i64::MAX)))
}

/// Letters a second. Slower than one in three years or faster than a million is a slip of the finger.
fn rate(text: &str) -> Result<f64, String> {
    match text.trim_end_matches("/s").parse::<f64>() {
        Ok(rate) if (1e-8..=1e6).contains(&rate) => Ok(rate),
        _ => Err("give letters a second, such as 5 or 0.5".to_owned()),
    }
}
