//! A YAML file as a tree whose every node knows its line.
//!
//! Built from the parser's events and not from a ready-made document, because those drop what an operator needs to be
//! told: the second of two equal keys, and the text of a scalar before YAML made a number or a truth value of it.

use std::collections::HashMap;
use std::sync::Arc;

use saphyr_parser::{Event, Parser, ScalarStyle, Span};

use super::mistake::{Mistake, Place};

/// Nodes of one file, aliases expanded: far above any real configuration, and a stop for alias bombs.
const MAX_NODES: usize = 20_000;
/// Their text, bytes: an alias of a long text costs as much as the text, in the tree and in whatever is made of it.
pub(super) const MAX_TEXT: usize = 4 * 1024 * 1024;
/// Characters of a key that a mistake repeats.
const MOST_SHOWN: usize = 60;
/// Bytes of a line on which a URL may be cut off by a comment: no URL stands on a longer one.
const LONGEST_LINE: usize = 4 * 1024;
/// Levels of nesting; the reference needs six.
const MAX_DEPTH: usize = 32;

#[derive(Clone)]
pub(super) struct Node {
    pub(super) place: Place,
    pub(super) value: Value,
}

#[derive(Clone)]
pub(super) enum Value {
    Scalar(Scalar),
    List(Vec<Node>),
    Map(Vec<Entry>),
    /// Reported already: readers pass it over in silence.
    Broken,
}

#[derive(Clone)]
pub(super) struct Scalar {
    pub(super) text: String,
    /// What a mistake may quote: the text as written, with `${…}` unexpanded, for its value may be a secret.
    pub(super) shown: String,
    /// Written as nothing, `~` or `null`, without quotes.
    pub(super) null: bool,
}

#[derive(Clone)]
pub(super) struct Entry {
    pub(super) key: String,
    pub(super) place: Place,
    pub(super) node: Node,
}

impl Node {
    pub(super) fn empty_map(place: Place) -> Self {
        Self {
            place,
            value: Value::Map(Vec::new()),
        }
    }

    /// The entries of a mapping; none for anything else.
    pub(super) fn entries(&self) -> &[Entry] {
        match &self.value {
            Value::Map(entries) => entries,
            _ => &[],
        }
    }

    /// Where a dotted path was written, if it was.
    pub(super) fn written(&self, path: &str) -> Option<&Place> {
        let (key, rest) = path
            .split_once('.')
            .map_or((path, None), |(key, rest)| (key, Some(rest)));
        let entry = self.entries().iter().find(|entry| entry.key == key)?;
        match rest {
            Some(rest) => entry.node.written(rest),
            None => Some(&entry.place),
        }
    }

    /// How many nodes this is, and how many bytes of text they hold.
    fn weight(&self) -> Weight {
        let alone = |text: usize| Weight { nodes: 1, text };
        match &self.value {
            Value::Scalar(scalar) => alone(scalar.text.len()),
            Value::List(items) => items.iter().map(Self::weight).fold(alone(0), Weight::plus),
            Value::Map(entries) => entries
                .iter()
                .map(|entry| entry.node.weight().plus(alone(entry.key.len())))
                .fold(alone(0), Weight::plus),
            Value::Broken => alone(0),
        }
    }
}

/// What a tree costs.
#[derive(Clone, Copy, Default)]
struct Weight {
    nodes: usize,
    text: usize,
}

impl Weight {
    fn plus(self, other: Self) -> Self {
        Self {
            nodes: self.nodes + other.nodes,
            text: self.text + other.text,
        }
    }
}

/// Reads one document. An empty one is an empty mapping; `None` when it is no YAML at all (the mistake is added).
/// `lines` is false for a variable, whose name is place enough.
pub(super) fn parse(text: &str, source: &Arc<str>, lines: bool, mistakes: &mut Vec<Mistake>) -> Option<Node> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut builder = Builder {
        written: text.lines().collect(),
        source,
        lines,
        open: Vec::new(),
        anchors: HashMap::new(),
        weight: Weight::default(),
        root: None,
        mistakes,
    };
    for event in Parser::new_from_str(text) {
        let result = match event {
            Ok((event, span)) => builder.take(event, span),
            Err(error) => Err(builder.syntax_mistake(&error)),
        };
        if let Err(mistake) = result {
            builder.mistakes.push(mistake);
            return None;
        }
    }
    let place = builder.place(1);
    Some(builder.root.unwrap_or_else(|| Node::empty_map(place)))
}

struct Builder<'a> {
    /// The text's lines, collected once: what is looked up for each node must not walk over the file.
    written: Vec<&'a str>,
    source: &'a Arc<str>,
    lines: bool,
    open: Vec<Open>,
    anchors: HashMap<usize, Node>,
    weight: Weight,
    root: Option<Node>,
    mistakes: &'a mut Vec<Mistake>,
}

/// A list or mapping whose end has not come yet.
struct Open {
    node: Node,
    anchor: usize,
    /// The key whose value comes next, in a mapping.
    key: Option<(String, Place)>,
    /// Line and column of what it was opened with: a bracket, unless its extent is told by indentation.
    begun: (usize, usize),
}

impl Builder<'_> {
    fn place(&self, line: usize) -> Place {
        Place {
            source: self.source.clone(),
            line: self.lines.then_some(line.max(1)),
        }
    }

    fn syntax_mistake(&self, error: &saphyr_parser::ScanError) -> Mistake {
        let (line, column) = (error.marker().line(), error.marker().col() + 1);
        // The parser stops where something else has to come, which may be lines after the bracket that somebody forgot.
        let open = self.open.iter().rev().find_map(|open| self.bracket(open.begun));
        let begun = open.map_or(String::new(), |(begun, bracket)| {
            let close = if bracket == '[' { ']' } else { '}' };
            let place = if self.lines {
                format!(" on line {begun}")
            } else {
                String::new()
            };
            format!("; the `{bracket}`{place} is not closed: is a `{close}` missing?")
        });
        // `{ key: ${NAME} }` is the syntax error people make with this format, and the parser's words do not help.
        let nearby = self.written.iter().skip(line.saturating_sub(2)).take(2);
        let hint = if nearby.into_iter().any(|line| line.contains("${")) {
            "; inside `{ }` and `[ ]` write \"${NAME}\" in quotes"
        } else {
            &begun
        };
        let sentence = format!("is not valid YAML: {} (column {column}){hint}", error.info());
        Mistake::new(self.place(line), "", sentence)
    }

    /// The bracket at this place, with its line, if one stands there.
    fn bracket(&self, (line, column): (usize, usize)) -> Option<(usize, char)> {
        let begun = self.written.get(line.checked_sub(1)?)?;
        let bracket = begun.chars().nth(column)?;
        matches!(bracket, '[' | '{').then_some((line, bracket))
    }

    /// A password with ` #` in it ends there for YAML, and what is left of the URL is one of another server.
    fn no_cut_url(&self, text: &str, span: Span, place: &Place) -> Result<(), Mistake> {
        if !text.contains("://") || text.contains('@') {
            return Ok(());
        }
        let line = self.written.get(span.end.line().saturating_sub(1));
        let line = line
            .filter(|line| line.len() <= LONGEST_LINE)
            .copied()
            .unwrap_or_default();
        let rest: String = line.chars().skip(span.end.col()).collect();
        let comment = rest.trim_start().strip_prefix('#').unwrap_or_default();
        let word = comment.split(char::is_whitespace).next().unwrap_or_default();
        if word.contains('@') {
            let sentence = "the URL ends at ` #`, where YAML begins a comment: in a password write a space as %20 and \
                            `#` as %23";
            return Err(Mistake::new(place.clone(), "", sentence));
        }
        Ok(())
    }

    /// Adds to what the file has cost so far.
    fn charge(&mut self, weight: Weight, place: &Place) -> Result<(), Mistake> {
        self.weight = self.weight.plus(weight);
        let sentence = if self.weight.nodes > MAX_NODES {
            format!("has more than {MAX_NODES} values, aliases (`*name`) counted as often as they are used")
        } else if self.weight.text > MAX_TEXT {
            let most = MAX_TEXT / (1024 * 1024);
            format!("has more than {most} MiB of text, aliases (`*name`) counted as often as they are used")
        } else {
            return Ok(());
        };
        Err(Mistake::new(place.clone(), "", sentence))
    }

    fn take(&mut self, event: Event<'_>, span: Span) -> Result<(), Mistake> {
        let place = self.place(span.start.line());
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                self.no_tag(tag.as_deref(), &place)?;
                if style == ScalarStyle::Plain {
                    self.no_cut_url(&text, span, &place)?;
                }
                let weight = Weight {
                    nodes: 1,
                    text: text.len(),
                };
                self.charge(weight, &place)?;
                let null = style == ScalarStyle::Plain && matches!(&*text, "" | "~" | "null" | "Null" | "NULL");
                let scalar = Scalar {
                    shown: text.to_string(),
                    text: text.into_owned(),
                    null,
                };
                let value = Value::Scalar(scalar);
                self.insert(Node { place, value }, anchor)
            }
            Event::SequenceStart(anchor, tag) => {
                self.no_tag(tag.as_deref(), &place)?;
                let value = Value::List(Vec::new());
                self.begin(Node { place, value }, anchor, span)
            }
            Event::MappingStart(anchor, tag) => {
                self.no_tag(tag.as_deref(), &place)?;
                self.begin(Node::empty_map(place), anchor, span)
            }
            Event::SequenceEnd | Event::MappingEnd => match self.open.pop() {
                Some(open) => self.insert(open.node, open.anchor),
                None => Ok(()),
            },
            Event::Alias(anchor) => {
                let Some(weight) = self.anchors.get(&anchor).map(Node::weight) else {
                    return Err(Mistake::new(place, "", "the alias stands inside what it refers to"));
                };
                self.charge(weight, &place)?;
                let Some(mut node) = self.anchors.get(&anchor).cloned() else {
                    return Ok(());
                };
                node.place = place;
                self.insert(node, 0)
            }
            Event::DocumentStart(_) if self.root.is_some() => {
                Err(Mistake::new(place, "", "a second YAML document: one file holds one"))
            }
            Event::DocumentStart(_) | Event::DocumentEnd | Event::StreamStart | Event::StreamEnd | Event::Nothing => {
                Ok(())
            }
        }
    }

    fn no_tag(&self, tag: Option<&saphyr_parser::Tag>, place: &Place) -> Result<(), Mistake> {
        match tag {
            None => Ok(()),
            Some(_) => Err(Mistake::new(
                place.clone(),
                "",
                "a YAML tag (`!…`): write the plain value",
            )),
        }
    }

    fn begin(&mut self, node: Node, anchor: usize, span: Span) -> Result<(), Mistake> {
        self.charge(Weight { nodes: 1, text: 0 }, &node.place)?;
        if self.open.len() >= MAX_DEPTH {
            return Err(Mistake::new(
                node.place,
                "",
                format!("is nested deeper than {MAX_DEPTH}"),
            ));
        }
        self.open.push(Open {
            node,
            anchor,
            key: None,
            begun: (span.start.line(), span.start.col()),
        });
        Ok(())
    }

    fn insert(&mut self, node: Node, anchor: usize) -> Result<(), Mistake> {
        if anchor > 0 {
            // A copy like any alias: with anchors inside anchors there is one for each level.
            self.charge(node.weight(), &node.place)?;
            self.anchors.insert(anchor, node.clone());
        }
        let Some(open) = self.open.last_mut() else {
            self.root = Some(node);
            return Ok(());
        };
        match &mut open.node.value {
            Value::List(items) => items.push(node),
            Value::Map(entries) => match (open.key.take(), node.value) {
                (Some((key, place)), value) => match entries.iter().find(|entry| entry.key == key) {
                    Some(first) => {
                        let first = first
                            .place
                            .line
                            .map_or(String::new(), |line| format!(" (first on line {line})"));
                        let shown = shown_key(&key);
                        let sentence = format!("`{shown}` is written twice{first}: keep one");
                        self.mistakes.push(Mistake::new(place, "", sentence));
                    }
                    None => entries.push(Entry {
                        key,
                        place,
                        node: Node {
                            place: node.place,
                            value,
                        },
                    }),
                },
                (None, Value::Scalar(scalar)) => open.key = Some((scalar.text, node.place)),
                (None, _) => return Err(Mistake::new(node.place, "", "a key is a list or a mapping: use a word")),
            },
            Value::Scalar(_) | Value::Broken => {}
        }
        Ok(())
    }
}

/// A key as a mistake may show it: short, and `{app_secret:abc}` (no space) is a key to YAML, so what follows a strange
/// character stays hidden.
pub(super) fn shown_key(key: &str) -> String {
    let plain = |character: char| character.is_alphanumeric() || matches!(character, '_' | '-' | '.');
    let mut shown: String = key.chars().take(MOST_SHOWN).take_while(|it| plain(*it)).collect();
    if shown.len() < key.len() {
        shown.push('…');
    }
    shown
}

#[cfg(test)]
mod tests;
