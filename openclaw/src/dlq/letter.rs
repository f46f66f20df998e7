//! A dead letter as people and scripts see it. The body of the event is somebody's message, so it is shown only when asked
//! for.

use jiff::Timestamp;
use openclaw_common::seal::{KeyRing, OpenError, Part};
use openclaw_common::store::{ActionReport, DeadLetter, Inspection};
use serde::Serialize;
use serde_json::Value;

use crate::exit::Failure;

/// Longer texts are cut in tables.
const WIDEST: usize = 60;

/// One line of `dlq list --json`.
#[derive(Debug, Serialize)]
pub(super) struct Line<'a> {
    id: i64,
    bot: &'a str,
    event_key: &'a str,
    chat: &'a str,
    class: &'a str,
    code: Option<i64>,
    error: &'a str,
    attempts: u32,
    replay_gen: u32,
    created_at: String,
    died_at: String,
    replayed_at: Option<String>,
}

impl<'a> Line<'a> {
    pub(super) fn of(letter: &'a DeadLetter) -> Self {
        Self {
            id: letter.id,
            bot: letter.bot.as_str(),
            event_key: &letter.key.key,
            chat: &letter.chat,
            class: &letter.class,
            code: letter.code,
            error: &letter.error,
            attempts: letter.attempts,
            replay_gen: letter.replay_generation,
            created_at: rfc3339(letter.created_ms),
            died_at: rfc3339(letter.died_ms),
            replayed_at: letter.replayed_ms.map(rfc3339),
        }
    }
}

/// Everything about one dead letter.
#[derive(Debug, Serialize)]
pub(super) struct Details<'a> {
    #[serde(flatten)]
    line: Line<'a>,
    app_id: &'a str,
    /// When it was replayed or dropped.
    closed_at: Option<String>,
    /// The event's state now; `null` when the retention has taken it.
    state: Option<&'static str>,
    event_type: Option<&'a str>,
    tenant: Option<&'a str>,
    actions: Vec<Action<'a>>,
    /// The event as Feishu sent it; only with `--body`.
    #[serde(skip_serializing_if = "Option::is_none")]
    body: Option<Value>,
    /// What was to be sent; only with `--body`, `null` without a plan.
    #[serde(skip_serializing_if = "Option::is_none")]
    plan: Option<Value>,
}

#[derive(Debug, Serialize)]
struct Action<'a> {
    index: u32,
    kind: &'a str,
    target: &'a str,
    state: &'static str,
    tries: u32,
    code: Option<i64>,
    message_id: Option<&'a str>,
    uuid: &'a str,
    /// The member of a pool it went out through.
    sender: Option<&'a str>,
    first_tried_at: Option<String>,
    sent_at: Option<String>,
}

impl<'a> Action<'a> {
    fn of(action: &'a ActionReport) -> Self {
        Self {
            index: action.index,
            kind: &action.kind,
            target: &action.target,
            state: action.state.as_str(),
            tries: action.tries,
            code: action.code,
            message_id: action.message_id.as_deref(),
            uuid: &action.uuid,
            sender: action.sender.as_deref(),
            first_tried_at: action.first_tried_ms.map(rfc3339),
            sent_at: action.sent_ms.map(rfc3339),
        }
    }
}

impl<'a> Details<'a> {
    /// With `keys`, also what was said and what was to be answered.
    pub(super) fn of(
        letter: &'a DeadLetter,
        event: Option<&'a Inspection>,
        keys: Option<&KeyRing>,
    ) -> Result<Self, Failure> {
        let open = |part, bytes: Option<&_>| match (keys, event, bytes) {
            (Some(keys), Some(event), Some(bytes)) => match keys.open(&event.envelope, part, bytes) {
                Ok(open) => Ok(Some(readable(&open))),
                // Nothing is done with what is only shown, and it is what the letter is about.
                Err(OpenError::Plain) => Ok(Some(readable(bytes))),
                Err(error) => Err(Failure::usage(format!("dead letter {}: {error}", letter.id))),
            },
            _ => Ok(None),
        };
        Ok(Self {
            line: Line::of(letter),
            app_id: &letter.key.app_id,
            closed_at: letter.resolved_ms.map(rfc3339),
            state: event.map(|event| event.state.as_str()),
            event_type: event.map(|event| &*event.envelope.event_type),
            tenant: event.map(|event| &*event.envelope.tenant),
            actions: event
                .map(|event| event.actions.iter().map(Action::of).collect())
                .unwrap_or_default(),
            body: open(Part::Body, event.map(|event| &event.envelope.body))?,
            plan: open(Part::Plan, event.and_then(|event| event.plan.as_ref()))?,
        })
    }

    /// For people.
    pub(super) fn sentences(&self) -> Vec<String> {
        let line = &self.line;
        let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
        let fields = [
            ("bot", line.bot.to_owned()),
            (
                "event",
                format!("{} {}", self.event_type.unwrap_or("-"), line.event_key),
            ),
            ("app", self.app_id.to_owned()),
            ("chat", line.chat.to_owned()),
            ("class", line.class.to_owned()),
            ("code", or_dash(line.code.map(|code| code.to_string()))),
            ("error", line.error.to_owned()),
            ("attempts", line.attempts.to_string()),
            ("replays", line.replay_gen.to_string()),
            ("created", line.created_at.clone()),
            ("died", line.died_at.clone()),
            ("replayed", or_dash(line.replayed_at.clone())),
            ("closed", or_dash(self.closed_at.clone())),
            ("state now", self.state.unwrap_or("gone").to_owned()),
        ];
        let mut lines = vec![format!("dead letter {}", line.id)];
        lines.extend(fields.map(|(name, value)| format!("  {name:<10} {}", plain(&value))));
        for action in &self.actions {
            let code = action.code.map_or_else(String::new, |code| format!(", code {code}"));
            let shown = action
                .message_id
                .map_or_else(String::new, |id| format!(", {}", plain(id)));
            lines.push(format!(
                "  action {:<3} {} to {}: {} after {} tries{code}{shown}, uuid {}",
                action.index,
                plain(action.kind),
                plain(action.target),
                action.state,
                action.tries,
                plain(action.uuid)
            ));
        }
        for (name, value) in [("body", &self.body), ("plan", &self.plan)] {
            lines.extend(
                value
                    .iter()
                    .map(|value| format!("  {name:<10} {}", plain(&value.to_string()))),
            );
        }
        lines
    }
}

/// JSON when it is JSON, else its text.
fn readable(bytes: &[u8]) -> Value {
    serde_json::from_slice(bytes).unwrap_or_else(|_| Value::String(String::from_utf8_lossy(bytes).into_owned()))
}

/// A page of letters in columns.
pub(super) fn table(letters: &[DeadLetter], with_header: bool) -> Vec<String> {
    let header = [
        "ID", "DIED", "BOT", "CLASS", "CODE", "TRIES", "REPLAYS", "CHAT", "ERROR",
    ]
    .map(str::to_owned);
    let mut rows: Vec<[String; 9]> = if with_header { vec![header] } else { Vec::new() };
    rows.extend(letters.iter().map(|letter| {
        [
            letter.id.to_string(),
            rfc3339(letter.died_ms - letter.died_ms.rem_euclid(1000)),
            letter.bot.to_string(),
            cut(&letter.class),
            letter.code.map_or_else(|| "-".to_owned(), |code| code.to_string()),
            letter.attempts.to_string(),
            letter.replay_generation.to_string(),
            cut(&letter.chat),
            cut(&letter.error),
        ]
    }));
    let mut widths = [0; 9];
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.chars().count().max(*width);
        }
    }
    rows.iter()
        .map(|row| {
            let cells = row.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}"));
            cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
        })
        .collect()
}

fn cut(text: &str) -> String {
    let text = plain(text);
    match text.char_indices().nth(WIDEST) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

/// Without control characters: texts from outside must not steer the terminal.
pub(super) fn plain(text: &str) -> String {
    text.chars()
        .map(|character| if character.is_control() { '\u{fffd}' } else { character })
        .collect()
}

/// Unix milliseconds as RFC 3339. The databases hold no time that cannot be written so.
pub(crate) fn rfc3339(ms: i64) -> String {
    Timestamp::from_millisecond(ms).map_or_else(|_| ms.to_string(), |time| time.to_string())
}
