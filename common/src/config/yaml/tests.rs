#![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

use super::*;

fn read(text: &str) -> (Option<Node>, Vec<String>) {
    let mut mistakes = Vec::new();
    let node = parse(text, &Arc::from("a.yaml"), true, &mut mistakes);
    (node, mistakes.iter().map(ToString::to_string).collect())
}

#[test]
fn every_key_knows_its_line_in_block_and_flow_style() {
    let (node, mistakes) = read("# comment\nserver:\n  port: 1\nlog: { level: info,\n  access: true }\n");
    let node = node.unwrap();
    assert!(mistakes.is_empty(), "{mistakes:?}");
    for (path, line) in [("server", 2), ("server.port", 3), ("log.level", 4), ("log.access", 5)] {
        assert_eq!(node.written(path).unwrap().line, Some(line), "{path}");
    }
    assert!(node.written("server.host").is_none());
}

#[test]
fn every_doubled_key_is_named_and_the_first_value_stays() {
    let (node, mistakes) = read("a: 1\nb: { c: 1, c: 2 }\na: 3\n");
    assert_eq!(
        mistakes,
        [
            "a.yaml:2: `c` is written twice (first on line 2): keep one",
            "a.yaml:3: `a` is written twice (first on line 1): keep one",
        ]
    );
    match &node.unwrap().entries()[0].node.value {
        Value::Scalar(scalar) => assert_eq!(scalar.text, "1"),
        _ => unreachable!("a scalar was written"),
    }
}

#[test]
fn broken_yaml_is_one_mistake_with_its_line() {
    let (node, mistakes) = read("server:\n  port: [1, 2\nlog: x\n");
    assert!(node.is_none());
    assert_eq!(mistakes.len(), 1, "{mistakes:?}");
    assert!(mistakes[0].starts_with("a.yaml:3: is not valid YAML: "), "{mistakes:?}");
    assert!(
        mistakes[0].ends_with("the `[` on line 2 is not closed: is a `]` missing?"),
        "{mistakes:?}"
    );
}

#[test]
fn what_is_never_closed_is_told_with_the_line_where_it_began() {
    for (text, bracket) in [
        ("a: 1\nb: [1, 2\nc: 3\n", "`[` on line 2"),
        ("a: 1\nb: [\n  x,\n  y\n\nc: 3\n", "`[` on line 2"),
        ("a: { b: 1,\nc: 3\nd: 4\n", "`{` on line 1"),
        ("a: [1,\n  [2, 3\n", "`[` on line 2"),
    ] {
        let (node, mistakes) = read(text);
        assert!(node.is_none() && mistakes.len() == 1, "{text}: {mistakes:?}");
        assert!(mistakes[0].contains(bracket), "{text}: {mistakes:?}");
    }
    // The parser itself tells where a quote began.
    let (_, mistakes) = read("a: 1\nb: \"x\nc: 3\n");
    assert!(mistakes[0].starts_with("a.yaml:2: "), "{mistakes:?}");
}

#[test]
fn an_alias_of_a_long_text_costs_as_much_as_the_text() {
    let long = "x".repeat(256 * 1024);
    let few = format!("a: &long {long}\nb: [{}]\n", ["*long"; 4].join(","));
    assert!(read(&few).1.is_empty());
    for bomb in [
        format!("a: &long {long}\nb: [{}]\n", vec!["*long"; 4000].join(",")),
        format!("a: &long {{ ? {long} : 1 }}\nb: [{}]\n", vec!["*long"; 4000].join(",")),
        format!("a: {}{long}{}\n", "&a [".repeat(30), "]".repeat(30)),
    ] {
        let (node, mistakes) = read(&bomb);
        assert!(node.is_none());
        assert!(mistakes[0].contains("more than 4 MiB of text"), "{}", mistakes[0]);
        assert!(mistakes[0].len() < 200, "a mistake is a sentence");
    }
}

#[test]
fn a_key_in_a_mistake_is_short() {
    assert_eq!(shown_key("app_secret:abc"), "app_secret…");
    assert_eq!(shown_key("größe"), "größe");
    assert_eq!(shown_key(&"k".repeat(100_000)), format!("{}…", "k".repeat(60)));
}

#[test]
fn an_unquoted_variable_in_flow_style_gets_a_hint() {
    let (_, mistakes) = read("api: { tokens: [ ${TOKEN} ] }\n");
    assert!(mistakes[0].ends_with("in quotes"), "{mistakes:?}");
}

#[test]
fn aliases_are_followed_and_alias_bombs_are_stopped() {
    let (node, mistakes) = read("a: &x { port: 1 }\nb: *x\n");
    assert!(mistakes.is_empty());
    assert!(node.unwrap().written("b.port").is_some());
    let mut bomb = "a0: &a0 [1,1,1,1,1,1,1,1,1,1]\n".to_owned();
    for level in 1..8 {
        let previous = level - 1;
        bomb += &format!(
            "a{level}: &a{level} [{}]\n",
            vec![format!("*a{previous}"); 10].join(",")
        );
    }
    let (node, mistakes) = read(&bomb);
    assert!(node.is_none());
    assert!(mistakes[0].contains("more than 20000 values"), "{mistakes:?}");
}

#[test]
fn strange_documents_are_mistakes_and_never_panics() {
    for text in [
        "a: 1\n---\nb: 2\n",
        "a: !!int 5\n",
        "? [a]\n: b\n",
        &"[".repeat(100),
        "a: &x [*x]\n",
    ] {
        let (node, mistakes) = read(text);
        assert!(node.is_none() && mistakes.len() == 1, "{text}: {mistakes:?}");
    }
    for text in ["", "# nothing\n", "\u{feff}", "---\n"] {
        let (_, mistakes) = read(text);
        assert!(mistakes.is_empty(), "{text:?}: {mistakes:?}");
    }
}
