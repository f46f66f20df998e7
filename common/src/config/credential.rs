//! What a credential must not be: empty, a template's placeholder, or so short that anybody guesses it.

use crate::secret::Secret;

/// Words that templates put where a value belongs, without case and punctuation.
const PLACEHOLDERS: [&str; 14] = [
    "replacethis",
    "changethis",
    "changeit",
    "fillin",
    "fillmein",
    "insert",
    "inserthere",
    "todo",
    "tbd",
    "fixme",
    "appsecret",
    "verificationtoken",
    "encryptkey",
    "apitoken",
];
/// The same, wherever in the value they stand: `replace-me-1`, `bot1-changeme`.
const WITHIN: [&str; 3] = ["replaceme", "changeme", "placeholder"];
/// What blanks on a form are filled with, three times and more.
const BLANKS: [char; 6] = ['x', 'X', '*', '.', '-', '_'];

pub(super) const PLACEHOLDER: &str = "is a placeholder: write the real value, or \"${NAME}\" and set that variable";

/// A credential that others check: not empty, without the line end that a file or a shell left behind, no placeholder.
pub(super) fn secret(text: &str) -> Result<Secret, String> {
    if text.is_empty() {
        Err("is empty".to_owned())
    } else if text.trim() != text {
        Err("begins or ends with a space or a line end".to_owned())
    } else if is_placeholder(text) {
        Err(PLACEHOLDER.to_owned())
    } else {
        Ok(Secret::new(text))
    }
}

/// A credential that this program lets others in by.
pub(super) fn guard(text: &str) -> Result<Secret, String> {
    let checked = secret(text)?;
    if text.chars().count() == 1 {
        return Err("is a single character: anybody guesses it".to_owned());
    }
    Ok(checked)
}

/// What the platform calls an app. It becomes part of names in Redis, so strange characters stop here.
pub(super) fn app_id(text: &str) -> Result<String, String> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
    if !(1..=64).contains(&text.len()) || !text.bytes().all(plain) {
        Err("is not an app id such as cli_a1b2c3d4".to_owned())
    } else if is_placeholder(text.strip_prefix("cli_").unwrap_or(text)) {
        Err(PLACEHOLDER.to_owned())
    } else {
        Ok(text.to_owned())
    }
}

/// Whether a value is what a template left for somebody to replace.
pub(super) fn is_placeholder(text: &str) -> bool {
    let word: String = text
        .chars()
        .filter(|character| character.is_alphanumeric())
        .flat_map(char::to_lowercase)
        .collect();
    let enclosed = |open: &str, close: &str| text.starts_with(open) && text.ends_with(close);
    PLACEHOLDERS.contains(&word.as_str())
        || WITHIN.iter().any(|part| word.contains(part))
        || ["your-", "your_", "your "].iter().any(|start| starts_with(text, start))
        || enclosed("<", ">")
        || enclosed("{{", "}}")
        || (text.len() >= 3 && BLANKS.iter().any(|blank| text.chars().all(|it| it == *blank)))
}

fn starts_with(text: &str, start: &str) -> bool {
    text.get(..start.len()).is_some_and(|it| it.eq_ignore_ascii_case(start))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_template_left_is_no_credential() {
        for text in [
            "replace-me",
            "REPLACE_ME",
            "change-me",
            "changeme",
            "bot1-change-me",
            "your-token",
            "YOUR_APP_SECRET",
            "<token>",
            "{{ token }}",
            "xxx",
            "XXXXXXXX",
            "****",
            "...",
            "TODO",
            "verification_token",
            "encrypt-key",
        ] {
            assert_eq!(secret(text).err().as_deref(), Some(PLACEHOLDER), "{text}");
        }
        for text in ["s", "ek", "vt", "secret-of-bot0", "yourself", "examples", "0000", "kQ3"] {
            assert!(secret(text).is_ok(), "{text}");
        }
    }

    #[test]
    fn a_single_character_lets_nobody_in() {
        assert!(guard("t").is_err() && guard("密").is_err());
        assert!(guard("vt").is_ok());
    }

    #[test]
    fn an_app_id_is_plain_and_no_placeholder() {
        for text in ["cli_example", "cli_a", "cli_0000000000000001", "a-b_c"] {
            assert_eq!(app_id(text), Ok(text.to_owned()));
        }
        for text in [
            "",
            "cli 3",
            "cli_xxxxxxxx",
            "cli_replace_me",
            "cli_your_app_id",
            "cli_密",
        ] {
            assert!(app_id(text).is_err(), "{text}");
        }
    }
}
