#![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use super::*;
use crate::bot::BotId;
use crate::config::environment::Environment;
use crate::config::{Config, node, yaml};

/// What a node with this file and these overrides is, and every mistake.
fn read(text: &str, overrides: impl IntoIterator<Item = (String, String)>) -> (Config, Vec<String>) {
    let key = "0".repeat(64);
    let environment: Environment = overrides.into_iter().collect();
    let environment = environment
        .with("OPENCLAW_KEY_2026A", key)
        .with("OPENCLAW_API_TOKEN", "t0ken");
    let mut mistakes = Vec::new();
    let mut tree = yaml::parse(text, &Arc::from("config.yaml"), true, &mut mistakes).unwrap();
    environment.override_keys(&mut tree, &mut mistakes);
    environment.expand(&mut tree, &mut mistakes);
    let bots = BTreeSet::from([BotId::new("bot1").unwrap()]);
    let config = node::read(&tree, &bots, &mut mistakes);
    (config, mistakes.iter().map(ToString::to_string).collect())
}

fn variable(path: &str) -> String {
    let path = path.replace("<name>", "notify").replace("<id>", "2026a");
    format!("OPENCLAW_{}", path.replace('.', "__").to_uppercase())
}

#[test]
fn the_page_in_docs_is_this_table() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/configuration.md");
    if Environment::of_process().get("OPENCLAW_BLESS").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, markdown()).unwrap();
    }
    let page = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        page == markdown(),
        "stale: OPENCLAW_BLESS=1 cargo test -p openclaw-common the_page"
    );
}

#[test]
fn every_default_of_the_table_is_accepted_and_is_the_default_of_the_code() {
    for key in KEYS.iter().filter(|key| !key.default.is_empty()) {
        let (config, mistakes) = read("", [(variable(key.path), key.default.to_owned())]);
        assert!(mistakes.is_empty(), "{mistakes:?}");
        assert_eq!(config, Config::default(), "{}", key.path);
    }
}

#[test]
fn every_example_of_the_table_is_accepted_and_changes_something() {
    let examples = || KEYS.iter().filter(|key| key.default.is_empty());
    let mut groups: BTreeMap<&str, Vec<(String, String)>> = BTreeMap::new();
    for key in examples().filter(|key| !key.path.contains("[]")) {
        let (parent, _) = key.path.rsplit_once('.').unwrap();
        let pair = (variable(key.path), key.example.to_owned());
        groups.entry(parent.trim_end_matches(".keys")).or_default().push(pair);
    }
    for (section, overrides) in groups {
        let (config, mistakes) = read("", overrides);
        assert!(mistakes.is_empty(), "{mistakes:?}");
        assert_ne!(config, Config::default(), "{section}");
    }
    let written = |word: &str| {
        examples()
            .find(|key| key.path == format!("handler.rules[].{word}"))
            .unwrap()
            .example
    };
    for matcher in ["keyword", "prefix", "regex"] {
        let (text, reply) = (written(matcher), written("reply"));
        let text = format!("handler: {{ kind: rules, rules: [ {{ {matcher}: '{text}', reply: '{reply}' }} ] }}");
        let (config, mistakes) = read(&text, []);
        assert!(mistakes.is_empty(), "{mistakes:?}");
        assert_ne!(config, Config::default(), "{matcher}");
    }
}

/// The keys that the parser names when it meets a strange one, by section.
fn known_to_the_parser(sections: &BTreeSet<String>) -> BTreeMap<String, BTreeSet<String>> {
    const STRANGE: &str = "zzzzzzzz";
    let nested = sections
        .iter()
        .filter(|section| !section.is_empty() && !section.contains('['));
    let overrides = nested.map(|section| (variable(&format!("{section}.{STRANGE}")), "1".to_owned()));
    let text = format!("{STRANGE}: 1\nhandler: {{ kind: rules, rules: [ {{ {STRANGE}: 1 }} ] }}\n");
    let (_, mistakes) = read(&text, overrides);
    let strange = mistakes.iter().filter_map(|line| {
        let (head, known) = line.split_once(&format!("{STRANGE}: unknown key, known here: "))?;
        let section = head
            .rsplit(": ")
            .next()
            .unwrap()
            .trim_end_matches('.')
            .replace("[0]", "[]");
        Some((section, known.split(", ").map(str::to_owned).collect()))
    });
    strange.collect()
}

#[test]
fn the_table_and_the_parser_know_the_same_keys() {
    let mut table: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for key in KEYS {
        let mut section = String::new();
        for word in key.path.split('.') {
            if word.starts_with('<') {
                break;
            }
            let name = word.trim_end_matches("[]");
            table.entry(section.clone()).or_default().insert(name.to_owned());
            section = if section.is_empty() {
                word.to_owned()
            } else {
                format!("{section}.{word}")
            };
        }
    }
    assert_eq!(known_to_the_parser(&table.keys().cloned().collect()), table);
}
