//! Places where a test makes the process die: the rows of the case table in `ARCHITECTURE.md`.
//!
//! Compiled in only with the feature `fail-points`, which the fault tests' own dependency switches on; in what ships a
//! fail point is an empty function, and `./dev lint` looks that it stays so. `OPENCLAW_FAIL_POINT` names the place:
//!
//! | value | the process aborts |
//! |---|---|
//! | `W1` | when it first passes W1 |
//! | `W1:3` | at the third passage |
//! | `handler@om_1` | whenever it passes with this subject, an event's key |
//! | `handler@om_1!panic` | not at all: the passing task panics |

/// A place of the case table, passed on behalf of `subject` (an event's key; empty where there are several).
#[cfg(not(feature = "fail-points"))]
#[inline(always)]
pub fn fail_point(_place: &str, _subject: &str) {}

#[cfg(feature = "fail-points")]
pub use armed::fail_point;

#[cfg(feature = "fail-points")]
mod armed {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU32, Ordering};

    struct Armed {
        place: String,
        /// Which passage; with a subject: every one.
        passage: u32,
        subject: Option<String>,
        panics: bool,
        passed: AtomicU32,
    }

    static ARMED: OnceLock<Option<Armed>> = OnceLock::new();

    /// A place of the case table, passed on behalf of `subject` (an event's key; empty where there are several).
    ///
    /// # Panics
    /// When the test has asked for a panic here.
    #[expect(clippy::panic, reason = "a test asked for it")]
    pub fn fail_point(place: &str, subject: &str) {
        let Some(armed) = ARMED.get_or_init(read) else { return };
        if armed.place != place || armed.subject.as_deref().is_some_and(|wanted| wanted != subject) {
            return;
        }
        let passage = armed.passed.fetch_add(1, Ordering::SeqCst) + 1;
        if armed.subject.is_none() && passage != armed.passage {
            return;
        }
        if armed.panics {
            panic!("fail point {place}");
        }
        tracing::error!(place, "fail point: aborting");
        std::process::abort();
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "tests only: a fail point is no configuration of the product"
    )]
    fn read() -> Option<Armed> {
        let text = std::env::var("OPENCLAW_FAIL_POINT").ok()?;
        let (text, panics) = match text.strip_suffix("!panic") {
            Some(rest) => (rest, true),
            None => (text.as_str(), false),
        };
        let (text, subject) = match text.split_once('@') {
            Some((place, subject)) => (place, Some(subject.to_owned())),
            None => (text, None),
        };
        let (place, passage) = match text.split_once(':') {
            Some((place, passage)) => (place, passage.parse().ok()?),
            None => (text, 1),
        };
        Some(Armed {
            place: place.to_owned(),
            passage,
            subject,
            panics,
            passed: AtomicU32::new(0),
        })
    }
}
