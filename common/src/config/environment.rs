//! The environment: `${NAME}` inside values, and `OPENCLAW_SECTION__KEY=…` over the node's keys.

use std::collections::BTreeMap;

use super::mistake::{Mistake, Place};
use super::yaml::{self, Entry, MAX_TEXT, Node, Scalar, Value, shown_key};

const PREFIX: &str = "OPENCLAW_";
/// Stands between the levels of a key. A name without it (`OPENCLAW_API_TOKEN`) is for `${…}` alone.
const LEVEL: &str = "__";

/// Variables by name. Given to every reading instead of being looked up in the process, so that a test, `demo` or a
/// command line flag says what holds.
#[derive(Clone, Default)]
pub struct Environment(BTreeMap<String, String>);

impl Environment {
    /// The process's own variables; those that are not UTF-8 count as unset.
    #[must_use]
    #[expect(
        clippy::disallowed_methods,
        reason = "the one place; everything else is given what was read here"
    )]
    pub fn of_process() -> Self {
        std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .collect()
    }

    /// The same with one variable more, or another value for it: how `--port` overrides a key.
    #[must_use]
    pub fn with(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.0.insert(name.into(), value.into());
        self
    }

    /// A variable's value.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }
}

impl<Name: Into<String>, Text: Into<String>> FromIterator<(Name, Text)> for Environment {
    fn from_iter<T: IntoIterator<Item = (Name, Text)>>(variables: T) -> Self {
        Self(
            variables
                .into_iter()
                .map(|(name, value)| (name.into(), value.into()))
                .collect(),
        )
    }
}

impl Environment {
    /// Puts every `OPENCLAW_A__B=…` into the node's tree, over what the file says.
    pub(super) fn override_keys(&self, root: &mut Node, mistakes: &mut Vec<Mistake>) {
        for (name, value) in &self.0 {
            let Some(path) = name.strip_prefix(PREFIX).filter(|path| path.contains(LEVEL)) else {
                continue;
            };
            let place = Place::whole(name.as_str());
            let path = path.to_ascii_lowercase();
            let keys: Vec<&str> = path.split(LEVEL).collect();
            if keys.iter().any(|key| key.is_empty()) {
                let sentence = "is no key: write OPENCLAW_SECTION__KEY, such as OPENCLAW_SERVER__PORT";
                mistakes.push(Mistake::new(place, "", sentence));
            } else if let Some(node) = yaml::parse(value, &place.source, false, mistakes) {
                // An empty value is YAML's null, not an empty file's mapping.
                let node = if value.trim().is_empty() { null(&place) } else { node };
                put(root, &keys, node, &place);
            }
        }
    }

    /// Replaces every `${NAME}` below `node`; `$${` stands for `${`. What a variable contains is not expanded again.
    pub(super) fn expand(&self, node: &mut Node, mistakes: &mut Vec<Mistake>) {
        let mut room = MAX_TEXT;
        self.expand_below(node, "", &mut room, mistakes);
    }

    /// `room` is how many bytes variables may still add to the file.
    fn expand_below(&self, node: &mut Node, path: &str, room: &mut usize, mistakes: &mut Vec<Mistake>) {
        match &mut node.value {
            Value::Map(entries) => {
                for entry in entries {
                    let key = shown_key(&entry.key);
                    let path = if path.is_empty() { key } else { format!("{path}.{key}") };
                    self.expand_below(&mut entry.node, &path, room, mistakes);
                }
            }
            Value::List(items) => {
                for (index, item) in items.iter_mut().enumerate() {
                    self.expand_below(item, &format!("{path}[{index}]"), room, mistakes);
                }
            }
            Value::Scalar(scalar) => match self.expand_text(&scalar.text, room) {
                Ok(text) => scalar.text = text,
                Err(sentences) => {
                    mistakes.extend(
                        sentences
                            .into_iter()
                            .map(|it| Mistake::new(node.place.clone(), path, it)),
                    );
                    node.value = Value::Broken;
                }
            },
            Value::Broken => {}
        }
    }

    fn expand_text(&self, text: &str, room: &mut usize) -> Result<String, Vec<String>> {
        let mut expanded = String::with_capacity(text.len());
        let mut sentences = Vec::new();
        let mut rest = text;
        while let Some(at) = rest.find("${") {
            let (before, after) = (&rest[..at], &rest[at + 2..]);
            if let Some(before) = before.strip_suffix('$') {
                expanded.push_str(before);
                expanded.push_str("${");
                rest = after;
                continue;
            }
            expanded.push_str(before);
            let Some(end) = after.find('}') else {
                sentences.push("`${` without `}`: write `$${` for the characters themselves".to_owned());
                rest = "";
                break;
            };
            let name = &after[..end];
            match self.get(name) {
                Some(value) => match room.checked_sub(value.len()) {
                    Some(left) => {
                        *room = left;
                        expanded.push_str(value);
                    }
                    None => {
                        let most = MAX_TEXT / (1024 * 1024);
                        sentences.push(format!("the file's variables come to more than {most} MiB"));
                        break;
                    }
                },
                None if is_name(name) => sentences.push(format!("environment variable `{name}` is not set")),
                None => sentences.push("`${…}` does not hold the name of an environment variable".to_owned()),
            }
            rest = &after[end + 1..];
        }
        expanded.push_str(rest);
        if sentences.is_empty() {
            Ok(expanded)
        } else {
            Err(sentences)
        }
    }
}

fn is_name(name: &str) -> bool {
    let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    !name.is_empty() && name.bytes().all(word)
}

fn null(place: &Place) -> Node {
    Node {
        place: place.clone(),
        value: Value::Scalar(Scalar {
            text: String::new(),
            shown: String::new(),
            null: true,
        }),
    }
}

fn put(target: &mut Node, keys: &[&str], node: Node, place: &Place) {
    let [key, rest @ ..] = keys else {
        *target = node;
        return;
    };
    // What stands here and is no section is replaced: the reader then says what it wanted, naming the variable.
    if !matches!(target.value, Value::Map(_)) {
        *target = Node::empty_map(place.clone());
    }
    let Value::Map(entries) = &mut target.value else {
        return;
    };
    let at = match entries.iter().position(|entry| entry.key.eq_ignore_ascii_case(key)) {
        Some(at) => at,
        None => {
            entries.push(Entry {
                key: (*key).to_owned(),
                place: place.clone(),
                node: Node::empty_map(place.clone()),
            });
            entries.len() - 1
        }
    };
    let entry = &mut entries[at];
    if rest.is_empty() {
        entry.place = place.clone();
    }
    put(&mut entry.node, rest, node, place);
}

#[cfg(test)]
mod tests;
