//! Reads one mapping key by key: takes what is known, collects every mistake, and reports what is left over.

use strsim::normalized_damerau_levenshtein;

use super::mistake::{Mistake, Place};
use super::reference;
use super::yaml::{Entry, Node, Value, shown_key};

/// How alike two keys must be for the one to be suggested for the other: one slip in four letters, two in six.
const NEAR: f64 = 0.65;

/// Characters of a value that a mistake repeats.
const MOST_QUOTED: usize = 60;
/// Longer words, in bytes, are no slip of a known one; comparing them costs their length times the other's.
const MOST_COMPARED: usize = 64;

/// One mapping being read. What a key's value is wrong about stays at its default, so that reading goes on.
pub(super) struct Section<'a> {
    path: String,
    place: Place,
    entries: &'a [Entry],
    taken: Vec<bool>,
    known: Vec<&'static str>,
    mistakes: &'a mut Vec<Mistake>,
}

/// A mapping whose keys the operator chooses (`pools`, `encryption.keys`) hands out its entries as these.
pub(super) struct Named<'a> {
    pub(super) name: &'a str,
    pub(super) place: &'a Place,
    path: String,
    node: &'a Node,
}

impl<'a> Section<'a> {
    /// Reads a whole mapping at `path` (empty for a file's root) and then reports its unknown keys.
    pub(super) fn read(
        node: &'a Node,
        path: String,
        place: &Place,
        mistakes: &'a mut Vec<Mistake>,
        read: impl FnOnce(&mut Section<'_>),
    ) {
        let entries = match &node.value {
            Value::Map(entries) => entries.as_slice(),
            Value::Broken => return,
            // `server:` with nothing below it leaves every default.
            Value::Scalar(scalar) if scalar.null => &[],
            Value::Scalar(_) | Value::List(_) => {
                mistakes.push(Mistake::new(
                    node.place.clone(),
                    path,
                    "must be a mapping, `key: value`",
                ));
                return;
            }
        };
        let mut section = Section {
            path,
            place: place.clone(),
            entries,
            taken: vec![false; entries.len()],
            known: Vec::new(),
            mistakes,
        };
        read(&mut section);
        section.report_leftovers();
    }

    /// Whether nothing was written below the section's key.
    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Whether the key was written at all.
    pub(super) fn has(&self, key: &str) -> bool {
        self.node(key).is_some()
    }

    /// Takes a scalar and puts it into `target`; absent or wrong, `target` stays as it is.
    pub(super) fn set<T>(&mut self, key: &'static str, target: &mut T, parse: impl Fn(&str) -> Result<T, String>) {
        if let Some(value) = self.take(key, parse) {
            *target = value;
        }
    }

    /// Takes a scalar. The mistake is "`value` sentence".
    pub(super) fn take<T>(&mut self, key: &'static str, parse: impl Fn(&str) -> Result<T, String>) -> Option<T> {
        let entry = self.entry(key)?;
        let path = self.path_of(key);
        scalar(&entry.node, &path, Quote::Value, parse, self.mistakes)
    }

    /// Takes a scalar that must be there.
    pub(super) fn require<T>(&mut self, key: &'static str, parse: impl Fn(&str) -> Result<T, String>) -> Option<T> {
        self.report_missing(key);
        self.take(key, parse)
    }

    /// Takes a credential: its mistakes never quote it. A blank one is as good as absent.
    pub(super) fn take_secret<T>(&mut self, key: &'static str, parse: impl Fn(&str) -> Result<T, String>) -> Option<T> {
        let entry = self.entry(key)?;
        if self.is_blank(key) {
            return None;
        }
        let path = self.path_of(key);
        scalar(&entry.node, &path, Quote::Nothing, parse, self.mistakes)
    }

    /// Takes a credential that must be there.
    pub(super) fn require_secret<T>(
        &mut self,
        key: &'static str,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Option<T> {
        if self.is_blank(key) {
            self.mistake(key, "is missing");
        }
        self.take_secret(key, parse)
    }

    /// Takes a list of scalars, replacing all of `target`.
    pub(super) fn set_list<T>(
        &mut self,
        key: &'static str,
        target: &mut Vec<T>,
        parse: impl Fn(&str) -> Result<T, String>,
    ) {
        if let Some(values) = self.take_list(key, Quote::Value, parse) {
            *target = values;
        }
    }

    /// Takes a list of scalars; `None` when absent or wrong.
    pub(super) fn take_list<T>(
        &mut self,
        key: &'static str,
        quote: Quote,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Option<Vec<T>> {
        let entry = self.entry(key)?;
        let path = self.path_of(key);
        list(&entry.node, &path, quote, parse, self.mistakes)
    }

    /// Whether the key holds a list; the way to tell `[50/s, 1000/m]` from `50/s`.
    pub(super) fn is_list(&self, key: &str) -> bool {
        self.node(key).is_some_and(|node| matches!(node.value, Value::List(_)))
    }

    /// Whether the key was written with nothing, `~` or `null`: an optional section is taken back that way.
    pub(super) fn is_null(&self, key: &str) -> bool {
        self.node(key)
            .is_some_and(|node| matches!(&node.value, Value::Scalar(scalar) if scalar.null))
    }

    /// Whether a credential is absent, null or `""`, as templates leave it.
    pub(super) fn is_blank(&self, key: &str) -> bool {
        match self.node(key).map(|node| &node.value) {
            None => true,
            Some(Value::Scalar(scalar)) => scalar.null || scalar.shown.is_empty(),
            Some(_) => false,
        }
    }

    /// Reads the mapping below a key, when it was written.
    pub(super) fn nested(&mut self, key: &'static str, read: impl FnOnce(&mut Section<'_>)) {
        if let Some(entry) = self.entry(key) {
            let path = self.path_of(key);
            Section::read(&entry.node, path, &entry.place, self.mistakes, read);
        }
    }

    /// Reads each mapping of a list; `None` when the key is absent or anything in it is wrong.
    pub(super) fn items<T>(
        &mut self,
        key: &'static str,
        read: impl Fn(&mut Section<'_>) -> Option<T>,
    ) -> Option<Vec<T>> {
        let entry = self.entry(key)?;
        let path = self.path_of(key);
        let Value::List(items) = &entry.node.value else {
            not_a_list(&entry.node, &path, self.mistakes);
            return None;
        };
        let mut values = Vec::with_capacity(items.len());
        for (index, item) in items.iter().enumerate() {
            let mut value = None;
            let path = format!("{path}[{index}]");
            Section::read(item, path, &item.place, self.mistakes, |section| value = read(section));
            values.push(value);
        }
        values.into_iter().collect()
    }

    /// The entries below a key whose own keys the operator chooses.
    pub(super) fn named(&mut self, key: &'static str) -> Vec<Named<'a>> {
        let Some(entry) = self.entry(key) else {
            return Vec::new();
        };
        let path = self.path_of(key);
        match &entry.node.value {
            Value::Map(entries) => entries
                .iter()
                .map(|entry| Named {
                    name: &entry.key,
                    place: &entry.place,
                    path: format!("{path}.{}", shown_key(&entry.key)),
                    node: &entry.node,
                })
                .collect(),
            Value::Scalar(scalar) if scalar.null => Vec::new(),
            Value::Broken => Vec::new(),
            Value::Scalar(_) | Value::List(_) => {
                let place = entry.node.place.clone();
                self.mistakes
                    .push(Mistake::new(place, path, "must be a mapping, `name: value`"));
                Vec::new()
            }
        }
    }

    /// A credential under a chosen name.
    pub(super) fn named_secret<T>(
        &mut self,
        named: &Named<'_>,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Option<T> {
        scalar(named.node, &named.path, Quote::Nothing, parse, self.mistakes)
    }

    /// A list of scalars under a chosen name.
    pub(super) fn named_list<T>(
        &mut self,
        named: &Named<'_>,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Option<Vec<T>> {
        list(named.node, &named.path, Quote::Value, parse, self.mistakes)
    }

    /// A mistake about a chosen name.
    pub(super) fn named_mistake(&mut self, named: &Named<'_>, sentence: impl Into<String>) {
        self.mistakes
            .push(Mistake::new(named.place.clone(), named.path.clone(), sentence));
    }

    /// Judges no other key of this section: what they mean depends on one that is wrong.
    pub(super) fn leave_the_rest(&mut self) {
        self.taken.fill(true);
    }

    /// Reports a key that several others make necessary, at this section's own place.
    pub(super) fn report_missing(&mut self, key: &'static str) {
        if !self.has(key) {
            self.mistake(key, "is missing");
        }
    }

    /// A mistake about a key: at its place when it was written, else at the section's.
    pub(super) fn mistake(&mut self, key: &str, sentence: impl Into<String>) {
        let written = self.entries.iter().find(|entry| entry.key == key);
        let place = written.map_or(&self.place, |entry| &entry.place).clone();
        let path = self.path_of(key);
        self.mistakes.push(Mistake::new(place, path, sentence));
    }

    /// A mistake about the section itself.
    pub(super) fn own_mistake(&mut self, sentence: impl Into<String>) {
        self.mistakes
            .push(Mistake::new(self.place.clone(), self.path.clone(), sentence));
    }

    fn node(&self, key: &str) -> Option<&'a Node> {
        self.entries
            .iter()
            .find(|entry| entry.key == key)
            .map(|entry| &entry.node)
    }

    fn entry(&mut self, key: &'static str) -> Option<&'a Entry> {
        if !self.known.contains(&key) {
            self.known.push(key);
        }
        let at = self.entries.iter().position(|entry| entry.key == key)?;
        self.taken[at] = true;
        Some(&self.entries[at])
    }

    fn path_of(&self, key: &str) -> String {
        if self.path.is_empty() {
            key.to_owned()
        } else {
            format!("{}.{key}", self.path)
        }
    }

    fn report_leftovers(mut self) {
        let entries = self.entries;
        let leftovers = entries
            .iter()
            .zip(std::mem::take(&mut self.taken))
            .filter(|(_, taken)| !taken);
        for (entry, _) in leftovers {
            let sentence = format!("unknown key, {}", suggestion(&entry.key, &self.known));
            let path = self.path_of(&shown_key(&entry.key));
            self.mistakes.push(Mistake::new(entry.place.clone(), path, sentence));
        }
    }
}

/// Whether a mistake may repeat the value.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Quote {
    Value,
    Nothing,
}

fn scalar<T>(
    node: &Node,
    path: &str,
    quote: Quote,
    parse: impl Fn(&str) -> Result<T, String>,
    mistakes: &mut Vec<Mistake>,
) -> Option<T> {
    let sentence = match &node.value {
        Value::Broken => return None,
        Value::Scalar(scalar) if scalar.null => "has no value: give it one or remove the key".to_owned(),
        Value::Scalar(scalar) => match parse(&scalar.text) {
            Ok(value) => return Some(value),
            Err(sentence) if quote == Quote::Value => format!("{}{sentence}", quoted(&scalar.shown)),
            Err(sentence) => sentence,
        },
        Value::List(_) | Value::Map(_) => "must be a single value".to_owned(),
    };
    mistakes.push(Mistake::new(node.place.clone(), path, sentence));
    None
}

/// The value as a sentence begins with it: one short line, and nothing at all of what may be a URL with a password.
fn quoted(shown: &str) -> String {
    if shown.contains('@') {
        return String::new();
    }
    let start: String = shown
        .chars()
        .take_while(|character| !character.is_control())
        .take(MOST_QUOTED)
        .collect();
    let more = if start.len() < shown.len() { "…" } else { "" };
    format!("`{start}{more}` ")
}

fn list<T>(
    node: &Node,
    path: &str,
    quote: Quote,
    parse: impl Fn(&str) -> Result<T, String>,
    mistakes: &mut Vec<Mistake>,
) -> Option<Vec<T>> {
    let Value::List(items) = &node.value else {
        not_a_list(node, path, mistakes);
        return None;
    };
    let mut values = Vec::with_capacity(items.len());
    for (index, item) in items.iter().enumerate() {
        values.push(scalar(item, &format!("{path}[{index}]"), quote, &parse, mistakes));
    }
    values.into_iter().collect()
}

fn not_a_list(node: &Node, path: &str, mistakes: &mut Vec<Mistake>) {
    if !matches!(node.value, Value::Broken) {
        mistakes.push(Mistake::new(node.place.clone(), path, "must be a list, `[a, b]`"));
    }
}

/// The word of `known` that was probably meant, if one is close enough.
pub(super) fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    if word.len() > MOST_COMPARED {
        return None;
    }
    let word = word.to_lowercase();
    known
        .into_iter()
        .map(|candidate| (normalized_damerau_levenshtein(&word, candidate), candidate))
        .filter(|(likeness, _)| *likeness >= NEAR)
        .max_by(|one, other| one.0.total_cmp(&other.0))
        .map(|(_, candidate)| candidate)
}

fn suggestion(key: &str, known: &[&'static str]) -> String {
    if let Some(near) = nearest(key, known.iter().copied()) {
        return format!("did you mean `{near}`?");
    }
    // Right word, wrong place: `port` at the top, `max_attempts` beside `retry_policy`.
    let elsewhere: Vec<&str> = reference::paths_ending_in(key).collect();
    match elsewhere.as_slice() {
        [] => format!("known here: {}", known.join(", ")),
        [path] => format!("did you mean `{path}`?"),
        paths => format!("did you mean one of `{}`?", paths.join("`, `")),
    }
}

#[cfg(test)]
mod tests;
