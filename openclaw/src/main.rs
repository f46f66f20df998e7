//! The one program.
//!
//! | module | job |
//! |---|---|
//! | [`cli`] | the command line |
//! | [`node`] | what every role does before it starts: configuration, logs, sockets, backends |
//! | [`roles`] | `run`, `ingest`, `worker` |
//! | [`check`] | every mistake in the configuration, then each dependency |
//! | [`dlq`] | dead letters: list, show, replay, drop |
//! | [`send`] | one message through the running node |
//! | [`quota`] | monthly calls: show, resume |
//! | [`demo`] | the pipeline at work against a simulated Feishu |
//! | [`keys`], [`migrate`], [`simulator`] | the small commands |
//! | [`exit`], [`mod@print`], [`signals`] | how it ends, speaks and stops |

mod check;
mod cli;
mod demo;
mod dlq;
mod exit;
mod keys;
mod migrate;
mod node;
mod print;
mod queues;
mod quota;
mod readable;
mod roles;
mod send;
mod signals;
mod simulator;

use std::process::ExitCode;

use clap::Parser;
use clap::error::ErrorKind;

use crate::cli::{Cli, Command};
use crate::exit::Failure;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            drop(error.print());
            return match error.kind() {
                ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => ExitCode::SUCCESS,
                _ => Failure::usage("").exit_code(),
            };
        }
    };
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            print::failure(&failure.to_string());
            failure.exit_code()
        }
    }
}

fn run(cli: Cli) -> Result<(), Failure> {
    let command = cli.command()?;
    // Only fails when another provider was installed before, and nobody else does that.
    drop(rustls::crypto::ring::default_provider().install_default());
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| anyhow::anyhow!("no runtime: {error}"))?;
    runtime.block_on(async move {
        match command {
            Command::Demo(arguments) => demo::run(arguments).await,
            Command::Run(arguments) => roles::run(arguments).await,
            Command::Ingest(arguments) => roles::ingest(arguments).await,
            Command::Worker(arguments) => roles::worker(arguments).await,
            Command::Check(arguments) => check::run(arguments).await,
            Command::Migrate(arguments) => migrate::run(arguments).await,
            Command::Dlq(command) => dlq::run(command).await,
            Command::Send(arguments) => send::run(arguments).await,
            Command::Quota(command) => quota::run(command).await,
            Command::Keys(command) => keys::run(&command),
            Command::Sim(arguments) => simulator::run(arguments).await,
        }
    })
}
