//! Ids that arrive from outside. They go into logs, tables, headers and addresses, so what is no id is refused at the door;
//! behind it nobody has to ask again.

/// Of an id, a type, an address or a name, in bytes. Feishu's are below 70; AMQP and the tables hold this.
pub(crate) const LONGEST: usize = 128;

/// What is wrong with an id, as the end of a sentence that begins with its name; an empty one is for the caller to judge.
pub(crate) fn complaint(text: &str) -> Option<&'static str> {
    if text.len() > LONGEST {
        return Some("is longer than 128 bytes");
    }
    // Neither spaces nor line ends of any script, no control characters, none that turn the direction of writing.
    let plain = |char: char| char.is_alphanumeric() || char.is_ascii_graphic();
    (!text.chars().all(plain)).then_some("has characters that are no letter, digit or ASCII punctuation")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_short_and_plain() {
        assert_eq!(LONGEST, 128, "the sentence names it");
        for good in [
            "",
            "oc_a0ff",
            "u@example.com",
            "用户7",
            "a:b/c.d-e",
            &"x".repeat(LONGEST),
        ] {
            assert_eq!(complaint(good), None, "{good}");
        }
        for bad in [
            "om_1\n2026-11-30 ERROR forged",
            "om_1\r",
            "om\t1",
            "om 1",
            "\0",
            "\u{1b}[2J",
            "\u{7f}",
            "\u{85}",
            "\u{2028}",
            "\u{202e}1_mo",
            "\u{200b}",
            "\u{feff}",
            &"x".repeat(LONGEST + 1),
        ] {
            assert!(complaint(bad).is_some(), "{bad:?}");
        }
    }
}
