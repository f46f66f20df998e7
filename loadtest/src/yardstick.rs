//! What the product is measured against, in the same run, on the same servers.
//!
//! | file | is |
//! |---|---|
//! | `servers` | the HTTP yardsticks as processes of their own: [`servers::Server`] |
//! | `naive` | the obvious ingest: one SET NX and one awaited publish a request |
//! | `hello` | axum, answering |
//! | `limits` | what broker, cache and database take when nothing else is in the way |
//!
//! The obvious ingest in Python is `loadtest/baseline`.

mod hello;
pub(crate) mod limits;
mod naive;
mod servers;

pub(crate) use servers::{Server, Yardstick};
