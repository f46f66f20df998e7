//! The two backends of [`openclaw_common::store`], and what they share.
//!
//! Both keep the same tables under the same names (`migrations/`). A batch of changes is laid out once (`batch`), replays
//! are decided once (`replay`), and both read their rows through the same records (`records`); a backend adds its SQL only.

mod batch;
pub mod postgres;
mod records;
mod replay;
pub mod sqlite;
