//! Where the shared servers are: from the environment (`./dev test` sets it), else from what `./dev services up` wrote.

use std::path::{Path, PathBuf};

/// The broker's AMQP address, with user, password and the default virtual host.
pub(crate) fn amqp() -> String {
    address("OPENCLAW_TEST_AMQP_URL")
}

/// The broker's management API, `http://user:password@host:port`.
pub(crate) fn rabbitmq_api() -> String {
    address("OPENCLAW_TEST_RABBITMQ_API")
}

/// PostgreSQL's maintenance database, as a user who may create databases.
pub(crate) fn database() -> String {
    address("OPENCLAW_TEST_DATABASE_URL")
}

/// Where brokers of a test's own live: under the shared one's folder, so that `./dev services down` finds what a killed
/// test left behind.
pub(crate) fn nodes() -> PathBuf {
    address("OPENCLAW_TEST_NODES").into()
}

/// Where PostgreSQL servers of a test's own live, for the same reason.
pub(crate) fn clusters() -> PathBuf {
    nodes().join("../../postgres/nodes")
}

/// The port of the name server that all private brokers share.
pub(crate) fn epmd_port() -> String {
    address("OPENCLAW_TEST_EPMD_PORT")
}

#[expect(
    clippy::disallowed_methods,
    reason = "tests have no configuration file: `./dev test` tells them by variables"
)]
fn address(name: &str) -> String {
    std::env::var(name).ok().or_else(|| written(name)).unwrap_or_else(|| {
        panic!("{name} is not set and no servers are running: run `./dev test`, or `./dev services up` once before `cargo test`")
    })
}

/// The value in `target/services/env` of this checkout.
fn written(name: &str) -> Option<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent()?;
    let text = std::fs::read_to_string(root.join("target/services/env")).ok()?;
    text.lines()
        .find_map(|line| Some(line.strip_prefix(name)?.strip_prefix('=')?.to_owned()))
}
