//! The judge is judged: every promise of the simulator, over real sockets.
#![expect(clippy::unwrap_used, reason = "a failed set-up is a failed test")]

#[path = "sim/check.rs"]
mod check;
#[path = "sim/faults.rs"]
mod faults;
#[path = "sim/openapi.rs"]
mod openapi;
#[path = "sim/proxy.rs"]
mod proxy;
#[path = "sim/push.rs"]
mod push;
#[path = "sim/rolling.rs"]
mod rolling;
#[path = "sim/support.rs"]
mod support;
