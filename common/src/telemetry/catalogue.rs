//! Every metric of the program. Names are part of the public surface; `docs/telemetry.md` is made from
//! this file and a test compares the two.

use super::metric::{Counter, CounterBy, Gauge, GaugeBy, Histogram, HistogramBy, Metric};

/// A request inside Feishu's 3 s budget, fine around the 25 ms goal. Seconds.
const REQUEST: &[f64] = &[
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 1.5, 2.5, 3.0,
];
/// From milliseconds to what a backlog at 5/s makes of it. Seconds.
const WAIT: &[f64] = &[
    0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0,
];
/// A call with a 10 s or 30 s timeout. Seconds.
const CALL: &[f64] = &[
    0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
];

macro_rules! catalogue {
    ($(#[doc = $help:literal] $name:ident = $kind:ident($metric:literal $(, $argument:expr)*);)*) => {
        $(
            #[doc = $help]
            #[doc = concat!("\n\n`", $metric, "`")]
            pub static $name: $kind = $kind::new($metric, $help.trim_ascii() $(, $argument)*);
        )*

        /// The catalogue, in the order of the documentation.
        pub static ALL: &[&dyn Metric] = &[$(&$name),*];
    };
}

catalogue! {
    /// Webhook requests by how they ended: stored in the queue (`accepted`, `card`, of the send API `send`), known already (`duplicate`), answered without storing (`challenge`), or refused (the error code).
    EVENTS = CounterBy("openclaw_events_total", "result", &[
        "accepted", "card", "duplicate", "challenge",
        "malformed", "bad_signature", "bad_token", "forbidden_address", "forbidden_path", "no_such_bot", "too_large",
        "unsupported_encoding", "rate_limited", "queue_full", "unavailable", "send", "unauthorized",
        "idempotency_conflict",
    ]);
    /// HTTP answers of ingest that report an error.
    HTTP_ERRORS = CounterBy("openclaw_http_errors_total", "status", &["4xx", "5xx"]);
    /// From a webhook request's headers to its answer.
    ACCEPT_SECONDS = Histogram("openclaw_accept_seconds", REQUEST);
    /// Webhook requests being handled now.
    REQUESTS_IN_FLIGHT = Gauge("openclaw_requests_in_flight");
    /// Open HTTP connections of this process.
    CONNECTIONS = Gauge("openclaw_connections");
    /// Connections closed to make room because their address held most of all places.
    CONNECTIONS_CUT = Counter("openclaw_connections_cut_total");
    /// Request bodies given up half-way to make room because their address held most of the memory for bodies.
    BODIES_CUT = Counter("openclaw_bodies_cut_total");
    /// Events stored without the duplicate filter because the cache did not answer in time.
    UNFILTERED = Counter("openclaw_unfiltered_total");
    /// Events waiting in a bot's queue, as ingest last saw it.
    QUEUE_DEPTH = GaugeBy("openclaw_queue_depth", "bot", &[]);
    /// From an event's acceptance to its first visible answer.
    ANSWER_SECONDS = Histogram("openclaw_answer_seconds", WAIT);
    /// Calls of Feishu's message API by how they ended.
    SENDS = CounterBy("openclaw_sends_total", "class", &["sent", "limited", "transient", "ambiguous", "permanent"]);
    /// Events given up, by reason.
    DEAD_LETTERS = CounterBy("openclaw_dead_letters_total", "class", &[
        "permanent", "exhausted", "ambiguous", "stale", "poison", "handler", "delivery_limit", "no_such_bot", "unreadable",
        "idempotency_conflict",
    ]);
    /// Deliveries of events that the store had finished before.
    DUPLICATES_DROPPED = Counter("openclaw_duplicates_dropped_total");
    /// Messages of our own that the platform pushed back as if a person had written them; they are not handled.
    OWN_MESSAGES = Counter("openclaw_own_messages_total");
    /// Waits for a quota slot, per send, by bot.
    QUOTA_WAIT_SECONDS = HistogramBy("openclaw_quota_wait_seconds", "bot", WAIT);
    /// Senders of this worker that wait for a quota slot now.
    QUOTA_WAITING = Gauge("openclaw_quota_waiting");
    /// Calls of the Open API that were made, by kind; purchases of tokens are not among them.
    API_CALLS = CounterBy("openclaw_api_calls_total", "kind", &[
        "create", "reply", "edit", "patch_card", "update_card", "react",
    ]);
    /// Whether a tenant is stopped because its monthly calls are used up (99991403), until `openclaw quota resume`.
    TENANT_STOPPED = GaugeBy("openclaw_tenant_stopped", "tenant", &[]);
    /// Whether a bot's sends only fail, so that it tries one now and then.
    BREAKER_OPEN = GaugeBy("openclaw_breaker_open", "bot", &[]);
    /// Chats and persons that get fewer sends than configured, because others share their limit.
    REDUCED_CHATS = Gauge("openclaw_reduced_chats");
    /// A tenant's `quota.budget.calls`.
    BUDGET_CALLS = GaugeBy("openclaw_budget_calls", "tenant", &[]);
    /// A tenant's calls this month (UTC+8), by all workers.
    BUDGET_USED_CALLS = GaugeBy("openclaw_budget_used_calls", "tenant", &[]);
    /// A tenant's calls at the month's end, if they go on as they have.
    BUDGET_FORECAST_CALLS = GaugeBy("openclaw_budget_forecast_calls", "tenant", &[]);
    /// The highest of 50, 80 and 95 per cent of its budget that a tenant has reached this month.
    BUDGET_WARNING_PERCENT = GaugeBy("openclaw_budget_warning_percent", "tenant", &[]);
    /// Kinds of send that wait because of a tenant's budget.
    BUDGET_WAITING_KINDS = GaugeBy("openclaw_budget_waiting_kinds", "tenant", &[]);
    /// Handler runs.
    HANDLER_SECONDS = Histogram("openclaw_handler_seconds", CALL);
    /// Lanes (chats with events in memory) of this worker.
    LANES = Gauge("openclaw_lanes");
    /// Rows in the waiting room, by bot, counted up to 100,000 by the worker that serves the bot.
    WAITING_EVENTS = GaugeBy("openclaw_waiting_events", "bot", &[]);
    /// Waiting rows that no worker took within 5 minutes of their time although it had nothing else to do; 0 in normal operation.
    SWEPT = Counter("openclaw_swept_total");
    /// Consumers of a queue that were lost while the connection stood, by what showed it: the broker `cancelled` one (its queue was deleted), ended it with an `error`, or it was `silent` although events waited. Another one is attached at once; 0 in normal operation.
    CONSUMERS_LOST = CounterBy("openclaw_consumers_lost_total", "cause", &["cancelled", "error", "silent"]);
    /// Events whose bot has no queue.
    UNROUTED_MESSAGES = Gauge("openclaw_unrouted_messages");
    /// Whether the cache is down and quotas run on the conservative local bucket.
    CACHE_DEGRADED = Gauge("openclaw_cache_degraded");
    /// Whether a dependency answers.
    DEPENDENCY_UP = GaugeBy("openclaw_dependency_up", "name", &[]);
    /// 1, with the program's version.
    BUILD_INFO = GaugeBy("openclaw_build_info", "version", &[]);
}

#[cfg(test)]
mod tests;
