//! What becomes of an event after a send: a pure function of the answer, the tries so far and the bot's policy.

use std::time::Duration;

use openclaw_common::backoff;
use openclaw_common::config::{Message, OnUnknown};

use crate::feishu::Outcome;

/// Retries whose waits total at most this stay in the lane (`design.md` §3.10); longer ones go to the waiting room.
pub(crate) const LANE_PATIENCE: Duration = Duration::from_secs(10);
/// A pause named by the platform that is longer than this is spent in the waiting room.
pub(crate) const LONG_PAUSE: Duration = Duration::from_secs(5 * 60);
/// Feishu keeps a uuid for one hour; ten minutes are the margin for clocks and slow requests (`reliability.md` §4).
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
    /// Given up.
    Dead {
        /// The dead letter's class.
        class: &'static str,
        /// Whether nobody can tell if a message is visible.
        unknown: bool,
    },
    /// Nobody can tell, and the bot's policy takes it as sent.
    TakenAsSent,
}

/// What has been tried so far, the answer at hand included.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Tries {
    /// Failed attempts.
    pub(crate) attempts: u32,
    /// Answers that named a limit: they burn no attempt.
    pub(crate) limits: u32,
    /// Whether a copy may be visible that no answer told of.
    pub(crate) doubt: bool,
    /// How long ago the action was first tried.
    pub(crate) since: Duration,
}

/// Judges an answer.
pub(crate) fn judge(outcome: &Outcome, tries: Tries, policy: &Message) -> Verdict {
    match outcome {
        Outcome::Sent { message_id } => Verdict::Sent {
            message_id: message_id.clone(),
        },
        Outcome::Limited { pause, .. } => Verdict::Pause(pause.unwrap_or_else(|| limited_backoff(tries.limits))),
        Outcome::Permanent { .. } if tries.doubt => unknown(policy.on_unknown),
        Outcome::Permanent { .. } => Verdict::Dead {
            class: "permanent",
            unknown: false,
        },
        Outcome::Transient { .. } => {
            let wait = backoff::delay(&policy.retry, tries.attempts);
            let last = tries.attempts >= policy.retry.max_attempts;
            if tries.doubt && (last || tries.since + wait > UUID_LIFE) {
                return unknown(policy.on_unknown);
            }
            if last {
                return Verdict::Dead {
                    class: "exhausted",
                    unknown: false,
                };
            }
            Verdict::Retry(wait)
        }
    }
}

/// The bot's policy for an outcome that nobody can tell.
pub(crate) fn unknown(policy: OnUnknown) -> Verdict {
    match policy {
        OnUnknown::Drop => Verdict::TakenAsSent,
        OnUnknown::Park | OnUnknown::Resend => Verdict::Dead {
            class: "ambiguous",
            unknown: true,
        },
    }
}

/// A limit without a reset time: 1 s, doubling to 30 s (`feishu-protocol.md` §7.4).
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

    fn tries(doubt: bool, attempts: u32, since: Duration) -> Tries {
        Tries {
            attempts,
            limits: attempts,
            doubt,
            since,
        }
    }

    #[test]
    fn a_limit_is_never_the_end_however_often_it_comes() {
        let outcome = Outcome::Limited {
            scope: Scope::App,
            pause: Some(Duration::from_secs(3)),
            code: 99_991_400,
        };
        assert_eq!(
            judge(&outcome, tries(false, 1000, Duration::ZERO), &Message::default()),
            Verdict::Pause(Duration::from_secs(3))
        );
    }

    #[test]
    fn an_ambiguous_send_is_not_repeated_beyond_the_life_of_its_uuid() {
        let policy = Message::default();
        assert!(matches!(
            judge(&transient(true), tries(true, 1, Duration::ZERO), &policy),
            Verdict::Retry(_)
        ));
        assert_eq!(
            judge(&transient(true), tries(true, 1, UUID_LIFE), &policy),
            Verdict::Dead {
                class: "ambiguous",
                unknown: true
            }
        );
        assert!(matches!(
            judge(&transient(false), tries(false, 1, UUID_LIFE), &policy),
            Verdict::Retry(_)
        ));
    }

    #[test]
    fn a_refusal_after_a_doubtful_try_does_not_end_the_doubt() {
        let refused = Outcome::Permanent {
            code: Some(230_002),
            message: String::new(),
            needs_operator: false,
        };
        let policy = Message::default();
        assert_eq!(
            judge(&refused, tries(true, 2, Duration::ZERO), &policy),
            Verdict::Dead {
                class: "ambiguous",
                unknown: true
            }
        );
        assert_eq!(
            judge(
                &transient(false),
                tries(true, policy.retry.max_attempts, Duration::ZERO),
                &policy
            ),
            Verdict::Dead {
                class: "ambiguous",
                unknown: true
            }
        );
    }

    #[test]
    fn the_last_attempt_ends_in_a_dead_letter_that_says_whether_a_copy_may_exist() {
        let policy = Message::default();
        let last = policy.retry.max_attempts;
        assert_eq!(
            judge(&transient(false), tries(false, last, Duration::ZERO), &policy),
            Verdict::Dead {
                class: "exhausted",
                unknown: false
            }
        );
        assert_eq!(
            judge(&transient(true), tries(true, last, Duration::ZERO), &policy),
            Verdict::Dead {
                class: "ambiguous",
                unknown: true
            }
        );
    }
}
