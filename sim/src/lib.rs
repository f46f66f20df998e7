//! A faithful Feishu: the Open API with its real limits and idempotency, the event pusher with its real re-push
//! timetable, faults on demand, and the ledger that says what really happened. It is the judge in `demo`, in tests and
//! in benchmarks; facts are from `docs/design/feishu-protocol.md`, and where that says UNCONFIRMED the strictest reading is taken.
//!
//! | module | job |
//! |---|---|
//! | [`run`], [`Sim`], [`Options`] | serve it; steer and question it |
//! | [`faults`] | which calls go wrong, and how |
//! | [`ledger`] | every call, every visible message, the fullest rolling windows |
//! | [`event`] | events and callbacks of every type, encrypted and signed |
//! | [`push`] | the pusher: deadlines, re-push, order, open and closed loop |
//! | [`check`] | the judgement: lost, doubled, disordered, over quota |
//! | [`proxy`] | a TCP proxy that can be cut, stalled, slowed and restored |
//! | [`rolling`] | exact maxima over rolling windows |
//! | [`clock`] | the one monotonic clock |

mod admin;
mod bounded;
pub mod check;
pub mod clock;
pub mod event;
pub mod faults;
pub mod ledger;
mod openapi;
pub mod proxy;
pub mod push;
pub mod rolling;
mod server;
mod state;

pub use openapi::Api;
pub use openapi::chats::UnknownMessages;
pub use openapi::limits::Limits;
pub use server::run;
pub use state::{Options, Sim};
