//! The report, as a part of docs/reliability.md.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use openclaw_sim::ledger::Level;

use super::Run;

const BEGIN: &str = "<!-- ./dev soak writes from here -->";
const END: &str = "<!-- to here -->";
const TITLE: &str = "# Reliability\n\nWhat the promises *never lost, never doubled, in order, inside the quota* rest on beyond the fault matrix\n(`./dev test faults`): long runs, and their figures.\n";

/// Puts the report between its markers; what others wrote on the page stays.
pub(crate) fn write(page: &Path, report: &str) -> anyhow::Result<()> {
    let old = if page.exists() {
        fs::read_to_string(page).with_context(|| format!("cannot read {}", page.display()))?
    } else {
        TITLE.to_owned()
    };
    fs::write(page, placed(&old, report)).with_context(|| format!("cannot write {}", page.display()))
}

fn placed(page: &str, report: &str) -> String {
    let marked = page.split_once(BEGIN).and_then(|(before, rest)| {
        let (_, after) = rest.split_once(END)?;
        Some((before, after))
    });
    match marked {
        Some((before, after)) => format!("{before}{BEGIN}\n{report}{END}{after}"),
        None => format!("{page}\n{BEGIN}\n{report}{END}\n"),
    }
}

pub(crate) fn render(run: &Run) -> anyhow::Result<String> {
    let (found, report) = (&run.found, &run.found.report);
    let mut text = String::new();
    let broken = &run.broken;
    writeln!(
        text,
        "## Soak: {} minutes of kills and restarts under load\n\n\
         `./dev soak --minutes {} --seed {} --rate {} --bots {}`, on {}.\n\n\
         Two `ingest` and three `worker` processes of the release build; one of them, at random, gets SIGKILL every 1 to 5 s and\n\
         is started again at once. RabbitMQ, Redis and PostgreSQL, each a process of the run's own, are stopped or killed once\n\
         a minute, for some seconds each. The platform pushes again what was refused, every 1.5 s, and 2 % of what was accepted.\n\n\
         **{}**\n",
        run.minutes,
        run.minutes,
        run.seed,
        run.rate,
        run.bots,
        run.machine,
        if broken.is_empty() {
            "Every promise was kept.".to_owned()
        } else {
            format!("BROKEN: {}.", broken.join("; "))
        },
    )?;
    let mut row = |name: &str, value: String| writeln!(text, "| {name} | {value} |");
    row("promise", "found".to_owned())?;
    row("---", "---".to_owned())?;
    row("lost", report.lost.len().to_string())?;
    row("doubled", report.doubled.len().to_string())?;
    row("over quota", report.over_quota.len().to_string())?;
    row(
        "out of order in chats without retried sends",
        found.disordered.len().to_string(),
    )?;
    row(
        "out of order in the others",
        format!(
            "{} ({} chats with retried sends)",
            report.disordered.len() - found.disordered.len(),
            found.retried
        ),
    )?;
    row(
        "rows done, dead, unfinished",
        format!(
            "{}, {}, {}",
            found.rows.done,
            found.rows.dead,
            found.rows.all - found.rows.done - found.rows.dead
        ),
    )?;
    row("dead letters", found.rows.letters.to_string())?;
    row(
        "messages left in queues",
        found.left.iter().map(|(_, depth)| depth).sum::<u32>().to_string(),
    )?;
    writeln!(text)?;
    figures(&mut text, run)?;
    writeln!(
        text,
        "\nA re-push is no excuse for a wrong order: the platform here pushes a chat's next event only when the one before was\n\
         accepted. A chat counts as one with retried sends when a row of it names a failed attempt (`events.attempt`).\n"
    )?;
    Ok(text)
}

fn figures(text: &mut String, run: &Run) -> anyhow::Result<()> {
    let (found, report) = (&run.found, &run.found.report);
    let mut row = |name: &str, value: String| writeln!(text, "| {name} | {value} |");
    row("figure", "value".to_owned())?;
    row("---", "---".to_owned())?;
    row(
        "events accepted, given up",
        format!("{}, {}", report.accepted, report.given_up),
    )?;
    row("of them accepted only when pushed again", found.repushed.to_string())?;
    let statuses: Vec<String> = found
        .statuses
        .iter()
        .map(|(status, count)| {
            let status = status.map_or("no answer".to_owned(), |status| status.to_string());
            format!("{status}: {count}")
        })
        .collect();
    row("pushes by answer", statuses.join(", "))?;
    let mut roles: BTreeMap<&str, (u32, u32, u64)> = BTreeMap::new();
    for place in &run.fleet.places {
        let role = roles.entry(place.role).or_default();
        *role = (role.0 + place.kills, role.1 + place.ended, role.2.max(place.memory));
    }
    for (role, (kills, ended, memory)) in roles {
        row(
            &format!("{role}: kills, ends of its own, most memory"),
            format!("{kills}, {ended}, {} MiB", memory / 1024),
        )?;
    }
    let mut restarts: BTreeMap<_, Vec<Duration>> = BTreeMap::new();
    for restart in &run.restarts {
        restarts
            .entry((restart.server, restart.manner))
            .or_default()
            .push(restart.took);
    }
    for ((server, manner), took) in restarts {
        let longest = took.iter().max().copied().unwrap_or_default();
        row(
            &format!("{server} {manner}"),
            format!("{} times, away for at most {longest:.1?}", took.len()),
        )?;
    }
    let answers = found.answers;
    row(
        "from acceptance to the visible answer: p50, p90, p99, longest",
        format!(
            "{:.1?}, {:.1?}, {:.1?}, {:.1?}",
            answers.half, answers.ninety, answers.ninety_nine, answers.longest
        ),
    )?;
    row("longest silence of a bot", format!("{:.1?}", found.pause))?;
    row(
        "sends repeated under their uuid, shown once",
        found.collapsed.to_string(),
    )?;
    for (level, limit, peak) in &report.fullest {
        if let Some(peak) = peak {
            let window = if *level == Level::AppMinute { "minute" } else { "second" };
            let name = format!("fullest {window} of one {}", named(*level));
            row(&name, format!("{} of {limit}", peak.count))?;
        }
    }
    row("from the end of the load to rest", format!("{:.1?}", run.settled))?;
    Ok(())
}

fn named(level: Level) -> &'static str {
    match level {
        Level::Bot => "bot",
        Level::App | Level::AppMinute => "app's API",
        Level::Chat => "chat",
        Level::User => "person",
        Level::Card => "card",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_takes_the_place_of_the_last_one_and_of_nothing_else() {
        let first = placed("# Page\n\nMine.\n", "one\n");
        let second = placed(&format!("{first}\nMine too.\n"), "two\n");
        assert!(second.contains("Mine.\n") && second.contains("Mine too.\n"));
        assert!(second.contains("two") && !second.contains("one"));
        assert_eq!(placed(&second, "two\n"), second);
    }
}
