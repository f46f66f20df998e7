//! Text that others wrote (a server's error, an HTTP header, a handler's word, a panic), made fit for a sentence of ours.
//!
//! Whoever puts such a text into an error passes it through here, once, where the error is made. So no error column and no
//! log line carries a message's content, a megabyte, or a line break that begins another, forged line.

use std::borrow::Cow;

/// How much of somebody else's text goes into a sentence, characters.
pub const QUOTED: usize = 300;

/// The longest sentence that is stored or logged as an error, characters: several quotations and what stands around them.
pub const SENTENCE: usize = 1000;

/// Somebody else's text on one line, cut where it gets long.
#[must_use]
pub fn quoted(text: &str) -> String {
    cut(text, QUOTED)
}

/// A whole sentence on one line: the last look at what was put together elsewhere.
#[must_use]
pub fn sentence(text: &str) -> String {
    cut(text, SENTENCE)
}

/// Why JSON cannot be read, without a word of it: what it quotes may be what somebody wrote to a bot.
#[must_use]
pub fn json_fault(error: &serde_json::Error) -> String {
    let fault = error.to_string();
    // A missing field's name is ours, and so is the grammar's; "invalid type: string …" and "unknown field …" quote.
    if error.is_data() && !fault.starts_with("missing field ") {
        let (line, column) = (error.line(), error.column());
        // 0: of a value that has no place any more.
        return match line {
            0 => "a value is not of the expected kind".to_owned(),
            _ => format!("a value is not of the expected kind at line {line} column {column}"),
        };
    }
    quoted(&fault)
}

/// JSON text in which each `\u` escape of half a character (an emoji that was cut in the middle) is `\ufffd` instead. Nothing
/// that reads JSON into Rust's strings takes such a half, and a person who wrote one is to be answered.
#[must_use]
pub fn whole_characters(json: &str) -> Cow<'_, str> {
    let mut mended = String::new();
    let mut kept = 0;
    let mut at = 0;
    let bytes = json.as_bytes();
    while let Some(next) = bytes
        .get(at..)
        .and_then(|rest| rest.iter().position(|byte| *byte == b'\\'))
    {
        at += next;
        at += match (escaped_unit(bytes, at), escaped_unit(bytes, at + 6)) {
            (Some(0xd800..=0xdbff), Some(0xdc00..=0xdfff)) => 12,
            (Some(0xd800..=0xdfff), _) => {
                mended.push_str(&json[kept..at]);
                mended.push_str("\\ufffd");
                kept = at + 6;
                6
            }
            (Some(_), _) => 6,
            // Another escape: the character behind the backslash begins none.
            (None, _) => 2,
        };
    }
    if kept == 0 {
        return Cow::Borrowed(json);
    }
    mended.push_str(&json[kept..]);
    Cow::Owned(mended)
}

/// The UTF-16 unit that is written `\uXXXX` here.
fn escaped_unit(json: &[u8], at: usize) -> Option<u16> {
    let digits = json.get(at..at + 6)?.strip_prefix(b"\\u")?;
    if !digits.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    u16::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

/// Whether a character may break out of its line, or out of its place in it: control characters, the separators that some
/// readers take for a line's end, and what turns the direction of writing round.
#[must_use]
pub fn breaks_out(character: char) -> bool {
    character.is_control()
        || matches!(character, '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

fn cut(text: &str, longest: usize) -> String {
    let clean = |character: char| if breaks_out(character) { ' ' } else { character };
    let mut characters = text.trim().chars();
    let mut short: String = characters.by_ref().take(longest).map(clean).collect();
    if characters.next().is_some() {
        short.push('…');
    }
    short
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    #[test]
    fn what_others_wrote_stays_on_one_line_and_short() {
        let forged = "no\r\n2026-11-30T00:00:00Z ERROR forged\u{1b}[2J\u{2028}\u{202e}\u{0}";
        let one = quoted(forged);
        assert!(!one.chars().any(breaks_out), "{one:?}");
        assert!(one.starts_with("no  2026-11-30"), "{one:?}");
        let long = quoted(&"帮".repeat(1_000_000));
        assert_eq!((long.chars().count(), long.chars().last()), (QUOTED + 1, Some('…')));
        assert_eq!(
            quoted(&"x".repeat(QUOTED)),
            "x".repeat(QUOTED),
            "what fits is not marked as cut"
        );
        assert_eq!(sentence(&"x".repeat(SENTENCE + 1)).chars().count(), SENTENCE + 1);
    }

    #[test]
    fn json_is_complained_about_without_a_word_of_it() {
        #[derive(Debug, serde::Deserialize)]
        #[serde(deny_unknown_fields)]
        #[expect(dead_code, reason = "only read")]
        struct Form {
            number: u32,
        }
        let fault = |text: &str| json_fault(&serde_json::from_str::<Form>(text).unwrap_err());
        for (text, says) in [
            (r#"{"number":"my password"}"#, "at line 1 column"),
            (r#"{"my password":1}"#, "at line 1 column"),
            ("{}", "missing field `number`"),
            (r#"{"number":1"#, "EOF while parsing an object"),
            ("my password", "expected value at line 1"),
        ] {
            let fault = fault(text);
            assert!(fault.contains(says) && !fault.contains("password"), "{text}: {fault}");
        }
    }

    #[test]
    fn half_a_character_is_replaced_and_nothing_else() {
        for (received, mended) in [
            (r#"{"text":"plain 你好 😀"}"#, r#"{"text":"plain 你好 😀"}"#),
            (r#""\ud83d\ude00""#, r#""\ud83d\ude00""#),
            (r#""\ud83d""#, r#""\ufffd""#),
            (r#""a\uDE00b""#, r#""a\ufffdb""#),
            (r#""\ud83d\ud83d\ude00""#, r#""\ufffd\ud83d\ude00""#),
            (r#""\ud83d\n\u0041""#, r#""\ufffd\n\u0041""#),
            // A backslash of somebody's text, no escape.
            (r#""\\ud83d \\\ud83d""#, r#""\\ud83d \\\ufffd""#),
            (r#""\u12"#, r#""\u12"#),
            (r#""é\u+12f 你\"#, r#""é\u+12f 你\"#),
        ] {
            assert_eq!(whole_characters(received), mended);
        }
    }
}
