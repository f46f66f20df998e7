//! The two backends of [`crate::queue::Queue`].

pub mod rabbitmq;
pub mod sqlite;
