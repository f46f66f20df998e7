//! What is wrong in the configuration: every mistake at once, each with its place and one sentence.

use std::fmt;
use std::sync::Arc;

/// Where a value was written: a file with a line, or an environment variable.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    pub(super) source: Arc<str>,
    /// From 1; `None` for a variable and for a whole file or folder.
    pub(super) line: Option<usize>,
}

impl Place {
    /// A file, a folder or a variable as a whole.
    pub(super) fn whole(source: impl Into<Arc<str>>) -> Self {
        Self {
            source: source.into(),
            line: None,
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            Some(line) => write!(formatter, "{}:{line}", self.source),
            None => formatter.write_str(&self.source),
        }
    }
}

/// One mistake: its place, the key it is about and a sentence that names the fix. It never contains a secret.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mistake {
    place: Place,
    /// Full path such as `message.retry_policy.backoff`; empty when the file or folder itself is meant.
    key: String,
    sentence: String,
}

impl Mistake {
    pub(super) fn new(place: Place, key: impl Into<String>, sentence: impl Into<String>) -> Self {
        Self {
            place,
            key: key.into(),
            sentence: sentence.into(),
        }
    }
}

impl Mistake {
    /// Where it is and which key it is about, as one text.
    #[must_use]
    pub fn what(&self) -> String {
        match self.key.as_str() {
            "" => self.place.to_string(),
            key => format!("{}: {key}", self.place),
        }
    }

    /// The sentence that names the fix.
    #[must_use]
    pub fn sentence(&self) -> &str {
        &self.sentence
    }
}

impl fmt::Display for Mistake {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}: {}", self.what(), self.sentence)
    }
}

/// Every mistake of one reading, by file and line; printed one a line. The operator is at fault: retrying is useless
/// until the files or the environment change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistakes(Vec<Mistake>);

impl Mistakes {
    pub(super) fn new(mut mistakes: Vec<Mistake>) -> Self {
        mistakes.sort();
        mistakes.dedup();
        Self(mistakes)
    }

    /// Each mistake, sorted.
    pub fn iter(&self) -> impl Iterator<Item = &Mistake> {
        self.0.iter()
    }
}

impl fmt::Display for Mistakes {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, mistake) in self.0.iter().enumerate() {
            let separator = if index == 0 { "" } else { "\n" };
            write!(formatter, "{separator}{mistake}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Mistakes {}
