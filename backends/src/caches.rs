//! The two implementations of [`openclaw_common::cache::Cache`].

pub mod memory;
pub mod redis;
