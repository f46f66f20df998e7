//! The bearer tokens of `api.tokens`: who may use the send API and the console.

use subtle::{Choice, ConstantTimeEq as _};

use crate::config::Api;

/// The tokens that are let in, as hashes: nobody who reads this memory has one. Equal length too, so that comparing tells
/// nothing about theirs.
#[derive(Clone, Default)]
pub struct Bearers(Vec<[u8; 32]>);

impl Bearers {
    /// Those of `api.tokens`.
    #[must_use]
    pub fn new(api: &Api) -> Self {
        let hashed = api.tokens.iter().map(|token| hash(token.expose().as_bytes()));
        Self(hashed.collect())
    }

    /// Whether there are none: then nobody is let in.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether an `Authorization` header carries one of them. Looks at all of them, whichever it is.
    #[must_use]
    pub fn allow(&self, authorization: &[u8]) -> bool {
        let Some((scheme, token)) = authorization.split_at_checked(b"Bearer ".len()) else {
            return false;
        };
        let given = hash(token.trim_ascii());
        let known = self
            .0
            .iter()
            .fold(Choice::from(0), |found, token| found | token.ct_eq(&given));
        bool::from(known) && scheme.eq_ignore_ascii_case(b"Bearer ")
    }
}

fn hash(token: &[u8]) -> [u8; 32] {
    *blake3::hash(token).as_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secret::Secret;

    #[test]
    fn only_a_whole_known_token_is_let_in() {
        let tokens = ["one-token", "another"].map(Secret::new).to_vec();
        let bearers = Bearers::new(&Api { tokens });
        for good in ["Bearer one-token", "bearer another", "Bearer  another "] {
            assert!(bearers.allow(good.as_bytes()), "{good}");
        }
        for bad in [
            "",
            "Bearer",
            "Bearer ",
            "Bearer one",
            "Bearer one-token2",
            "Basic one-token",
            "one-token",
        ] {
            assert!(!bearers.allow(bad.as_bytes()), "{bad}");
        }
        assert!(!Bearers::default().allow(b"Bearer "));
    }
}
