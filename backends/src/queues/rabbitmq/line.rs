//! One bot's share of its channel: who may wait, and which of its events go out as one message.
//!
//! An event that comes alone goes at once. What comes within the pace after it gathers and goes together, and a full message
//! goes as soon as it is full: the busier a bot, the fewer messages an event costs, and messages are what the broker's work
//! depends on.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::time::{Instant, timeout_at};

use super::codec;
use openclaw_common::envelope::Envelope;
use openclaw_common::queue::PublishError;

/// Unconfirmed messages of a bot. A queue without a leader confirms nothing and refuses nothing, and when 32 wait for it
/// RabbitMQ reads no more from the connection (`quorum_commands_soft_limit`).
const WINDOW: usize = 24;

/// Events of a message, at most. More would make it cheaper still, but a worker holds a prefetch of messages, and their last
/// one must be done with before the broker's patience ends (30 min): with 65 messages of 6 events a bot of 13/m is.
const MESSAGE_EVENTS: usize = 6;

/// What they weigh together, at most: it bounds what a worker holds of messages that it cannot take up yet.
const MESSAGE_BYTES: usize = 16 * 1024;

/// How long events gather after a message. Nobody who waits for an answer within three seconds notices.
const PACE: Duration = Duration::from_millis(8);

/// How often one event is tried while a confirm is missing.
const PROBE: Duration = Duration::from_secs(1);

/// Events of a bot that wait for their message or its confirm, at most.
const PLACES: usize = 256;

/// Where the result of a publish goes.
pub(super) type Answer = oneshot::Sender<Result<(), PublishError>>;

/// One event to publish.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) envelope: Arc<Envelope>,
    pub(super) answer: Answer,
    pub(super) line: Arc<Line>,
    /// Kept until the confirm, whether or not anybody still waits for it.
    pub(super) place: OwnedSemaphorePermit,
}

/// Who may wait.
#[derive(Debug)]
pub(super) struct Line {
    places: Arc<Semaphore>,
    /// When a confirm did not come in time, or what was tried since. No message was confirmed or refused after that.
    missed: Mutex<Option<Instant>>,
    /// Something was confirmed on this connection: the bot's queue takes events.
    proved: AtomicBool,
}

impl Line {
    pub(super) fn new() -> Self {
        Self {
            places: Arc::new(Semaphore::new(PLACES)),
            missed: Mutex::default(),
            proved: AtomicBool::new(false),
        }
    }

    /// Whether the bot's queue has taken an event.
    pub(super) fn is_proved(&self) -> bool {
        self.proved.load(Ordering::Relaxed)
    }

    /// The bot's queue has taken an event.
    pub(super) fn prove(&self) {
        self.proved.store(true, Ordering::Relaxed);
    }

    /// A place among the bot's events that are not confirmed yet.
    pub(super) async fn place(&self, deadline: Instant) -> Result<OwnedSemaphorePermit, PublishError> {
        // Nobody waits for a queue that is known to confirm nothing: what waits here is kept from other bots' events. Few may:
        // a broker that only stalls answers them.
        if !(self.is_crowded() && self.is_hopeless(Instant::now()))
            && let Ok(Ok(place)) = timeout_at(deadline, Arc::clone(&self.places).acquire_owned()).await
        {
            return Ok(place);
        }
        Err(PublishError::Refused(
            "earlier events of the bot are not confirmed: has its queue no leader?".to_owned(),
        ))
    }

    fn is_crowded(&self) -> bool {
        PLACES - self.places.available_permits() >= WINDOW
    }

    fn is_hopeless(&self, now: Instant) -> bool {
        let mut missed = self.missed();
        match *missed {
            Some(at) if now < at + PROBE => true,
            Some(_) => {
                *missed = Some(now);
                false
            }
            None => false,
        }
    }

    /// A confirm did not come in time.
    pub(super) fn miss(&self) {
        *self.missed() = Some(Instant::now());
    }

    /// The broker answered.
    pub(super) fn heard(&self) {
        *self.missed() = None;
    }

    fn missed(&self) -> MutexGuard<'_, Option<Instant>> {
        self.missed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What of one bot waits for its turn.
#[derive(Debug, Default)]
pub(super) struct Backlog {
    jobs: VecDeque<Job>,
    unconfirmed: usize,
    /// Before then only a full message goes out.
    paced_until: Option<Instant>,
    /// When it is looked at next, though nothing comes and nothing is confirmed.
    looked_at: Option<Instant>,
}

impl Backlog {
    pub(super) fn push(&mut self, job: Job) {
        self.jobs.push_back(job);
    }

    /// The events of the next message, if one may go out: a full one, or one for which its turn has come.
    pub(super) fn next(&mut self, now: Instant) -> Option<Vec<Job>> {
        // A caller that gave up before its turn has nothing to lose: not writing is certainly no copy.
        self.jobs.retain(|job| !job.answer.is_closed());
        let mut weight = 0;
        let fitting = self.jobs.iter().take(MESSAGE_EVENTS).take_while(|job| {
            weight += codec::weight(&job.envelope);
            weight <= MESSAGE_BYTES
        });
        // One that is too heavy for company goes alone.
        let count = fitting.count().max(1).min(self.jobs.len());
        let full = count == MESSAGE_EVENTS || count < self.jobs.len();
        if count == 0 || self.unconfirmed >= WINDOW || !(full || self.paced_until.is_none_or(|until| until <= now)) {
            return None;
        }
        self.unconfirmed += 1;
        self.paced_until = Some(now + PACE);
        Some(self.jobs.drain(..count).collect())
    }

    /// When to look again for the sake of what has to wait now, unless that is known already.
    pub(super) fn look(&mut self) -> Option<Instant> {
        // With the window full a confirm is waited for.
        if self.jobs.is_empty() || self.unconfirmed >= WINDOW || self.looked_at == self.paced_until {
            return None;
        }
        self.looked_at = self.paced_until;
        self.looked_at
    }

    /// A message was confirmed, or will never be.
    pub(super) fn ended(&mut self) {
        self.unconfirmed = self.unconfirmed.saturating_sub(1);
    }

    /// What was never written.
    pub(super) fn into_jobs(self) -> impl Iterator<Item = Job> {
        self.jobs.into_iter()
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;
    use openclaw_common::bot::BotId;
    use openclaw_common::envelope::{EventKey, Origin};

    /// A bot's events, how many of them a message takes, and who still waits.
    struct Bot {
        line: Arc<Line>,
        backlog: Backlog,
        now: Instant,
        callers: Vec<oneshot::Receiver<Result<(), PublishError>>>,
    }

    impl Bot {
        fn new() -> Self {
            Self {
                line: Arc::new(Line::new()),
                backlog: Backlog::default(),
                now: Instant::now(),
                callers: Vec::new(),
            }
        }

        fn comes(&mut self, events: usize, bytes: usize) {
            for number in 0..events {
                let (answer, caller) = oneshot::channel();
                self.callers.push(caller);
                self.backlog.push(Job {
                    envelope: Arc::new(Envelope {
                        key: EventKey::new("cli_1", number.to_string()),
                        bot: BotId::new("bot1").unwrap(),
                        origin: Origin::Push,
                        event_type: "".into(),
                        chat: "".into(),
                        tenant: "".into(),
                        created_ms: 0,
                        received_ms: 0,
                        traceparent: None,
                        body: vec![0; bytes].into(),
                    }),
                    answer,
                    line: Arc::clone(&self.line),
                    place: Arc::clone(&self.line.places).try_acquire_owned().unwrap(),
                });
            }
        }

        /// The sizes of the messages that go out.
        fn go(&mut self) -> Vec<usize> {
            let messages = std::iter::from_fn(|| self.backlog.next(self.now));
            messages.map(|events| events.len()).collect()
        }
    }

    #[test]
    fn events_that_come_one_after_the_other_go_at_once() {
        let mut bot = Bot::new();
        for _ in 0..3 {
            bot.comes(1, 100);
            assert_eq!(bot.go(), [1], "whether or not the one before is confirmed");
            assert_eq!(bot.backlog.look(), None);
            bot.now += PACE;
        }
    }

    #[test]
    fn what_comes_within_the_pace_goes_together_when_it_is_over() {
        let mut bot = Bot::new();
        bot.comes(1, 100);
        assert_eq!(bot.go(), [1]);
        let over = bot.now + PACE;
        bot.now += PACE / 2;
        bot.comes(1, 100);
        assert!(bot.go().is_empty());
        assert_eq!(bot.backlog.look(), Some(over));
        bot.comes(1, 100);
        bot.backlog.ended();
        assert!(bot.go().is_empty(), "a confirm is no reason to hurry");
        assert_eq!(bot.backlog.look(), None, "it is known already");
        bot.now = over;
        assert_eq!(bot.go(), [2]);
    }

    #[test]
    fn what_the_window_holds_up_is_looked_at_when_something_is_confirmed() {
        let mut bot = Bot::new();
        for _ in 0..WINDOW {
            bot.comes(1, 100);
            assert_eq!(bot.go(), [1]);
            bot.now += PACE;
        }
        bot.comes(1, 100);
        assert!(bot.go().is_empty(), "more than the window is unconfirmed");
        assert_eq!(bot.backlog.look(), None);
        bot.backlog.ended();
        assert_eq!(bot.go(), [1]);
    }

    #[test]
    fn a_full_message_waits_for_nothing_but_the_window() {
        let mut bot = Bot::new();
        bot.comes(3 * MESSAGE_EVENTS + 1, 100);
        assert_eq!(bot.go(), [MESSAGE_EVENTS; 3]);
        bot.comes((WINDOW - 3) * MESSAGE_EVENTS - 1, 100);
        assert_eq!(bot.go(), [MESSAGE_EVENTS; WINDOW - 3]);
        bot.comes(MESSAGE_EVENTS, 100);
        assert!(bot.go().is_empty());
        bot.backlog.ended();
        assert_eq!(bot.go(), [MESSAGE_EVENTS]);
    }

    #[test]
    fn heavy_events_go_with_as_few_others_as_fit() {
        let mut bot = Bot::new();
        bot.comes(1, 10 * MESSAGE_BYTES);
        bot.comes(2, MESSAGE_BYTES / 2 - 500);
        bot.comes(2, MESSAGE_BYTES);
        assert_eq!(bot.go(), [1, 2, 1]);
        bot.now += PACE;
        (0..3).for_each(|_| bot.backlog.ended());
        assert_eq!(bot.go(), [1]);
    }

    #[test]
    fn whoever_gave_up_before_its_turn_is_not_written_and_leaves_its_place() {
        let mut bot = Bot::new();
        bot.comes(1, 100);
        assert_eq!(bot.go(), [1]);
        bot.comes(3, 100);
        bot.callers.remove(2);
        bot.backlog.ended();
        bot.now += PACE;
        assert_eq!(bot.go(), [2]);
        assert_eq!(bot.line.places.available_permits(), PLACES);
    }

    #[test]
    fn after_a_missed_confirm_one_event_a_second_is_tried_until_the_broker_answers() {
        let line = Line::new();
        let now = Instant::now();
        assert!(!line.is_hopeless(now));
        line.miss();
        assert!(line.is_hopeless(now));
        let later = Instant::now() + PROBE;
        assert!(!line.is_hopeless(later), "one");
        assert!(line.is_hopeless(later), "and no other");
        assert!(!line.is_hopeless(later + PROBE));
        line.heard();
        assert!(!line.is_hopeless(later + PROBE));
    }

    #[tokio::test(start_paused = true)]
    async fn while_a_confirm_is_missing_only_a_bot_with_many_events_waiting_is_refused() {
        let line = Line::new();
        line.miss();
        let deadline = Instant::now() + PROBE / 2;
        let mut held = Vec::new();
        for _ in 0..WINDOW {
            held.push(line.place(deadline).await.unwrap());
        }
        let refused = line.place(deadline).await;
        assert!(matches!(refused, Err(PublishError::Refused(_))), "{refused:?}");
        assert!(Instant::now() < deadline, "and at once");
        held.pop();
        held.push(line.place(deadline).await.unwrap());
    }
}
