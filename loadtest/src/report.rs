//! Figures beside their goals: printed as they come, and kept in a page under docs/.
//!
//! The page's table is between two markers and its rows are known by their first cell: a run replaces the rows it
//! measured and leaves the others, so that measurements which take long may be run one by one.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};

const HEADER: &str = "| what | figure | beside | goal | reached |\n|---|---|---|---|---|\n";

/// One line of the table.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    /// What was measured; the row's name.
    pub(crate) what: String,
    pub(crate) figure: String,
    /// What it was measured beside, or under which load.
    pub(crate) beside: String,
    pub(crate) goal: String,
    /// `None`: a figure without a goal.
    pub(crate) reached: Option<bool>,
}

impl Row {
    /// A ratio that is to be at least `goal`.
    pub(crate) fn ratio(what: &str, ratio: f64, beside: String, goal: f64) -> Self {
        Self {
            what: what.to_owned(),
            figure: format!("{ratio:.2} ×"),
            beside,
            goal: format!("≥ {goal} ×"),
            reached: Some(ratio >= goal),
        }
    }

    /// A rate that is to be at least `goal` events a second.
    pub(crate) fn rate(what: &str, rate: f64, beside: String, goal: f64) -> Self {
        Self {
            what: what.to_owned(),
            figure: format!("{}/s", whole(rate)),
            beside,
            goal: format!("≥ {}/s", whole(goal)),
            reached: Some(rate >= goal),
        }
    }

    /// A quantity that is to be at most `goal`, both in `unit`.
    pub(crate) fn most(what: &str, quantity: f64, unit: &str, beside: String, goal: f64) -> Self {
        Self {
            what: what.to_owned(),
            figure: format!("{} {unit}", short(quantity)),
            beside,
            goal: format!("≤ {} {unit}", short(goal)),
            reached: Some(quantity <= goal),
        }
    }

    /// A share (0 to 1) that is to be at least `goal`.
    pub(crate) fn share(what: &str, share: f64, beside: String, goal: f64) -> Self {
        Self {
            what: what.to_owned(),
            figure: percent(share),
            beside,
            goal: format!("≥ {:.0} %", goal * 100.0),
            reached: Some(share >= goal),
        }
    }

    /// Sends beyond a limit, of all sends: there must be none.
    pub(crate) fn violations(what: &str, violations: usize, sends: usize, beside: String) -> Self {
        Self {
            what: what.to_owned(),
            figure: format!("{violations} of {sends} sends"),
            beside,
            goal: "0".to_owned(),
            reached: Some(violations == 0),
        }
    }

    /// A figure without a goal.
    pub(crate) fn plain(what: &str, figure: String, beside: String) -> Self {
        Self {
            what: what.to_owned(),
            figure,
            beside,
            goal: String::new(),
            reached: None,
        }
    }

    fn line(&self) -> String {
        let reached = match self.reached {
            Some(true) => "yes",
            Some(false) => "**no**",
            None => "",
        };
        let Self {
            what,
            figure,
            beside,
            goal,
            ..
        } = self;
        format!("| {what} | {figure} | {beside} | {goal} | {reached} |\n")
    }
}

/// The rows of one run.
#[derive(Debug, Default)]
pub(crate) struct Report {
    rows: Vec<Row>,
}

impl Report {
    /// Notes a row, and prints it.
    pub(crate) fn add(&mut self, row: Row) {
        say(row.line().trim_end());
        self.rows.push(row);
    }

    /// Whether every goal of this run was reached.
    pub(crate) fn reached(&self) -> bool {
        self.rows.iter().all(|row| row.reached != Some(false))
    }

    /// Puts the rows into the page's table `name`.
    pub(crate) fn write(&self, page: &Path, name: &str) -> anyhow::Result<()> {
        let mut table: Vec<(String, String)> = between(&fs::read_to_string(page)?, name)?
            .lines()
            .filter(|line| line.starts_with("| ") && !line.starts_with("| what |"))
            .map(|line| (first_cell(line).to_owned(), format!("{line}\n")))
            .collect();
        for row in &self.rows {
            match table.iter_mut().find(|(what, _)| *what == row.what) {
                Some((_, line)) => *line = row.line(),
                None => table.push((row.what.clone(), row.line())),
            }
        }
        let lines: String = table.into_iter().map(|(_, line)| line).collect();
        replace(page, name, &format!("{HEADER}{lines}"))
    }
}

fn first_cell(line: &str) -> &str {
    line.split('|').nth(1).unwrap_or_default().trim()
}

/// The first two cells of each row of a page's table.
pub(crate) fn cells(page: &Path, name: &str) -> anyhow::Result<Vec<(String, String)>> {
    let text = fs::read_to_string(page)?;
    let rows = between(&text, name)?.lines().filter(|line| line.starts_with("| "));
    let figure = |line: &str| line.split('|').nth(2).unwrap_or_default().trim().to_owned();
    Ok(rows.map(|line| (first_cell(line).to_owned(), figure(line))).collect())
}

/// Replaces what is between the page's markers of this name.
pub(crate) fn replace(page: &Path, name: &str, text: &str) -> anyhow::Result<()> {
    let old = fs::read_to_string(page).with_context(|| format!("cannot read {}", page.display()))?;
    let kept = between(&old, name)?;
    let (begin, end) = markers(name);
    let new = old.replace(
        &format!("{begin}{kept}{end}"),
        &format!("{begin}\n\n{}\n\n{end}", text.trim_end()),
    );
    fs::write(page, new).with_context(|| format!("cannot write {}", page.display()))
}

fn markers(name: &str) -> (String, String) {
    (format!("<!-- {name}: begin -->"), format!("<!-- {name}: end -->"))
}

fn between<'a>(text: &'a str, name: &str) -> anyhow::Result<&'a str> {
    let (begin, end) = markers(name);
    let found = text.split_once(&begin).and_then(|(_, rest)| rest.split_once(&end));
    let found = found.map(|(inside, _)| inside);
    ensure!(found.is_some(), "the page has no markers `{begin}` and `{end}`");
    Ok(found.unwrap_or_default())
}

/// A page under docs/ of this checkout.
pub(crate) fn page(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs").join(name)
}

/// A line for whoever waits. A reader that has gone is no failure of ours.
pub(crate) fn say(text: &str) {
    drop(writeln!(std::io::stdout().lock(), "{text}"));
}

/// The middle value.
pub(crate) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    let at = |index: usize| sorted.get(index).copied().unwrap_or(f64::NAN);
    if sorted.len() % 2 == 1 {
        at(middle)
    } else {
        f64::midpoint(at(middle.wrapping_sub(1)), at(middle))
    }
}

/// `97.1 %`
pub(crate) fn percent(share: f64) -> String {
    format!("{:.1} %", share * 100.0)
}

/// `12 345`
pub(crate) fn whole(value: f64) -> String {
    let digits = format!("{:.0}", value.abs());
    let groups: Vec<&str> = digits
        .as_bytes()
        .rchunks(3)
        .rev()
        .filter_map(|group| str::from_utf8(group).ok())
        .collect();
    let sign = if value <= -0.5 { "-" } else { "" };
    format!("{sign}{}", groups.join(" "))
}

/// Three digits or so.
pub(crate) fn short(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 => whole(value),
        size if size >= 10.0 => format!("{value:.1}"),
        size if size >= 0.1 || size == 0.0 => format!("{value:.2}"),
        _ => format!("{value:.4}"),
    }
    .trim_end_matches(".00")
    .trim_end_matches(".0")
    .to_owned()
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "what cannot go on is a failed test")]
mod tests {
    use super::*;

    #[test]
    fn a_run_replaces_its_own_rows_and_leaves_the_others() {
        let folder = testkit_folder();
        let page = folder.join("page.md");
        fs::write(&page, "# Page\n<!-- rows: begin -->\n<!-- rows: end -->\nafter\n").unwrap();
        let run = |what: &str, rate| {
            let mut report = Report::default();
            report.add(Row::rate(what, rate, "this".to_owned(), 5_000.0));
            report.write(&page, "rows").unwrap();
            report.reached()
        };
        assert!(run("drained", 6_000.0));
        assert!(!run("embedded", 4_999.0));
        assert!(run("drained", 12_345.6));
        let text = fs::read_to_string(&page).unwrap();
        assert_eq!(text.matches("drained").count(), 1, "{text}");
        assert!(
            text.contains("| drained | 12 346/s | this | ≥ 5 000/s | yes |"),
            "{text}"
        );
        assert!(
            text.contains("| embedded | 4 999/s | this | ≥ 5 000/s | **no** |"),
            "{text}"
        );
        assert!(text.starts_with("# Page\n") && text.ends_with("\nafter\n"), "{text}");
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn the_middle_value_counts() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
    }

    fn testkit_folder() -> PathBuf {
        let folder = std::env::temp_dir().join(format!("openclaw-report-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        folder
    }
}
