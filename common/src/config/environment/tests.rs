#![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

use std::sync::Arc;

use super::*;

fn environment() -> Environment {
    Environment::from_iter([("HOST", "db1"), ("PASSWORD", "p${HOST}$"), ("EMPTY", "")])
}

fn expanded(text: &str) -> Result<String, Vec<String>> {
    let mut room = MAX_TEXT;
    environment().expand_text(text, &mut room)
}

#[test]
fn variables_are_replaced_anywhere_and_never_twice() {
    for (written, expected) in [
        ("plain $HOME text", "plain $HOME text"),
        ("${HOST}", "db1"),
        ("a-${HOST}-${EMPTY}-${HOST}", "a-db1--db1"),
        ("postgres://u:${PASSWORD}@${HOST}/x", "postgres://u:p${HOST}$@db1/x"),
        ("$${HOST} is ${HOST}", "${HOST} is db1"),
    ] {
        assert_eq!(expanded(written).unwrap(), expected, "{written}");
    }
}

#[test]
fn every_unset_variable_of_a_value_is_named() {
    let sentences = expanded("${A}${HOST}${B_2}").unwrap_err();
    let expected = [
        "environment variable `A` is not set",
        "environment variable `B_2` is not set",
    ];
    assert_eq!(sentences, expected);
    assert_eq!(expanded("${HOST").unwrap_err().len(), 1);
    assert_eq!(expanded("${a b}").unwrap_err().len(), 1);
}

fn overridden(variables: &[(&str, &str)]) -> (Node, Vec<String>) {
    let mut mistakes = Vec::new();
    let text = "server:\n  port: 1\nlog: { level: info }\n";
    let mut root = yaml::parse(text, &Arc::from("a.yaml"), true, &mut mistakes).unwrap();
    let environment: Environment = variables.iter().copied().collect();
    environment.override_keys(&mut root, &mut mistakes);
    (root, mistakes.iter().map(ToString::to_string).collect())
}

#[test]
fn an_override_replaces_the_value_and_is_named_as_its_place() {
    let (root, mistakes) = overridden(&[("OPENCLAW_SERVER__PORT", "2"), ("OPENCLAW_QUOTA__APP", "[50/s, 9/m]")]);
    assert!(mistakes.is_empty());
    assert_eq!(
        root.written("server.port").unwrap().to_string(),
        "OPENCLAW_SERVER__PORT"
    );
    assert_eq!(root.written("server").unwrap().to_string(), "a.yaml:1");
    assert_eq!(root.written("quota.app").unwrap().to_string(), "OPENCLAW_QUOTA__APP");
}

#[test]
fn names_without_two_underscores_are_left_alone_and_empty_parts_are_mistakes() {
    let (root, mistakes) = overridden(&[("OPENCLAW_API_TOKEN", "[["), ("OPENCLAW_KEY_2026A", "x"), ("A__B", "x")]);
    assert!(mistakes.is_empty());
    assert_eq!(root.entries().len(), 2);
    let (_, mistakes) = overridden(&[("OPENCLAW___PORT", "1"), ("OPENCLAW_LOG__LEVEL", "[")]);
    assert_eq!(mistakes.len(), 2, "{mistakes:?}");
    assert!(mistakes[1].starts_with("OPENCLAW___PORT: is no key"), "{mistakes:?}");
    assert!(
        mistakes[0].starts_with("OPENCLAW_LOG__LEVEL: is not valid YAML"),
        "{mistakes:?}"
    );
}

#[test]
fn variables_that_would_fill_the_memory_are_refused() {
    let environment: Environment = [("BIG", "x".repeat(1024 * 1024))].into_iter().collect();
    let mut room = MAX_TEXT;
    assert!(environment.expand_text("${BIG}${BIG}${BIG}", &mut room).is_ok());
    assert!(environment.expand_text("${BIG}", &mut room).is_ok());
    let sentences = environment
        .expand_text(&"${BIG}".repeat(10_000), &mut room)
        .unwrap_err();
    assert_eq!(sentences, ["the file's variables come to more than 4 MiB"]);
}
