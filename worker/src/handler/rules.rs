//! `handler: { kind: rules }`: the first rule that matches a person's text answers it.
//!
//! **What is matched**: the words as people see them. Leading mentions (`@_user_1 `, `@_all `) and surrounding space are
//! dropped, so that `help` matches `@Bot help`; mentions further on read as `@Name`. Matching minds upper and lower case; a
//! regex may begin with `(?i)`.
//!
//! **What is answered**: the reply's text, with
//! - `{text}`: those same words. Every `<` in them becomes the look-alike `＜`, because Feishu reads `<at …>` and other tags
//!   in text messages and has no escape for them: nobody can make the bot call `<at user_id="all">` for him;
//! - `{sender}`: a mention of the person, `<at user_id="ou_…"></at>`, which Feishu shows as the name;
//! - `{{` and `}}`: a brace. Any other brace is a mistake, which the configuration reports with its line.

use async_trait::async_trait;
use openclaw_common::config::{Pattern, REGEX_SIZE, Rule};
use regex::{Regex, RegexBuilder};

use super::{Handler, HandlerError};
use crate::action::Plan;
use crate::event::{Event, Mention, Message};

/// A rule cannot be used: the operator's to correct.
#[derive(Debug, thiserror::Error)]
pub enum RuleError {
    /// The regex is wrong or too large.
    #[error("rule {rule}: the regex cannot be used: {reason}")]
    Regex {
        /// Its place, from 1.
        rule: usize,
        /// What is wrong with it.
        reason: Box<regex::Error>,
    },
    /// A brace in the reply is neither a placeholder nor doubled.
    #[error("rule {rule}: the reply has `{found}`: write {{text}}, {{sender}}, or {{{{ and }}}} for braces")]
    Placeholder {
        /// Its place, from 1.
        rule: usize,
        /// From the brace on.
        found: String,
    },
}

/// The compiled rules.
pub(super) struct Rules(Vec<Compiled>);

struct Compiled {
    matcher: Matcher,
    reply: Vec<Piece>,
}

enum Matcher {
    Keyword(String),
    Prefix(String),
    Regex(Regex),
}

/// A part of a reply.
#[derive(Debug, PartialEq, Eq)]
enum Piece {
    Literal(String),
    Text,
    Sender,
}

impl Rules {
    /// Compiles every rule once.
    pub(super) fn compile(rules: &[Rule]) -> Result<Self, RuleError> {
        rules
            .iter()
            .enumerate()
            .map(|(index, rule)| {
                let number = index + 1;
                let matcher = match &rule.pattern {
                    Pattern::Keyword(keyword) => Matcher::Keyword(keyword.clone()),
                    Pattern::Prefix(prefix) => Matcher::Prefix(prefix.clone()),
                    Pattern::Regex(pattern) => RegexBuilder::new(pattern)
                        .size_limit(REGEX_SIZE)
                        .dfa_size_limit(REGEX_SIZE)
                        .build()
                        .map(Matcher::Regex)
                        .map_err(|reason| RuleError::Regex {
                            rule: number,
                            reason: Box::new(reason),
                        })?,
                };
                let reply = pieces(&rule.reply).map_err(|found| RuleError::Placeholder { rule: number, found })?;
                Ok(Compiled { matcher, reply })
            })
            .collect::<Result<_, _>>()
            .map(Self)
    }
}

#[async_trait]
impl Handler for Rules {
    async fn plan(&self, event: &Event) -> Result<Plan, HandlerError> {
        let Some((message, text)) = event.text_from_user() else {
            return Ok(Plan::default());
        };
        let words = words(text, &message.mentions);
        Ok(self
            .0
            .iter()
            .find(|rule| rule.matcher.matches(&words))
            .map_or_else(Plan::default, |rule| {
                Plan::one(message.reply(serde_json::json!({ "text": fill(&rule.reply, &words, message) }).to_string()))
            }))
    }
}

impl Matcher {
    fn matches(&self, words: &str) -> bool {
        match self {
            Self::Keyword(keyword) => words.contains(keyword),
            Self::Prefix(prefix) => words.starts_with(prefix),
            Self::Regex(regex) => regex.is_match(words),
        }
    }
}

/// Cuts a reply into its parts, or returns the text from the wrong brace on.
fn pieces(reply: &str) -> Result<Vec<Piece>, String> {
    const PARTS: [(&str, Option<Piece>, &str); 4] = [
        ("{{", None, "{"),
        ("}}", None, "}"),
        ("{text}", Some(Piece::Text), ""),
        ("{sender}", Some(Piece::Sender), ""),
    ];
    let mut pieces = Vec::new();
    let mut literal = String::new();
    let mut rest = reply;
    while let Some(brace) = rest.find(['{', '}']) {
        literal.push_str(&rest[..brace]);
        rest = &rest[brace..];
        let (written, piece, character) = PARTS
            .into_iter()
            .find(|(written, _, _)| rest.starts_with(written))
            .ok_or_else(|| rest.chars().take(20).collect::<String>())?;
        literal.push_str(character);
        if let Some(piece) = piece {
            if !literal.is_empty() {
                pieces.push(Piece::Literal(std::mem::take(&mut literal)));
            }
            pieces.push(piece);
        }
        rest = &rest[written.len()..];
    }
    literal.push_str(rest);
    if !literal.is_empty() {
        pieces.push(Piece::Literal(literal));
    }
    Ok(pieces)
}

/// A text as people see it: see the module's first paragraph.
fn words(text: &str, mentions: &[Mention]) -> String {
    let mut rest = text.trim();
    while let Some(length) = placeholder(rest).filter(|length| {
        // `@_user_1help` is somebody's odd text, not a mention: Feishu sets a space behind each.
        rest[*length..].is_empty() || rest[*length..].starts_with(char::is_whitespace)
    }) {
        rest = rest[length..].trim_start();
    }
    let mut words = String::with_capacity(rest.len());
    while let Some(at) = rest.find('@') {
        words.push_str(&rest[..at]);
        rest = &rest[at..];
        let length = placeholder(rest).unwrap_or(1);
        let (key, behind) = rest.split_at(length);
        match mentions.iter().find(|mention| mention.key == key) {
            Some(mention) => {
                words.push('@');
                words.push_str(&mention.name);
            }
            None => words.push_str(key),
        }
        rest = behind;
    }
    words.push_str(rest);
    words
}

/// The length of the mention (`@_user_<digits>`, `@_all`) that `text` begins with.
fn placeholder(text: &str) -> Option<usize> {
    const USER: &str = "@_user_";
    const ALL: &str = "@_all";
    if let Some(behind) = text.strip_prefix(USER) {
        let digits = behind.bytes().take_while(u8::is_ascii_digit).count();
        (digits > 0).then_some(USER.len() + digits)
    } else {
        text.starts_with(ALL).then_some(ALL.len())
    }
}

fn fill(reply: &[Piece], words: &str, message: &Message) -> String {
    let mut filled = String::new();
    for piece in reply {
        match piece {
            Piece::Literal(literal) => filled.push_str(literal),
            Piece::Text => filled.push_str(&words.replace('<', "＜")),
            Piece::Sender => {
                // The id is Feishu's, yet it lands inside markup: anything but an id is left out.
                let id = &message.sender.open_id;
                let is_id = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
                if !id.is_empty() && id.bytes().all(is_id) {
                    filled.push_str("<at user_id=\"");
                    filled.push_str(id);
                    filled.push_str("\"></at>");
                }
            }
        }
    }
    filled
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]
    use super::super::testing;
    use super::*;
    use crate::action::Action;

    fn rule(pattern: Pattern, reply: &str) -> Rule {
        Rule {
            pattern,
            reply: reply.to_owned(),
        }
    }

    fn keyword(keyword: &str, reply: &str) -> Rule {
        rule(Pattern::Keyword(keyword.to_owned()), reply)
    }

    /// The text that `rules` answer `event` with.
    async fn answer(rules: &[Rule], event: &Event) -> Option<String> {
        let plan = Rules::compile(rules).unwrap().plan(event).await.unwrap();
        match plan.actions.as_slice() {
            [] => None,
            [Action::Reply { content, msg_type, .. }] => {
                assert_eq!(msg_type, "text");
                let content: serde_json::Value = serde_json::from_str(content).unwrap();
                Some(content["text"].as_str().unwrap().to_owned())
            }
            other => panic!("not one reply: {other:?}"),
        }
    }

    #[tokio::test]
    async fn the_first_rule_that_matches_answers() {
        let rules = [
            rule(Pattern::Prefix("/stock".to_owned()), "prefix"),
            keyword("stock", "keyword"),
            rule(Pattern::Regex(r"(?i)^sku\s+\d+$".to_owned()), "regex"),
        ];
        for (text, expected) in [
            ("/stock of 42", Some("prefix")),
            ("my stock", Some("keyword")),
            ("Stock", None),
            ("SKU  42", Some("regex")),
            ("SKU 42 x", None),
        ] {
            let found = answer(&rules, &testing::text(text, &[])).await;
            assert_eq!(found.as_deref(), expected, "{text}");
        }
    }

    #[tokio::test]
    async fn leading_mentions_are_dropped_and_later_ones_read_as_names() {
        let mentions = [("@_user_1", "Bot"), ("@_user_2", "Li"), ("@_user_10", "Wang")];
        let rules = [rule(Pattern::Prefix("help".to_owned()), "[{text}]")];
        let event = testing::text(" @_user_1  @_all help @_user_2, @_user_10 and me@x.org ", &mentions);
        let found = answer(&rules, &event).await.unwrap();
        assert_eq!(found, "[help @Li, @Wang and me@x.org]");
        assert_eq!(answer(&rules, &testing::text("@_user_1help", &mentions)).await, None);
        assert_eq!(
            answer(&[keyword("", "nothing said")], &testing::text("@_user_1", &mentions))
                .await
                .unwrap(),
            "nothing said"
        );
    }

    #[tokio::test]
    async fn nobody_can_make_the_bot_mention_everybody() {
        let attack = r#"hi <at user_id="all">all</at> < at user_id='all'></at>"#;
        let event = testing::text(&format!("{attack} @_user_1"), &[("@_user_1", r#"<at user_id="all">"#)]);
        let found = answer(&[keyword("hi", "{sender}: {text}")], &event).await.unwrap();
        let tail = found.strip_prefix(r#"<at user_id="ou_1"></at>: "#).unwrap();
        assert!(!tail.contains('<'), "{found}");

        let mut event = testing::text("hi", &[]);
        event.message.as_mut().unwrap().sender.open_id = r#"all"></at><at user_id="all"#.to_owned();
        assert_eq!(
            answer(&[keyword("hi", "{sender}: {text}")], &event).await.unwrap(),
            ": hi"
        );
    }

    #[tokio::test]
    async fn quotes_and_newlines_of_the_text_stay_inside_the_json_string() {
        let text = "hi \"}, {\"x\": \\ \n\u{0}";
        let found = answer(&[keyword("hi", "{text}")], &testing::text(text, &[]))
            .await
            .unwrap();
        assert_eq!(found, text);
    }

    #[tokio::test]
    async fn bots_are_not_answered() {
        let mut event = testing::text("hi", &[]);
        event.message.as_mut().unwrap().sender.kind = "app".to_owned();
        assert_eq!(answer(&[keyword("", "yes")], &event).await, None);
    }

    #[test]
    fn doubled_braces_are_braces_and_placeholders_stand_anywhere() {
        let literal = |text: &str| Piece::Literal(text.to_owned());
        assert_eq!(
            pieces("{{a}} {text}{sender}{{text}}").unwrap(),
            [literal("{a} "), Piece::Text, Piece::Sender, literal("{text}")]
        );
        assert_eq!(pieces("").unwrap(), []);
    }

    #[test]
    fn an_unknown_placeholder_names_the_rule_and_the_place() {
        for reply in ["{name} hi", "{", "}", "{text", "{ text }"] {
            let error = Rules::compile(&[keyword("a", "ok"), keyword("b", reply)])
                .err()
                .unwrap()
                .to_string();
            assert!(
                error.starts_with(&format!("rule 2: the reply has `{reply}`")),
                "{error}"
            );
            assert!(
                error.ends_with("write {text}, {sender}, or {{ and }} for braces"),
                "{error}"
            );
        }
    }

    #[test]
    fn a_wrong_or_huge_regex_is_refused() {
        for pattern in ["(", "((a{100}){100}){100}"] {
            let error = Rules::compile(&[rule(Pattern::Regex(pattern.to_owned()), "x")])
                .err()
                .unwrap();
            assert!(matches!(error, RuleError::Regex { rule: 1, .. }), "{error}");
        }
    }
}
