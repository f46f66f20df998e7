//! What becomes of an event after a send: a pure function of the answer, the tries so far and the bot's policy.

use std::time::Duration;

use openclaw_common::backoff;
use openclaw_common::config::Message;

use crate::feishu::Outcome;

/// Retries whose waits total at most this stay in the lane (ARCHITECTURE.md, "Waiting"); longer ones go to the waiting room.
pub(crate) const LANE_PATIENCE: Duration = Duration::from_secs(10);
/// A pause named by the platform that is longer than this is spent in the waiting room.
pub(crate) const LONG_PAUSE: Duration = Duration::from_secs(5 * 60);
/// Feishu keeps a uuid for one hour; ten minutes are the margin for clocks and slow requests (`docs/design/delivery.md` §4).
pub(crate) const UUID_LIFE: Duration = Duration::from_secs(50 * 60);

/// What to do next.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Verdict {
    /// Feishu has it.
    Sent {
        /// The visible message.
        message_id: Option<String>,
    },
    /// Not a failure: the platform's limit. Ask for a new slot after the pause.
    Pause(Duration),
    /// A failure that may pass.
    Retry(Duration),
    /// Given up, with the dead letter's class.
    Dead(&'static str),
    /// Nobody can tell whether a message is visible, and no more tries under its uuid can find out.
    Unknown,
}

/// What has been tried so far, the answer at hand included.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Tries {
    /// Failed attempts.
    pub(crate) attempts: u32,
    /// Answers that named a limit: they burn no attempt.
    pub(crate) limits: u32,
    /// How long ago the action was first tried.
    pub(crate) since: Duration,
    /// Whether no copy can exist: no try was ambiguous.
    pub(crate) clean: bool,
}

/// Judges an answer.
pub(crate) fn judge(outcome: &Outcome, tries: Tries, policy: &Message) -> Verdict {
    match outcome {
        Outcome::Sent { message_id, .. } => Verdict::Sent {
            message_id: message_id.clone(),
        },
        Outcome::Limited { pause, .. } => {
            let pause = pause.unwrap_or_else(|| limited_backoff(tries.limits));
            if outlives_uuid(tries, pause) {
                Verdict::Unknown
            } else {
                Verdict::Pause(pause)
            }
        }
        Outcome::Unready { wait, .. } => Verdict::Pause(*wait),
        Outcome::Permanent { .. } => Verdict::Dead("permanent"),
        Outcome::Transient { .. } => {
            let wait = backoff::delay(&policy.retry, tries.attempts);
            match tries.attempts >= policy.retry.max_attempts {
                true if tries.clean => Verdict::Dead("exhausted"),
                true => Verdict::Unknown,
                false if outlives_uuid(tries, wait) => Verdict::Unknown,
                false => Verdict::Retry(wait),
            }
        }
    }
}

/// Whether a copy may exist that the platform will have forgotten after `wait`, so that a repeat would show twice.
fn outlives_uuid(tries: Tries, wait: Duration) -> bool {
    !tries.clean && tries.since + wait > UUID_LIFE
}

/// A limit without a reset time: 1 s, doubling to 30 s (`docs/design/feishu-protocol.md` §7.4).
fn limited_backoff(refusals: u32) -> Duration {
    Duration::from_secs(1 << refusals.saturating_sub(1).min(5)).min(Duration::from_secs(30))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::feishu::Scope;

    fn transient(ambiguous: bool) -> Outcome {
        Outcome::Transient {
            ambiguous,
            code: None,
            message: String::new(),
        }
    }

    fn tries(attempts: u32, since: Duration, clean: bool) -> Tries {
        Tries {
            attempts,
            limits: attempts,
            since,
            clean,
        }
    }

    fn limited() -> Outcome {
        Outcome::Limited {
            scope: Scope::Api,
            pause: Some(Duration::from_secs(3)),
            code: 99_991_400,
        }
    }

    #[test]
    fn a_limit_is_never_the_end_of_what_no_copy_can_exist_of() {
        assert_eq!(
            judge(&limited(), tries(1000, 2 * UUID_LIFE, true), &Message::default()),
            Verdict::Pause(Duration::from_secs(3))
        );
    }

    #[test]
    fn what_may_be_visible_is_not_repeated_beyond_the_life_of_its_uuid() {
        let policy = Message::default();
        for outcome in [transient(true), transient(false), limited()] {
            let judge = |since, clean| judge(&outcome, tries(1, since, clean), &policy);
            assert!(matches!(
                judge(Duration::ZERO, false),
                Verdict::Retry(_) | Verdict::Pause(_)
            ));
            assert_eq!(judge(UUID_LIFE, false), Verdict::Unknown, "{outcome:?}");
        }
        assert!(matches!(
            judge(&transient(false), tries(1, UUID_LIFE, true), &policy),
            Verdict::Retry(_)
        ));
    }

    #[test]
    fn the_last_attempt_is_unknown_when_any_try_was_ambiguous() {
        let policy = Message::default();
        let last = policy.retry.max_attempts;
        assert_eq!(
            judge(&transient(false), tries(last, Duration::ZERO, true), &policy),
            Verdict::Dead("exhausted")
        );
        for ambiguous in [true, false] {
            assert_eq!(
                judge(&transient(ambiguous), tries(last, Duration::ZERO, false), &policy),
                Verdict::Unknown
            );
        }
    }
}
