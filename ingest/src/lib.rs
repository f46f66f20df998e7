//! HTTP in, queue out: verify, decrypt, drop what is known, store, answer.
//!
//! One event's way, file by file:
//!
//! | file | job |
//! |---|---|
//! | `node.rs` | the running node: its routes, its stop, one request from headers to answer |
//! | `route.rs` | which bot a path means, and whether the path is served |
//! | `address.rs` | who is asking, through proxies; who may ask |
//! | `overload.rs` | how much is taken on at once: requests and bytes |
//! | `body.rs` | the request's body, bounded in size and time |
//! | `verify.rs` | signature and decryption: what a body proves |
//! | `document.rs` | the JSON of a push, borrowed, in one pass |
//! | `id.rs` | what an id may look like |
//! | `identify.rs` | which event it is: key, lane, token, app |
//! | `gate.rs` | per bot: its rate, and whether its queue is full |
//! | `accept.rs` | claim, publish, mark: the only place where an event becomes ours |
//! | `carry.rs` | work that outlives whoever waits for it |
//! | `marks.rs` | marks of what is stored, behind the answers |
//! | `send.rs` | `POST /v1/messages`: who may, through whom, under which key |
//! | `content.rs` | what each type of message must hold |
//! | `order.rs` | the body of a send, every mistake by its field |
//! | `card.rs` | what a card click is answered with |
//! | `reply.rs` | every answer a stranger can see |
//! | `report.rs` | what the log says about requests |
//!
//! A 200 means that the event is in the durable queue, now or by an earlier push. Everything else makes Feishu push again.

mod accept;
mod address;
mod body;
mod card;
mod carry;
mod content;
mod document;
mod gate;
mod id;
mod identify;
mod marks;
#[cfg(feature = "measured")]
pub mod measured;
mod node;
mod order;
mod overload;
mod reply;
mod report;
mod route;
mod send;
mod verify;

pub use node::{Drain, Ingest, run};
