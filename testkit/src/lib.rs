//! Real servers for tests: each test gets its own part of them, so that tests run side by side.
//!
//! | file | gives a test |
//! |---|---|
//! | `rabbitmq` | [`Vhost`]: a virtual host of its own on the shared broker |
//! | `node` | [`RabbitNode`]: a broker of its own, which it may stop, kill and starve |
//! | `redis` | [`RedisProcess`]: a Redis of its own, which it may kill, pause and restart |
//! | `postgres` | [`Database`]: a database of its own on the shared server |
//! | `cluster` | [`PostgresProcess`]: a PostgreSQL of its own, which it may stop, kill and fail over |
//! | `bouncer` | [`PgBouncer`]: a pooler of its own before a PostgreSQL |
//! | `addresses` | where the shared servers are: `./dev services up` started them |
//! | `eventually` | [`eventually()`]: waits for a condition, at most so long |
//!
//! Development only: nothing that ships depends on this crate. A test cannot go on without its server, so everything
//! here panics, with a sentence that says what to do, where a product would return an error.
#![expect(
    clippy::expect_used,
    clippy::panic,
    reason = "test support: a missing server is a failed test, and the text says how to get one"
)]

use std::net::{Ipv4Addr, TcpListener};

use rand::Rng as _;

mod addresses;
mod bouncer;
mod cleanup;
mod cluster;
mod eventually;
mod node;
mod postgres;
mod rabbitmq;
mod redis;

pub use bouncer::PgBouncer;
pub use cluster::PostgresProcess;
pub use eventually::eventually;
pub use node::RabbitNode;
pub use postgres::Database;
pub use rabbitmq::Vhost;
pub use redis::RedisProcess;

/// Where a test asks for its servers. What it gets is removed when it is dropped.
#[derive(Debug)]
pub struct Servers;

impl Servers {
    /// An empty virtual host on the shared RabbitMQ, about 0.1 s.
    ///
    /// # Panics
    /// When RabbitMQ is not running; the text says how to start it.
    pub async fn rabbitmq() -> Vhost {
        Vhost::create().await
    }

    /// A broker process of the test's own, about 10 s.
    ///
    /// # Panics
    /// When RabbitMQ cannot be started.
    pub async fn rabbitmq_node() -> RabbitNode {
        RabbitNode::start().await
    }

    /// An empty Redis process, about 20 ms.
    ///
    /// # Panics
    /// When `redis-server` cannot be started.
    pub async fn redis() -> RedisProcess {
        RedisProcess::start().await
    }

    /// An empty database on the shared PostgreSQL, about 0.1 s.
    ///
    /// # Panics
    /// When PostgreSQL is not running; the text says how to start it.
    pub async fn postgres() -> Database {
        Database::create().await
    }

    /// A PostgreSQL server of the test's own, about 2 s.
    ///
    /// # Panics
    /// When PostgreSQL cannot be started.
    pub async fn postgres_process() -> PostgresProcess {
        PostgresProcess::start().await
    }
}

/// A free port below the kernel's range for outgoing connections, so that none of these can take it between a kill
/// and a restart.
#[must_use]
pub fn free_port() -> u16 {
    loop {
        let port = rand::rng().random_range(20_000..32_000);
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return port;
        }
    }
}

/// A name no other test has, now or in an earlier run: `t` and 16 hexadecimal digits.
#[must_use]
pub fn unique_name() -> String {
    format!("t{:016x}", rand::random::<u64>())
}
