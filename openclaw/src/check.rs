//! `openclaw check`: every mistake in the configuration at once, then a look at each server and at each bot's app.
//!
//! | file | job |
//! |---|---|
//! | `report` | findings, for people or for machines, and how the program ends |
//! | `apps` | each bot's app, at Feishu |
//!
//! What is asked of a server stands beside its driver (`checkup.rs` in RabbitMQ's, Redis's and PostgreSQL's folders), because
//! roles say the same of it when they start.

mod apps;
mod report;

use std::sync::Arc;

use openclaw_backends::caches::memory::Memory;
use openclaw_common::checkup::Finding;
use openclaw_common::config::{self, Environment, Loaded};
use openclaw_worker::feishu::Examiner;

use self::report::Report;
use crate::cli::Check;
use crate::exit::Failure;

/// What the files themselves are called.
const CONFIGURATION: &str = "configuration";

pub(crate) async fn run(arguments: Check) -> Result<(), Failure> {
    let folder = &arguments.folder.config;
    let mut report = Report::new(arguments.json);
    let loaded = match config::load(folder, &Environment::of_process()) {
        Ok(loaded) => loaded,
        Err(mistakes) => {
            for mistake in mistakes.iter() {
                report.mistake(mistake);
            }
            return Err(Failure::usage(mistakes));
        }
    };
    for sentence in loaded.warnings.iter().chain(&loaded.not_yet) {
        report.add(Finding::warning(CONFIGURATION, sentence, ""));
    }
    let names: Vec<_> = loaded.bots.iter().map(|bot| bot.id.as_str()).collect();
    let bots = if names.is_empty() {
        "none yet".to_owned()
    } else {
        names.join(", ")
    };
    let detail = format!("{}: the configuration is valid; bots: {bots}", folder.display());
    report.add(Finding::ok(CONFIGURATION, detail));
    if !arguments.offline {
        look(&loaded, &mut report).await?;
    }
    report.end()
}

async fn look(loaded: &Loaded, report: &mut Report) -> Result<(), Failure> {
    let examiner = Examiner::new(Arc::new(Memory::new())).map_err(|error| anyhow::anyhow!(error))?;
    let queues: Vec<_> = loaded.bots.all_served().map(|bot| bot.id.clone()).collect();
    let (servers, apps) = tokio::join!(
        openclaw_backends::checkup(&loaded.config.backend, &loaded.config.database, &queues),
        apps::look(&examiner, &loaded.bots),
    );
    servers.into_iter().chain(apps).for_each(|finding| report.add(finding));
    Ok(())
}
