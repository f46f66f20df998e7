//! `openclaw quota`: the monthly calls of each tenant, and the operator's word that a stopped one may go on.
//!
//! The Store is the one source of truth; Feishu is not asked, because that would spend calls. With the embedded backend it
//! needs the data folder for itself, like `openclaw dlq`.

use std::collections::BTreeMap;

use openclaw_common::bot::Bot;
use openclaw_common::budget::{self, Month};
use openclaw_common::config::{Budget, SendKind};
use openclaw_common::store::{Spent, Stopped};
use serde::Serialize;

use crate::cli;
use crate::dlq::letter::rfc3339;
use crate::dlq::{Opened, json, store_failure, who};
use crate::exit::Failure;
use crate::print;

pub(crate) async fn run(command: cli::Quota) -> Result<(), Failure> {
    match command {
        cli::Quota::Show(arguments) => show(&arguments).await,
        cli::Quota::Resume(arguments) => resume(&arguments).await,
    }
}

/// One tenant.
#[derive(Debug, Default, Serialize)]
struct Line {
    tenant: String,
    bots: Vec<String>,
    /// In UTC+8, such as `2026-11`.
    month: String,
    /// By kind.
    calls: BTreeMap<String, u64>,
    used: u64,
    forecast: u64,
    /// `quota.budget.calls`.
    budget: Option<u64>,
    percent: Option<u64>,
    /// Kinds of send that wait because of the budget.
    waiting: Vec<&'static str>,
    stopped: Option<Stop>,
}

/// Why and since when it is stopped.
#[derive(Debug, Serialize)]
struct Stop {
    since: String,
    bot: String,
    code: i64,
    error: String,
}

async fn show(arguments: &cli::Tenants) -> Result<(), Failure> {
    let opened = Opened::of("quota", &arguments.folder).await?;
    let spent = opened.store().spent().await.map_err(store_failure)?;
    let stopped = opened.store().stopped_tenants().await.map_err(store_failure)?;
    let mut lines = lines(opened.loaded.bots.iter().map(|bot| &**bot), &spent, &stopped);
    if let Some(tenant) = only(&opened, arguments)? {
        lines.retain(|line| line.tenant == tenant);
    }
    for line in &lines {
        if arguments.json {
            print::line(&json(line)?);
        } else {
            line.sentences().iter().for_each(|sentence| print::line(sentence));
        }
    }
    Ok(())
}

async fn resume(arguments: &cli::Tenants) -> Result<(), Failure> {
    let opened = Opened::of("quota", &arguments.folder).await?;
    let only = only(&opened, arguments)?;
    let stopped = opened.store().stopped_tenants().await.map_err(store_failure)?;
    let tenants: Vec<String> = stopped
        .into_iter()
        .map(|stopped| stopped.stop.tenant)
        .filter(|tenant| only.as_ref().is_none_or(|only| only == tenant))
        .collect();
    let done = match tenants.as_slice() {
        [] => 0,
        tenants => {
            let resumed = opened.store().resume_tenants(tenants, &who()).await;
            resumed.map_err(store_failure)?
        }
    };
    if arguments.json {
        print::line(&json(
            &serde_json::json!({ "matched": tenants.len(), "done": done, "tenants": tenants }),
        )?);
    } else if tenants.is_empty() {
        print::line("no tenant is stopped");
    } else {
        print::line(&format!("resumed {}", tenants.join(", ")));
    }
    Ok(())
}

/// The tenant of `--bot`.
fn only(opened: &Opened, arguments: &cli::Tenants) -> Result<Option<String>, Failure> {
    let Some(id) = &arguments.bot else { return Ok(None) };
    match opened.loaded.bots.get(id) {
        Some(bot) => Ok(Some(bot.tenant().to_owned())),
        None => Err(Failure::usage(format!("--bot: there is no bot `{id}` in this folder"))),
    }
}

/// The tenants of these bots, and whoever else is stopped or has made calls.
fn lines<'a>(bots: impl Iterator<Item = &'a Bot>, spent: &Spent, stopped: &[Stopped]) -> Vec<Line> {
    let mut lines: BTreeMap<String, Line> = BTreeMap::new();
    let mut budgets: BTreeMap<String, Budget> = BTreeMap::new();
    for bot in bots {
        let line = lines.entry(bot.tenant().to_owned()).or_default();
        line.bots.push(bot.id.to_string());
        budgets.insert(bot.tenant().to_owned(), bot.quota.budget.clone());
    }
    for calls in &spent.calls {
        let line = lines.entry(calls.tenant.clone()).or_default();
        line.calls.insert(calls.kind.clone(), calls.count);
    }
    for Stopped { stop, since_ms } in stopped {
        lines.entry(stop.tenant.clone()).or_default().stopped = Some(Stop {
            since: rfc3339(*since_ms),
            bot: stop.bot.clone(),
            code: stop.code,
            error: stop.error.clone(),
        });
    }
    let complete = |(tenant, line): (String, Line)| {
        let used = spent.by(&tenant);
        let budget = budgets.get(&tenant).cloned().unwrap_or_default();
        let waits = |kind: &SendKind| budget::gives_up_at(&budget, *kind).is_some_and(|most| used >= most);
        Line {
            month: Month::at(spent.now_ms).to_string(),
            used,
            forecast: budget::forecast(used, spent.now_ms),
            budget: budget.calls,
            percent: budget.calls.map(|calls| budget::percent(used, calls)),
            waiting: SendKind::ALL.into_iter().filter(waits).map(SendKind::as_str).collect(),
            tenant,
            ..line
        }
    };
    lines.into_iter().map(complete).collect()
}

impl Line {
    fn sentences(&self) -> Vec<String> {
        let Self {
            tenant,
            month,
            used,
            forecast,
            ..
        } = self;
        let kinds: Vec<String> = self
            .calls
            .iter()
            .map(|(kind, count)| format!("{count} {kind}"))
            .collect();
        let kinds = match kinds.as_slice() {
            [] => String::new(),
            kinds => format!(" ({})", kinds.join(", ")),
        };
        let budget = match (self.budget, self.percent) {
            (Some(calls), Some(percent)) => format!(" of {calls}, {percent} %"),
            _ => ", no budget".to_owned(),
        };
        let bots = match self.bots.as_slice() {
            [] => "no bot here".to_owned(),
            bots => bots.join(", "),
        };
        let mut sentences = vec![format!(
            "{tenant} ({bots}): {used} calls in {month}{kinds}{budget}; {forecast} by its end if it goes on like this"
        )];
        if !self.waiting.is_empty() {
            sentences.push(format!("  waiting for the budget: {}", self.waiting.join(", ")));
        }
        if let Some(stop) = &self.stopped {
            sentences.push(format!(
                "  STOPPED since {}, told to bot {} with code {}: {}",
                stop.since, stop.bot, stop.code, stop.error
            ));
            sentences.push("  nothing is sent until `openclaw quota resume`".to_owned());
        }
        sentences
    }
}
