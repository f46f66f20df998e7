//! Faults on demand: which calls go wrong, how, and how often; steerable while the simulator runs.
//!
//! A fault has four independent parts (how long the request is *in flight*, whether it takes effect, how long the answer
//! is late, what the answer is), because the hard cases are their combinations: a request that took effect and whose
//! answer was lost is the one a client must not repeat under another uuid.

use std::sync::Arc;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use crate::openapi::{Api, Refusal, refusals};

/// Rules in force at most; a test that needs more has lost its way.
const MAX_RULES: usize = 1000;

/// What the caller sees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The truth.
    Normal,
    /// A bare server error with this HTTP status.
    Status(u16),
    /// A refusal of the platform: HTTP status, code, message, and the reset of a frequency limit.
    Refuse {
        /// HTTP status.
        http: u16,
        /// Platform code.
        code: i64,
        /// Platform message.
        msg: String,
        /// `x-ogw-ratelimit-reset`, rounded up to whole seconds.
        reset: Option<Duration>,
    },
    /// The presented token stops being valid: 99991663.
    RevokeToken,
    /// A TCP reset in place of an answer.
    Reset,
    /// Nothing, ever; the connection stays open.
    Silent,
    /// HTTP 200 with JSON that breaks off.
    Malformed,
    /// HTTP 200 with a page of something else.
    Garbage,
    /// The truth, compressed with gzip, which nobody asked for.
    Packed,
}

/// One way to go wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// For the ledger.
    pub name: Arc<str>,
    /// In flight this long before it takes effect; a repeat of its uuid meanwhile gets 230049.
    pub hold: Duration,
    /// Whether the call takes effect (as far as limits and validation let it).
    pub commit: bool,
    /// How long the answer is held back after that.
    pub late: Duration,
    /// The answer. A call that should have taken effect and was refused is answered with the refusal.
    pub answer: Answer,
}

impl Fault {
    fn new(name: &str, commit: bool, answer: Answer) -> Self {
        Self {
            name: name.into(),
            hold: Duration::ZERO,
            commit,
            late: Duration::ZERO,
            answer,
        }
    }

    /// The gateway refuses: HTTP 429, 99991400, with this reset.
    #[must_use]
    pub fn rate_limited(reset: Duration) -> Self {
        let msg = "request trigger frequency limit";
        Self {
            name: "rate_limited".into(),
            ..Self::refuse(429, 99_991_400, msg, Some(reset))
        }
    }

    /// The chat's limit refuses: HTTP 400, 230020.
    #[must_use]
    pub fn chat_limited() -> Self {
        let refusal = refusals::frequency("chat");
        Self {
            name: "chat_limited".into(),
            ..Self::refuse(refusal.http, refusal.code, &refusal.msg, None)
        }
    }

    /// The tenant's month is used up: 99991403.
    #[must_use]
    pub fn monthly_quota() -> Self {
        let refusal = refusals::monthly_quota();
        Self {
            name: "monthly_quota".into(),
            ..Self::refuse(refusal.http, refusal.code, &refusal.msg, None)
        }
    }

    /// A refusal with any code.
    #[must_use]
    pub fn code(http: u16, code: i64, msg: &str) -> Self {
        Self::refuse(http, code, msg, None)
    }

    fn refuse(http: u16, code: i64, msg: &str, reset: Option<Duration>) -> Self {
        let msg = msg.to_owned();
        Self::new("code", false, Answer::Refuse { http, code, msg, reset })
    }

    /// A server error, nothing done.
    #[must_use]
    pub fn server_error(status: u16) -> Self {
        Self::new("server_error", false, Answer::Status(status))
    }

    /// Done, and then a server error.
    #[must_use]
    pub fn commit_then_error(status: u16) -> Self {
        Self::new("commit_then_error", true, Answer::Status(status))
    }

    /// Done, and then a TCP reset.
    #[must_use]
    pub fn commit_then_reset() -> Self {
        Self::new("commit_then_reset", true, Answer::Reset)
    }

    /// A TCP reset, nothing done.
    #[must_use]
    pub fn reset() -> Self {
        Self::new("reset", false, Answer::Reset)
    }

    /// Done at once, answered late.
    #[must_use]
    pub fn slow(late: Duration) -> Self {
        Self {
            late,
            ..Self::new("slow", true, Answer::Normal)
        }
    }

    /// In flight for a while, then done and answered.
    #[must_use]
    pub fn hold(hold: Duration) -> Self {
        Self {
            hold,
            ..Self::new("hold", true, Answer::Normal)
        }
    }

    /// Never answered; done or not.
    #[must_use]
    pub fn silent(commit: bool) -> Self {
        Self::new("silent", commit, Answer::Silent)
    }

    /// The token stops being valid (revoked or expired look the same to the caller): 99991663, nothing done.
    #[must_use]
    pub fn token_revoked() -> Self {
        Self::new("token_revoked", false, Answer::RevokeToken)
    }

    /// HTTP 200 whose JSON breaks off; done or not.
    #[must_use]
    pub fn malformed(commit: bool) -> Self {
        Self::new("malformed", commit, Answer::Malformed)
    }

    /// HTTP 200 with something else in it; done or not.
    #[must_use]
    pub fn garbage(commit: bool) -> Self {
        Self::new("garbage", commit, Answer::Garbage)
    }

    /// Done, and the answer compressed although nobody asked for it.
    #[must_use]
    pub fn packed() -> Self {
        Self::new("packed", true, Answer::Packed)
    }

    /// The refusal that a fault without effect amounts to, for the ledger; `None`: the caller learns nothing of a code.
    pub(crate) fn refusal(&self) -> Option<Refusal> {
        match &self.answer {
            Answer::Refuse { http, code, msg, reset } => Some(Refusal {
                http: *http,
                code: *code,
                msg: msg.clone().into(),
                field: None,
                limited: reset.map(|reset| (0, reset)),
            }),
            Answer::RevokeToken => Some(refusals::token_invalid()),
            _ => None,
        }
    }
}

/// Which calls a rule hits. Every part that is given must match.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Scope {
    /// One API; none: every message API (never the token endpoint).
    pub api: Option<Api>,
    /// One app.
    pub app: Option<Arc<str>>,
    /// One chat.
    pub chat: Option<Arc<str>>,
    /// Calls that act on this message: a reply to it, an edit of it.
    pub message: Option<Arc<str>>,
    /// Matching calls to let pass first: 2 makes the third the first to fail.
    pub skip: u64,
    /// Matching calls to hit after that; none: all of them.
    pub times: Option<u64>,
    /// The chance that a matching call is hit, 0 to 1; none: every one.
    pub probability: Option<f64>,
}

/// Names a rule so that it can be taken back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FaultId(pub u64);

/// A rule and how it fared.
#[derive(Clone, Debug)]
pub struct Rule {
    /// Its name.
    pub id: FaultId,
    /// Which calls.
    pub scope: Scope,
    /// What happens.
    pub fault: Fault,
    /// Matching calls seen.
    pub seen: u64,
    /// Calls hit.
    pub fired: u64,
}

/// A call as the rules see it.
pub(crate) struct Subject<'call> {
    pub(crate) api: Api,
    pub(crate) app: &'call str,
    pub(crate) chat: Option<&'call str>,
    pub(crate) message: Option<&'call str>,
}

/// All rules; the first that hits wins.
#[derive(Debug)]
pub(crate) struct Faults {
    rules: Vec<Rule>,
    next_id: u64,
    random: StdRng,
}

/// There are already as many rules as the simulator keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("more than {MAX_RULES} fault rules: remove some first")]
pub struct TooManyRules;

impl Faults {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            rules: Vec::new(),
            next_id: 1,
            random: StdRng::seed_from_u64(seed),
        }
    }

    pub(crate) fn add(&mut self, scope: Scope, fault: Fault) -> Result<FaultId, TooManyRules> {
        if self.rules.len() >= MAX_RULES {
            return Err(TooManyRules);
        }
        let id = FaultId(self.next_id);
        self.next_id += 1;
        self.rules.push(Rule {
            id,
            scope,
            fault,
            seen: 0,
            fired: 0,
        });
        Ok(id)
    }

    pub(crate) fn remove(&mut self, id: Option<FaultId>) -> usize {
        let before = self.rules.len();
        self.rules.retain(|rule| id.is_some_and(|id| rule.id != id));
        before - self.rules.len()
    }

    pub(crate) fn rules(&self) -> &[Rule] {
        &self.rules
    }

    /// The fault for this call, if any rule hits it.
    pub(crate) fn pick(&mut self, call: &Subject<'_>) -> Option<(FaultId, Fault)> {
        for rule in &mut self.rules {
            if !matches(&rule.scope, call) {
                continue;
            }
            rule.seen += 1;
            if rule.seen <= rule.scope.skip || rule.scope.times.is_some_and(|times| rule.fired >= times) {
                continue;
            }
            if rule
                .scope
                .probability
                .is_some_and(|chance| self.random.random::<f64>() >= chance)
            {
                continue;
            }
            rule.fired += 1;
            return Some((rule.id, rule.fault.clone()));
        }
        None
    }

    /// The call was refused before its fault could show: the rule may hit another.
    pub(crate) fn give_back(&mut self, id: FaultId) {
        if let Some(rule) = self.rules.iter_mut().find(|rule| rule.id == id) {
            rule.fired = rule.fired.saturating_sub(1);
        }
    }
}

fn matches(scope: &Scope, call: &Subject<'_>) -> bool {
    let same = |wanted: &Option<Arc<str>>, actual: Option<&str>| wanted.as_deref().is_none_or(|id| Some(id) == actual);
    scope.api.map_or(call.api != Api::Token, |api| api == call.api)
        && same(&scope.app, Some(call.app))
        && same(&scope.chat, call.chat)
        && same(&scope.message, call.message)
}
