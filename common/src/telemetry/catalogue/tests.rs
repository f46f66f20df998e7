#![expect(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use super::*;
use crate::telemetry::{install, render};

const BEGIN: &str = "<!-- begin: made from common/src/telemetry/catalogue.rs -->\n";
const END: &str = "<!-- end -->";

fn table() -> String {
    let mut table = "| metric | kind | label | meaning |\n|---|---|---|---|\n".to_owned();
    for metric in ALL {
        let label = match metric.label() {
            None => String::new(),
            Some((label, [])) => format!("`{label}`"),
            Some((label, values)) => format!("`{label}`: {}", values.join(", ")),
        };
        writeln!(
            table,
            "| `{}` | {} | {label} | {} |",
            metric.name(),
            metric.kind(),
            metric.help()
        )
        .unwrap();
    }
    table
}

/// With `OPENCLAW_WRITE_DOCS` set, writes the table instead of comparing it.
#[test]
#[expect(
    clippy::disallowed_methods,
    reason = "asks the person at the keyboard, no configuration"
)]
fn the_documentation_names_every_metric_as_the_code_does() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/telemetry.md");
    let page = std::fs::read_to_string(&path).unwrap();
    let begin = page.find(BEGIN).unwrap() + BEGIN.len();
    let end = begin + page[begin..].find(END).unwrap();
    if std::env::var_os("OPENCLAW_WRITE_DOCS").is_some() {
        std::fs::write(&path, [&page[..begin], &table(), &page[end..]].concat()).unwrap();
    } else {
        assert_eq!(
            &page[begin..end],
            table(),
            "run this test once with OPENCLAW_WRITE_DOCS=1"
        );
    }
}

#[test]
fn names_follow_prometheus_and_are_used_once() {
    let names: BTreeSet<_> = ALL.iter().map(|metric| metric.name()).collect();
    assert_eq!(names.len(), ALL.len());
    for metric in ALL {
        let name = metric.name();
        assert!(name.starts_with("openclaw_"), "{name}");
        assert_eq!(metric.kind() == "counter", name.ends_with("_total"), "{name}");
        assert_eq!(metric.kind() == "histogram", name.ends_with("_seconds"), "{name}");
        assert!(metric.help().ends_with('.') && !metric.help().contains('|'), "{name}");
        let buckets = metric.buckets().unwrap_or(&[1.0]);
        assert!(!buckets.is_empty() && buckets.is_sorted(), "{name}");
    }
}

#[test]
fn every_metric_with_known_values_appears_before_it_is_used() {
    install();
    install();
    let page = render();
    for metric in ALL {
        let name = metric.name();
        match metric.label() {
            Some((_, [])) => {}
            Some((label, values)) => {
                for value in values {
                    assert!(
                        page.contains(&format!("{name}{{{label}=\"{value}\"}}")),
                        "{name} {value}: {page}"
                    );
                }
            }
            None if metric.kind() == "histogram" => assert!(page.contains(&format!("{name}_count ")), "{name}: {page}"),
            None => assert!(page.contains(&format!("\n{name} ")), "{name}: {page}"),
        }
        if metric.label().is_none_or(|(_, values)| !values.is_empty()) {
            assert!(
                page.contains(&format!("# HELP {name} {}", metric.help())),
                "{name}: {page}"
            );
            assert!(
                page.contains(&format!("# TYPE {name} {}", metric.kind())),
                "{name}: {page}"
            );
        }
    }
}

#[test]
fn what_is_recorded_is_rendered() {
    HANDLER_SECONDS.record(Duration::from_millis(30));
    SENDS.add("a class nobody foresaw");
    DEPENDENCY_UP.set("a-test", 1.0);
    let page = render();
    assert!(
        page.contains("openclaw_handler_seconds_bucket{le=\"0.05\"} 1"),
        "{page}"
    );
    assert!(
        page.contains("openclaw_sends_total{class=\"a class nobody foresaw\"} 1"),
        "{page}"
    );
    assert!(page.contains("openclaw_dependency_up{name=\"a-test\"} 1"), "{page}");
}
