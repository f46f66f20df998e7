use super::{nearest, quoted};

#[test]
fn a_quoted_value_is_one_short_line_without_passwords() {
    assert_eq!(quoted("5x"), "`5x` ");
    assert_eq!(quoted("one\ntwo"), "`one…` ");
    assert_eq!(quoted(&"é".repeat(100)), format!("`{}…` ", "é".repeat(60)));
    assert_eq!(quoted("https://user:hunter2@host"), "");
}

#[test]
fn only_close_keys_are_suggested() {
    let known = ["backoff", "max_attempts", "multiplier", "max_backoff", "port"];
    for (written, expected) in [
        ("bakoff", Some("backoff")),
        ("Max_Attempts", Some("max_attempts")),
        ("maxattempts", Some("max_attempts")),
        ("prot", Some("port")),
        ("retries", None),
        ("x", None),
        ("", None),
    ] {
        assert_eq!(nearest(written, known), expected, "{written}");
    }
}
