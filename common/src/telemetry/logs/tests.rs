#![expect(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

use std::io::Write;
use std::sync::{Arc, Mutex};

use super::*;

#[derive(Clone, Default)]
struct Buffer(Arc<Mutex<Vec<u8>>>);

impl Write for Buffer {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn written(log: &Log, body: impl FnOnce()) -> String {
    let buffer = Buffer::default();
    let writer = buffer.clone();
    let subscriber = subscriber(log, "node-a", move || writer.clone(), false).unwrap();
    tracing::subscriber::with_default(subscriber, body);
    String::from_utf8(buffer.0.lock().unwrap().clone()).unwrap()
}

fn is_iso_date(text: &str) -> bool {
    text.parse::<jiff::Timestamp>().is_ok()
}

#[test]
fn a_text_line_begins_with_the_instance_and_an_iso_date() {
    let text = written(&Log::default(), || tracing::error!(bot = "bot1", "not stored"));
    let mut words = text.split_whitespace();
    assert_eq!(words.next(), Some("node-a"));
    assert!(is_iso_date(words.next().unwrap()), "{text}");
    assert_eq!(words.next(), Some("ERROR"));
    assert!(text.ends_with("not stored bot=\"bot1\"\n"), "{text}");
}

#[test]
fn a_json_line_names_the_instance_first_and_carries_an_iso_date() {
    let log = Log {
        format: LogFormat::Json,
        ..Log::default()
    };
    let text = written(&log, || tracing::error!(bot = "bot1", "not stored"));
    assert!(text.starts_with(r#"{"instance":"node-a","#), "{text}");
    let line: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert!(is_iso_date(line["timestamp"].as_str().unwrap()));
    assert_eq!(line["level"], "ERROR");
    assert_eq!(line["message"], "not stored");
    assert_eq!(line["bot"], "bot1");
}

#[test]
fn access_lines_depend_on_their_own_switch_alone() {
    for (level, access, expected) in [
        ("error", true, 1),
        ("info", false, 0),
        ("trace", false, 0),
        ("info", true, 1),
    ] {
        let log = Log {
            level: level.to_owned(),
            access,
            ..Log::default()
        };
        let text = written(&log, || tracing::info!(target: ACCESS, "POST /webhook/bot1 200"));
        assert_eq!(text.lines().count(), expected, "{level} {access}: {text}");
    }
}

#[test]
fn a_low_level_opens_this_program_but_no_library() {
    let log = Log {
        level: "trace".to_owned(),
        ..Log::default()
    };
    let text = written(&log, || {
        tracing::trace!(target: "openclaw_ingest::accept", "ours");
        tracing::debug!(target: "lapin::channel", "a frame with a body");
    });
    assert!(text.contains("ours") && !text.contains("a frame"), "{text}");
}

#[test]
fn a_filter_is_taken_as_written_and_a_wrong_one_is_named() {
    let log = |level: &str| Log {
        level: level.to_owned(),
        ..Log::default()
    };
    let text = written(&log("warn,lapin=debug"), || {
        tracing::debug!(target: "lapin", "asked for");
        tracing::info!("not asked for");
    });
    assert!(
        text.contains("lapin: asked for") && !text.contains("not asked"),
        "{text}"
    );
    let error = filter(&log("openclaw=loud")).unwrap_err().to_string();
    assert!(error.contains("`openclaw=loud`"), "{error}");
}

#[test]
fn nobody_can_forge_a_line() {
    let id = "om_1\n2026-11-30T00:00:00.000000Z ERROR forged: all is lost\r\u{1b}[2J\u{2028}\u{85}";
    for format in [LogFormat::Text, LogFormat::Json] {
        let log = Log {
            format,
            ..Log::default()
        };
        let text = written(&log, || {
            tracing::error!(event = %id, error = id, debug = ?id, "of {id}");
            tracing::info!("next");
        });
        assert_eq!(text.lines().count(), 2, "{text}");
        assert_eq!(
            text.chars().filter(|character| outside::breaks_out(*character)).count(),
            2,
            "{text:?}"
        );
        for line in text.split_terminator('\n') {
            assert!(
                line.starts_with("node-a ") || line.starts_with(r#"{"instance":"node-a""#),
                "{line}"
            );
        }
    }
}

#[test]
fn no_line_is_long_whoever_wrote_it() {
    let body = "帮".repeat(1_000_000);
    for format in [LogFormat::Text, LogFormat::Json] {
        let log = Log {
            format,
            ..Log::default()
        };
        let text = written(&log, || tracing::error!(error = %body, other = body, "of {body}"));
        assert!(text.len() < 16 * 1024, "{}", text.len());
        assert!(text.contains("ERROR") && text.contains('…'), "{}", &text[..100]);
        if log.format == LogFormat::Json {
            let line: serde_json::Value = serde_json::from_str(&text).unwrap();
            assert_eq!(line["level"], "ERROR");
        }
    }
}
