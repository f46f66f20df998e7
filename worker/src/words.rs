//! The words of a message as people see them: what conversational handlers match and quote.
//!
//! | type | its words |
//! |---|---|
//! | `text` | the text |
//! | `post` | the title, then each paragraph on a line of its own; also in the form by language, `{"zh_cn": {…}}` |
//! | `todo` | its summary, which is written like a post |
//!
//! Leading mentions are dropped, with the space around them; mentions further on read as `@Name`. What is a mention is said
//! by the message's list of mentions, whose `key` stands in the text, by `@_all`, and in a post by the tag `at`; never by the
//! character behind it: people write `@Bot/help` and `@Bot帮助`, and their apps add no space.

use std::collections::HashMap;

use serde_json::Value;

use crate::event::{Mention, Message};

/// Stands for everybody, whether or not the list of mentions has it.
const ALL: &str = "@_all";
/// Languages of a post, in the order in which one is looked for; then any other.
const LANGUAGES: [&str; 2] = ["zh_cn", "en_us"];

/// The words of a message; `None` for types that have none.
pub(crate) fn of(message: &Message) -> Option<String> {
    let mut spoken = Spoken::new(&message.mentions);
    if let Some(text) = &message.text {
        spoken.text(text);
        return Some(spoken.words());
    }
    let content = || serde_json::from_str::<Value>(&message.content).ok();
    match message.message_type.as_str() {
        "post" => spoken.post(&content()?),
        "todo" => spoken.post(content()?.get("summary")?),
        _ => return None,
    }
    // Nothing but pictures is nothing said.
    (!spoken.pieces.is_empty()).then(|| spoken.words())
}

/// Part of a message.
enum Piece {
    Words(String),
    /// As people see it, `@Name`.
    Mention(String),
}

/// A message that is being read.
struct Spoken<'a> {
    pieces: Vec<Piece>,
    /// Names by key.
    names: HashMap<&'a str, &'a str>,
    /// The lengths that keys have, longest first: `@_user_12` is not `@_user_1` and a 2, when both are mentioned.
    lengths: Vec<usize>,
}

impl<'a> Spoken<'a> {
    fn new(mentions: &'a [Mention]) -> Self {
        let mut names = HashMap::from([(ALL, "")]);
        names.extend(mentions.iter().map(|mention| (&*mention.key, &*mention.name)));
        // Text is searched for `@`; Feishu has no other keys.
        names.retain(|key, _| key.starts_with('@') && key.len() > 1);
        let mut lengths: Vec<usize> = names.keys().map(|key| key.len()).collect();
        lengths.sort_unstable_by(|one, other| other.cmp(one));
        lengths.dedup();
        Self {
            pieces: Vec::new(),
            names,
            lengths,
        }
    }

    /// The mention that `text` begins with: its key and how it reads.
    fn mention<'t>(&self, text: &'t str) -> Option<(&'t str, String)> {
        let mut beginnings = self.lengths.iter().filter_map(|length| text.get(..*length));
        let key = beginnings.find(|key| self.names.contains_key(key))?;
        Some((key, self.reads(key)))
    }

    fn reads(&self, key: &str) -> String {
        match self.names.get(key) {
            Some(name) if !name.is_empty() => format!("@{name}"),
            _ => key.to_owned(),
        }
    }

    /// Text with keys of mentions in it.
    fn text(&mut self, text: &str) {
        let mut words = String::new();
        let mut rest = text;
        while let Some(at) = rest.find('@') {
            words.push_str(&rest[..at]);
            rest = &rest[at..];
            let length = match self.mention(rest) {
                Some((key, reads)) => {
                    self.pieces.push(Piece::Words(std::mem::take(&mut words)));
                    self.pieces.push(Piece::Mention(reads));
                    key.len()
                }
                None => {
                    words.push('@');
                    1
                }
            };
            rest = &rest[length..];
        }
        words.push_str(rest);
        self.pieces.push(Piece::Words(words));
    }

    fn post(&mut self, content: &Value) {
        let Some(post) = in_one_language(content) else { return };
        if let Some(title) = text_of(post, "title").filter(|title| !title.trim().is_empty()) {
            self.pieces.push(Piece::Words(format!("{title}\n")));
        }
        for (number, paragraph) in list_of(post, "content").iter().enumerate() {
            if number > 0 && !self.pieces.is_empty() {
                self.pieces.push(Piece::Words("\n".to_owned()));
            }
            for element in paragraph.as_array().map_or(&[][..], Vec::as_slice) {
                self.element(element);
            }
        }
    }

    /// An element of a post. One that is not known has its words in `text`, like most.
    fn element(&mut self, element: &Value) {
        match text_of(element, "tag").unwrap_or_default() {
            "at" => {
                let key = text_of(element, "user_id").unwrap_or_default();
                let name = text_of(element, "user_name").filter(|name| !name.is_empty());
                let reads = match name {
                    Some(name) if self.names.get(key).is_none_or(|known| known.is_empty()) => format!("@{name}"),
                    _ => self.reads(key),
                };
                self.pieces.push(Piece::Mention(reads));
            }
            "emotion" => {
                if let Some(emoji) = text_of(element, "emoji_type") {
                    self.pieces.push(Piece::Words(format!("[{emoji}]")));
                }
            }
            _ => {
                if let Some(text) = text_of(element, "text") {
                    self.text(text);
                }
            }
        }
    }

    fn words(self) -> String {
        let mut words = String::new();
        for piece in self.pieces {
            match piece {
                Piece::Words(more) if words.is_empty() => words.push_str(more.trim_start()),
                Piece::Words(more) => words.push_str(&more),
                Piece::Mention(_) if words.is_empty() => {}
                Piece::Mention(reads) => words.push_str(&reads),
            }
        }
        words.truncate(words.trim_end().len());
        words
    }
}

/// A post itself, or what it says in one language.
fn in_one_language(content: &Value) -> Option<&Value> {
    let is_post = |value: &&Value| value.get("content").is_some_and(Value::is_array);
    let named = || {
        LANGUAGES
            .iter()
            .filter_map(|language| content.get(language))
            .find(is_post)
    };
    let any = || content.as_object()?.values().find(is_post);
    Some(content).filter(is_post).or_else(named).or_else(any)
}

fn text_of<'v>(value: &'v Value, name: &str) -> Option<&'v str> {
    value.get(name)?.as_str()
}

fn list_of<'v>(value: &'v Value, name: &str) -> &'v [Value] {
    value.get(name).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
    use crate::handler::testing;

    const MENTIONS: [(&str, &str); 2] = [("@_user_1", "Bot"), ("@_user_2", "Li")];

    fn words(message_type: &str, content: &str) -> Option<String> {
        super::of(&testing::message(message_type, content, &MENTIONS).message.unwrap())
    }

    #[test]
    fn a_post_reads_as_its_title_and_its_paragraphs() {
        let content = r#"{"title":" Stock ","content":[
            [{"tag":"img","image_key":"img_1"}],
            [{"tag":"text","text":"of "},{"tag":"a","href":"https://x.org","text":"SKU 42"},{"tag":"at","user_id":"@_user_2","user_name":"Old"}],
            [],
            [{"tag":"md","text":"**now** @_user_2"},{"tag":"emotion","emoji_type":"SMILE"},{"tag":"new","text":"!"},{"tag":"hr"},{"tag":"media","file_key":"f"}]]}"#;
        let read = words("post", content).unwrap();
        assert_eq!(read, "Stock \n\nof SKU 42@Li\n\n**now** @Li[SMILE]!");
    }

    #[test]
    fn a_post_in_languages_is_read_in_one() {
        let german = r#"{"de_de":{"title":"","content":[[{"tag":"text","text":"/hilfe"}]]}}"#;
        assert_eq!(words("post", german).unwrap(), "/hilfe");
        let two = r#"{"en_us":{"content":[[{"tag":"text","text":"/help"}]]},"zh_cn":{"content":[[{"tag":"at","user_id":"@_user_1"},{"tag":"text","text":"/帮助"}]]}}"#;
        assert_eq!(words("post", two).unwrap(), "/帮助");
    }

    #[test]
    fn whom_a_post_names_is_a_mention_whether_or_not_the_list_has_it() {
        for (at, expected) in [
            (r#"{"tag":"at","user_id":"@_user_9","user_name":"Bot"}"#, "/help, @Bot"),
            (r#"{"tag":"at","user_id":"ou_1","user_name":"Bot"}"#, "/help, @Bot"),
            (
                r#"{"tag":"at","user_id":"@_all","user_name":"Everyone"}"#,
                "/help, @Everyone",
            ),
            (r#"{"tag":"at","user_id":"@_all"}"#, "/help, @_all"),
        ] {
            let content = format!(r#"{{"title":"","content":[[{at},{{"tag":"text","text":"/help, "}},{at}]]}}"#);
            assert_eq!(words("post", &content).unwrap(), expected, "{at}");
        }
    }

    #[test]
    fn what_holds_no_words_says_nothing() {
        for (message_type, content) in [
            ("image", r#"{"image_key":"img_1"}"#),
            ("image", r#"{"text":"not said by anybody"}"#),
            (
                "post",
                r#"{"title":"","content":[[{"tag":"img","image_key":"img_1"}]]}"#,
            ),
            (
                "post",
                r#"{"title":"","content":[[["nested"],7,null,{"text":5}],"flat"]}"#,
            ),
            ("post", r#"{"zh_cn":{"content":"no list"}}"#),
            ("post", "no JSON"),
            ("post", "[]"),
            ("text", "no JSON"),
            (
                "interactive",
                r#"{"title":"a card","elements":[[{"tag":"text","text":"x"}]]}"#,
            ),
        ] {
            assert_eq!(words(message_type, content), None, "{content}");
        }
        let todo = r#"{"task_id":"t","summary":{"title":"","content":[[{"tag":"text","text":"/help me"}]]}}"#;
        assert_eq!(words("todo", todo).unwrap(), "/help me");
    }
}
