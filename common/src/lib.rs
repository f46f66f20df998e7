//! The contract every OpenClaw part shares. No driver: what is behind the seams is the crate `openclaw_backends`.
//!
//! | module | job |
//! |---|---|
//! | [`action_uuid`] | the uuid that makes a repeated send invisible |
//! | [`backoff`] | waits between retries and reconnects |
//! | [`bearer`] | the tokens of `api.tokens` |
//! | [`bot`] | a bot's id, credentials and settings; the live directory of all bots |
//! | [`config`] | the configuration folder: typed, complete, every mistake at once |
//! | [`outside`] | what others wrote, made fit for an error |
//! | [`pool`] | bots that share a send address |
//! | [`envelope`] | one event on its way: identity, lane, body |
//! | [`send`] | a send that somebody asked for |
//! | [`queue`] | seam 1: nothing accepted may be lost |
//! | [`store`] | seam 2: nothing finished may be lost |
//! | [`cache`] | seam 3: anything may be lost |
//! | [`replay`] | replaying dead letters with care |
//! | [`priority`] | who goes first when a bot cannot send everything at once |
//! | [`quota`] | the send limits: the algorithm, the waiting, the fallback while the cache is down |
//! | [`budget`] | the monthly calls of a tenant: months, thresholds, forecast |
//! | [`checkup`] | what a look at another server found |
//! | [`mod@fail_point`] | where tests make the process die; nothing in what ships |
//! | [`crypto`] | Feishu's signature and encryption |
//! | [`seal`] | encryption of stored bodies |
//! | [`secret`] | strings that never print |
//! | [`health`] | liveness, readiness and the metrics endpoint of every role |
//! | [`serve`] | the HTTP server loop of every role |
//! | [`telemetry`] | logs, and every metric by its name |
//! | [`time`] | the only place that reads the wall clock |

pub mod action_uuid;
pub mod backoff;
pub mod bearer;
pub mod bot;
pub mod budget;
pub mod cache;
pub mod checkup;
pub mod config;
pub mod crypto;
pub mod envelope;
pub mod fail_point;
pub mod health;
pub mod outside;
pub mod pool;
pub mod priority;
pub mod queue;
pub mod quota;
pub mod replay;
pub mod seal;
pub mod secret;
pub mod send;
pub mod serve;
pub mod store;
pub mod telemetry;
pub mod time;
