//! The benchmark harness: what OpenClaw promises about speed, quota and faults, measured on real processes and servers.
//!
//! `./dev bench` and `./dev soak` build it, start the servers and run it. Every figure is a ratio of things measured in one
//! run, or says what machine it is from.
//!
//! | file | measures |
//! |---|---|
//! | `soak` | kills and restarts under load: lost, doubled, over quota, out of order |
//! | `quota` | the send limits: violations and use, beside simpler algorithms |
//! | `speed` | rates and latencies beside their yardsticks |
//! | `growth` | the same load on more bots, workers, bytes and rows |
//! | `hour` | an hour's worth of events: memory, tables, nothing lost |
//! | `load` | the load driver |
//! | `yardstick` | what the product is measured against |
//! | `topology` | the product's queues, as measurements use them |
//! | `report` | goals, figures and the tables under docs/ |
//! | `machine` | where the figures are from |
//! | `usage` | what a process has used of it |
//! | `plot` | draws them |

mod growth;
mod hour;
mod load;
mod machine;
mod plot;
mod quota;
mod report;
mod soak;
mod speed;
mod topology;
mod usage;
mod yardstick;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Debug, Parser)]
#[command(
    name = "openclaw-bench",
    about = "Measures OpenClaw on this machine; run it by ./dev bench and ./dev soak"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Random kills and restarts under load, and what became of every event
    Soak(soak::Soak),
    /// The send limits under every disturbance
    Quota(quota::Quota),
    /// Rates and latencies beside their yardsticks
    Speed(speed::Speed),
    /// The same load on more bots, more workers, larger bodies and a full database
    Growth(growth::Growth),
    /// An hour's worth of events: memory, growth of the tables, nothing lost or doubled
    Hour(hour::Hour),
    /// A yardstick's process
    #[command(hide = true)]
    Yardstick(yardstick::Yardstick),
}

/// 0: every goal was reached. 1: one was not, and the report says which.
#[tokio::main]
async fn main() -> anyhow::Result<ExitCode> {
    // An error means that one is installed already.
    rustls::crypto::ring::default_provider().install_default().ok();
    let reached = match Cli::parse().command {
        Command::Soak(soak) => soak.run().await?,
        Command::Quota(quota) => quota.run().await?,
        Command::Speed(speed) => speed.run().await?,
        Command::Growth(growth) => growth.run().await?,
        Command::Hour(hour) => hour.run().await?,
        Command::Yardstick(yardstick) => yardstick.run().await?,
    };
    Ok(if reached { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
