//! A whole deployment on one machine: real `openclaw` processes, real servers, a simulated Feishu that judges. End-to-end
//! tests and the benchmarks stand on it.
//!
//! | file | is |
//! |---|---|
//! | `world` | [`World`]: configuration folder, servers with a proxy before each, the platform, the judge |
//! | `rows` | what its tables and queues hold: [`Rows`] |
//! | `process` | [`Process`]: one running role, and what it says |
//!
//! Development only: nothing that ships depends on this crate. What cannot go on panics, with a sentence for its reader.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "test support: what cannot go on is a failed test"
)]

mod process;
mod rows;
mod world;

pub use process::{Process, improper, openclaw};
pub use rows::Rows;
pub use world::{Kind, Shared, Ways, World};
