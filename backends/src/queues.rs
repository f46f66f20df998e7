//! The two backends of [`openclaw_common::queue::Queue`].

pub mod rabbitmq;
pub mod sqlite;
