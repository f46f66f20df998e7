//! How a batch travels into a statement: one JSON array for `json_each`, and one blob for all bodies.

use serde::Serialize;

/// A batch as JSON. Rows are tuples; a statement reads their fields with `value ->> 0`, `value ->> 1`, …
pub(super) fn json<T: Serialize + ?Sized>(rows: &T) -> Result<String, sqlx::Error> {
    serde_json::to_string(rows).map_err(|error| sqlx::Error::Encode(Box::new(error)))
}

/// All bodies of a batch in one blob; a statement cuts one out with `substr(blob, start, length)`, which on blobs counts
/// bytes from 1.
pub(super) struct Bodies(Vec<u8>);

/// Where a body stands: its start and its length.
pub(super) type Cut = (usize, usize);

impl Bodies {
    /// An empty blob would be NULL to `substr`, so there is always a first byte that belongs to nobody.
    pub(super) fn new() -> Self {
        Self(vec![0])
    }

    /// Adds a body.
    pub(super) fn push(&mut self, body: &[u8]) -> Cut {
        let start = self.0.len() + 1;
        self.0.extend_from_slice(body);
        (start, body.len())
    }

    /// The blob.
    pub(super) fn into_blob(self) -> Vec<u8> {
        self.0
    }
}
