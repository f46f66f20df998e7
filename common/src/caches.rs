//! The two implementations of [`crate::cache::Cache`].

pub mod memory;
pub mod redis;
