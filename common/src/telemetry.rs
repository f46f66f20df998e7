//! Logs, and every metric by its name.
//!
//! | file | job |
//! |---|---|
//! | `catalogue.rs` | every metric of the program: name, meaning, labels, buckets |
//! | `metric.rs` | the four kinds of metric, and the one recorder of the process |
//! | `logs.rs` | how a log line looks and which ones are written |
//!
//! The log law: a failure is logged once, where it is handled; identifiers stand in fields; never a body, never a secret.
//! A line that reports a failure is an `ERROR` line. Each line begins with the instance's name and an ISO date.

mod catalogue;
mod logs;
mod metric;

pub use catalogue::*;
pub use logs::{ACCESS, InvalidFilter, init_logs};
pub use metric::{Counter, CounterBy, Gauge, GaugeBy, Histogram, Metric, install, render};
