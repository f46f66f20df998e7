//! What the log says about requests: one access line each when wanted, and why requests are refused.

use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use axum::http::request::Parts;
use openclaw_common::bot::Bot;
use openclaw_common::telemetry::ACCESS;

use crate::reply::{Code, Refusal, Reply};

/// Refusals of one code are logged at most once in this time, with the number of those left out: an attack or an outage
/// must not fill the disk. Metrics and access lines count all of them.
const PAUSE: Duration = Duration::from_secs(1);
/// Of a path, in an access line.
const LONGEST_PATH: usize = 200;
/// Of a method, which may be any word.
const LONGEST_METHOD: usize = 16;
/// Of Feishu's id of a push.
const LONGEST_LOG_ID: usize = 128;

/// The node's log about its requests.
#[derive(Debug)]
pub(crate) struct Report {
    access: bool,
    started: Instant,
    /// By code.
    refused: [Throttle; Code::COUNT],
}

#[derive(Debug, Default)]
struct Throttle {
    /// Milliseconds after the start before which nothing is logged.
    quiet_until: AtomicU64,
    left_out: AtomicU64,
}

impl Report {
    pub(crate) fn new(access: bool) -> Self {
        Self {
            access,
            started: Instant::now(),
            refused: std::array::from_fn(|_| Throttle::default()),
        }
    }

    /// Logs one request. Never its body, never its query.
    pub(crate) fn request(
        &self,
        head: &Parts,
        bot: Option<&Bot>,
        client: Option<IpAddr>,
        took: Duration,
        outcome: &Result<Reply, Refusal>,
    ) {
        if let Err(refusal) = outcome {
            self.refusal(refusal, bot, client);
        }
        if self.access {
            access(head, client, took, outcome);
        }
    }

    fn refusal(&self, refusal: &Refusal, bot: Option<&Bot>, client: Option<IpAddr>) {
        let throttle = &self.refused[refusal.code as usize];
        let Some(left_out) = throttle.open(self.started.elapsed()) else {
            return;
        };
        let bot = bot.map_or("", |bot| bot.id.as_str());
        let client = client.map(tracing::field::display);
        let (code, message) = (refusal.code.as_str(), &*refusal.message);
        // That the broker is away is said where it is known, and it comes back by itself.
        if refusal.code.status().is_server_error() && refusal.code != Code::Unavailable {
            tracing::error!(bot, client, code, left_out, "refused: {message}");
        } else {
            tracing::warn!(bot, client, code, left_out, "refused: {message}");
        }
    }
}

impl Throttle {
    /// How many were left out, when the next one may be logged.
    fn open(&self, now: Duration) -> Option<u64> {
        let now = u64::try_from(now.as_millis()).unwrap_or(u64::MAX);
        let quiet_until = self.quiet_until.load(Ordering::Relaxed);
        let next = now.saturating_add(PAUSE.as_millis() as u64);
        let ours = now >= quiet_until
            && self
                .quiet_until
                .compare_exchange(quiet_until, next, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok();
        if ours {
            Some(self.left_out.swap(0, Ordering::Relaxed))
        } else {
            self.left_out.fetch_add(1, Ordering::Relaxed);
            None
        }
    }
}

/// `POST /webhook/bot1 200 accepted 3.1 ms 203.0.113.7`
fn access(head: &Parts, client: Option<IpAddr>, took: Duration, outcome: &Result<Reply, Refusal>) {
    let path = head.uri.path();
    let path = cut(path, LONGEST_PATH);
    let method = cut(head.method.as_str(), LONGEST_METHOD);
    let took = took.as_secs_f64() * 1000.0;
    let client = client.map_or_else(|| "-".to_owned(), |client| client.to_string());
    // Feishu's own id of the push, for its support.
    let log_id = head.headers.get("x-tt-logid").and_then(|value| value.to_str().ok());
    let log_id = log_id.map(|log_id| cut(log_id, LONGEST_LOG_ID));
    match outcome {
        Ok(reply) => {
            tracing::info!(target: ACCESS, log_id, "{method} {path} {} {} {took:.1} ms {client}", reply.status().as_u16(), reply.result());
        }
        Err(Refusal { code, .. }) => {
            let (status, code) = (code.status().as_u16(), code.as_str());
            tracing::error!(target: ACCESS, log_id, "{method} {path} {status} {code} {took:.1} ms {client}");
        }
    }
}

fn cut(text: &str, most: usize) -> &str {
    &text[..text.floor_char_boundary(most)]
}

#[cfg(test)]
mod tests;
