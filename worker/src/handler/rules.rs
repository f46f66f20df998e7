//! `handler: { kind: rules }`: the first rule that matches a person's words answers them.
//!
//! **What is matched**: the words as people see them, of texts and posts (`crate::words`). Leading mentions and surrounding
//! space are dropped, so that `help` matches `@Bot help`; mentions further on read as `@Name`. Matching minds upper and lower
//! case; a regex may begin with `(?i)`, and sees the first [`REGEX_TEXT`] bytes.
//!
//! **What is answered**: the reply's text, with
//! - `{text}`: those same words. Every `<` in them becomes the look-alike `＜`, because Feishu reads `<at …>` and other tags
//!   in text messages and has no escape for them: nobody can make the bot call `<at user_id="all">` for him;
//! - `{sender}`: a mention of the person, `<at user_id="ou_…"></at>`, which Feishu shows as the name;
//! - `{{` and `}}`: a brace. Any other brace is a mistake, which the configuration reports with its line.

use std::sync::Arc;

use async_trait::async_trait;
use openclaw_common::config::{Pattern, REGEX_SIZE, Rule};
use regex::{Regex, RegexBuilder};

use super::{Handler, HandlerError};
use crate::action::Plan;
use crate::event::{Event, Message};

/// How much of a message a regex sees, bytes. The time that one takes grows with its size and with the text's, and whoever can
/// write to the bot chooses the text.
const REGEX_TEXT: usize = 8 * 1024;
/// A regex of this compiled size is done with [`QUICK_TEXT`] bytes in a moment; whatever may take longer runs apart from the
/// threads that everything else runs on.
const QUICK_SIZE: usize = 16 * 1024;
const QUICK_TEXT: usize = 1024;

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
pub(super) struct Rules {
    rules: Arc<[Compiled]>,
    /// Whether every regex among them is a small one.
    quick: bool,
}

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
        let mut quick = true;
        let compile = |(index, rule): (usize, &Rule)| {
            let number = index + 1;
            let matcher = match &rule.pattern {
                Pattern::Keyword(keyword) => Matcher::Keyword(keyword.clone()),
                Pattern::Prefix(prefix) => Matcher::Prefix(prefix.clone()),
                Pattern::Regex(pattern) => {
                    quick &= regex(pattern, QUICK_SIZE).is_ok();
                    let compiled = regex(pattern, REGEX_SIZE).map_err(|reason| RuleError::Regex {
                        rule: number,
                        reason: Box::new(reason),
                    });
                    Matcher::Regex(compiled?)
                }
            };
            let reply = pieces(&rule.reply).map_err(|found| RuleError::Placeholder { rule: number, found })?;
            Ok(Compiled { matcher, reply })
        };
        let rules = rules.iter().enumerate().map(compile).collect::<Result<_, _>>()?;
        Ok(Self { rules, quick })
    }

    /// The place of the first rule that matches.
    async fn first_match(&self, words: &Arc<str>) -> Result<Option<usize>, HandlerError> {
        let (rules, words) = (self.rules.clone(), words.clone());
        let is_quick = self.quick && words.len() <= QUICK_TEXT || rules.iter().all(|rule| !rule.matcher.is_regex());
        let look = move || rules.iter().position(|rule| rule.matcher.matches(&words));
        if is_quick {
            return Ok(look());
        }
        let looked = tokio::task::spawn_blocking(look).await;
        looked.map_err(|failed| HandlerError::Retry(format!("the rules could not be looked through: {failed}")))
    }
}

fn regex(pattern: &str, size: usize) -> Result<Regex, regex::Error> {
    RegexBuilder::new(pattern)
        .size_limit(size)
        .dfa_size_limit(REGEX_SIZE)
        .build()
}

#[async_trait]
impl Handler for Rules {
    async fn plan(&self, event: &Event) -> Result<Plan, HandlerError> {
        let Some((message, words)) = event.words_from_user() else {
            return Ok(Plan::default());
        };
        let words = words.into();
        let found = self.first_match(&words).await?;
        Ok(found
            .and_then(|place| self.rules.get(place))
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
            Self::Regex(regex) => regex.is_match(beginning(words)),
        }
    }

    fn is_regex(&self) -> bool {
        matches!(self, Self::Regex(_))
    }
}

/// What a regex sees.
fn beginning(words: &str) -> &str {
    &words[..words.floor_char_boundary(REGEX_TEXT)]
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
    async fn what_is_a_mention_is_said_by_its_key_and_not_by_the_character_behind_it() {
        let (one, two) = (("@_user_1", "Bot"), ("@_user_2", "Li"));
        let rules = [
            rule(Pattern::Prefix("/help".to_owned()), "prefix"),
            rule(Pattern::Regex("^帮助".to_owned()), "regex"),
        ];
        for (text, mentions, expected) in [
            ("@_user_1/help", &[one][..], Some("prefix")),
            ("@_user_1@_user_2 /help", &[one, two], Some("prefix")),
            ("@_user_1帮助", &[one], Some("regex")),
            ("@_user_1 帮助", &[one], Some("regex")),
            ("@_all/help", &[], Some("prefix")),
            ("@_all@_user_1/help", &[one], Some("prefix")),
            ("/help", &[], Some("prefix")),
            ("@_user_12 /help", &[("@_user_12", "Wang")], Some("prefix")),
            ("@_user_12 /help", &[one, ("@_user_12", "Wang")], Some("prefix")),
            ("@_user_12 /help", &[one], None),
            ("@_user_12 /help", &[], None),
            ("@_user_1 /help", &[], None),
            ("@_user_1 /help", &[("", "nobody")], None),
            ("hey @_user_1 /help", &[one], None),
            ("@_user_1: /help", &[one], None),
        ] {
            let found = answer(&rules, &testing::text(text, mentions)).await;
            assert_eq!(found.as_deref(), expected, "{text} {mentions:?}");
        }
    }

    #[tokio::test]
    async fn leading_mentions_are_dropped_and_later_ones_read_as_names() {
        let mentions = [
            ("@_user_1", "Bot"),
            ("@_user_2", "Li"),
            ("@_user_10", "Wang"),
            ("@_user_3", ""),
        ];
        let rules = [rule(Pattern::Prefix("help".to_owned()), "[{text}]")];
        let event = testing::text(
            " @_user_1  @_all help @_user_2, @_user_10@_user_3 @_user_99 and me@x.org @_all ",
            &mentions,
        );
        let found = answer(&rules, &event).await.unwrap();
        assert_eq!(found, "[help @Li, @Wang@_user_3 @_user_99 and me@x.org @_all]");
        assert_eq!(
            answer(&[keyword("", "nothing said")], &testing::text("@_user_1", &mentions))
                .await
                .unwrap(),
            "nothing said"
        );
    }

    #[tokio::test]
    async fn a_persons_post_is_answered_by_its_words() {
        let rules = [rule(Pattern::Prefix("/help".to_owned()), "{text}")];
        let content = r#"{"title":"","content":[[{"tag":"at","user_id":"@_user_1","user_name":"Bot","style":[]},{"tag":"text","text":" /help me","style":[]}]]}"#;
        let mut event = testing::post(content, &[("@_user_1", "Bot")]);
        assert_eq!(answer(&rules, &event).await.as_deref(), Some("/help me"));
        event.message.as_mut().unwrap().sender.kind = "app".to_owned();
        assert_eq!(answer(&rules, &event).await, None);
    }

    #[tokio::test]
    async fn a_regex_sees_a_bounded_text_and_runs_apart_from_everything_else() {
        // Remembers for each of the last 300 characters whether it was an x: no table of its states is large enough.
        let costly = [rule(Pattern::Regex("x.{300}[0-9]".to_owned()), "found")];
        let within = format!("x{}7", "o".repeat(300));
        assert_eq!(
            answer(&costly, &testing::text(&within, &[])).await.as_deref(),
            Some("found")
        );
        let beyond = format!("{}帮z", "帮".repeat(REGEX_TEXT / 3));
        assert_eq!(
            answer(
                &[rule(Pattern::Regex("z$".to_owned()), "x")],
                &testing::text(&beyond, &[])
            )
            .await,
            None
        );

        // This test has one thread: whatever holds it up holds up everything.
        let rules = Rules::compile(&costly).unwrap();
        let letter = |number: u32| {
            if number.wrapping_mul(2_654_435_761) >> 31 == 1 {
                'x'
            } else {
                'o'
            }
        };
        let event = testing::text(&(0..20_000).map(letter).collect::<String>(), &[]);
        let mut turns = 0_u32;
        tokio::select! {
            biased;
            plan = rules.plan(&event) => assert!(plan.unwrap().is_empty()),
            () = async {
                loop {
                    tokio::time::sleep(std::time::Duration::from_millis(1)).await;
                    turns += 1;
                }
            } => {}
        }
        assert!(turns > 0, "others had their turns meanwhile");
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
