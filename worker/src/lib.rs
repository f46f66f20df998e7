//! Queue in, Feishu out.

pub mod action;
pub mod event;
pub mod feishu;
pub mod handler;
