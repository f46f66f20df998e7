//! The roles: the same two calls, together in one process or apart.

use std::sync::Arc;
use std::time::Duration;

use openclaw_common::health;
use openclaw_common::serve::{self, Limits};
use openclaw_common::store::Store;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::cli;
use crate::exit::Failure;
use crate::node::{self, Needs, Node};
use crate::signals;

const MIGRATE_RETRY: Duration = Duration::from_secs(1);
/// How long a role behind a load balancer serves on after it has said that it is not ready (`reliability.md` §8).
const GRACE: Duration = Duration::from_secs(5);

/// `openclaw run`: ingest and worker in one process.
pub(crate) async fn run(arguments: cli::Node) -> Result<(), Failure> {
    let stop = stop_token()?;
    let (node, listener) = node::start(&arguments, "run", false).await?;
    all_in_one(node, listener, stop).await
}

/// Ingest and worker on one node, until `stop`.
pub(crate) async fn all_in_one(node: Node, listener: TcpListener, stop: CancellationToken) -> Result<(), Failure> {
    node.watch_dependencies(Needs {
        publishes: true,
        works: true,
    });
    node.tasks.spawn(
        node.background
            .clone()
            .run_until_cancelled_owned(migrate(node.seams.store.clone())),
    );
    let worker_stop = CancellationToken::new();
    let worker = tokio::spawn(openclaw_worker::run(worker_parts(&node), worker_stop.clone()));
    // The worker stops last: it closes the queue that ingest publishes to.
    let served = tokio::spawn(openclaw_ingest::run(
        ingest_parts(&node, Duration::ZERO),
        listener,
        stop,
    ))
    .await;
    worker_stop.cancel();
    let worked = worker.await;
    node.finish().await;
    joined(served)?;
    joined(worked)
}

/// `openclaw ingest`
pub(crate) async fn ingest(arguments: cli::Node) -> Result<(), Failure> {
    let stop = stop_token()?;
    let (node, listener) = node::start(&arguments, "ingest", true).await?;
    node.watch_dependencies(Needs {
        publishes: true,
        works: false,
    });
    let served = tokio::spawn(openclaw_ingest::run(ingest_parts(&node, GRACE), listener, stop)).await;
    node.seams.queue.close().await;
    node.finish().await;
    joined(served)
}

/// `openclaw worker`
pub(crate) async fn worker(arguments: cli::Node) -> Result<(), Failure> {
    let stop = stop_token()?;
    let (node, listener) = node::start(&arguments, "worker", true).await?;
    node.watch_dependencies(Needs {
        publishes: false,
        works: true,
    });
    let router = health::health_routes(&node.health, &node.config.monitoring);
    node.tasks.spawn(serve::serve(
        listener,
        router,
        Limits::default(),
        node.background.clone(),
    ));
    let (health, draining) = (node.health.clone(), stop.clone());
    node.tasks.spawn(async move {
        draining.cancelled().await;
        health.drain();
    });
    let worked = tokio::spawn(openclaw_worker::run(worker_parts(&node), stop)).await;
    node.finish().await;
    joined(worked)
}

fn worker_parts(node: &Node) -> openclaw_worker::Parts {
    openclaw_worker::Parts {
        config: node.config.clone(),
        bots: node.bots.clone(),
        queue: node.seams.queue.clone(),
        cache: node.seams.cache.clone(),
        store: node.seams.store.clone(),
        key_ring: node.key_ring.clone(),
        id: node.id.clone(),
    }
}

/// `run` migrates by itself, as soon as its database is there.
async fn migrate(store: Arc<dyn Store>) {
    while let Err(error) = store.migrate().await {
        tracing::error!(%error, "ERROR cannot migrate the database yet");
        tokio::time::sleep(MIGRATE_RETRY).await;
    }
}

fn stop_token() -> Result<CancellationToken, Failure> {
    Ok(signals::stop_token().map_err(|error| anyhow::anyhow!("no stop signals: {error}"))?)
}

fn joined<T>(ended: Result<T, tokio::task::JoinError>) -> Result<(), Failure> {
    ended
        .map(drop)
        .map_err(|error| anyhow::anyhow!("a role ended by a bug: {error}").into())
}
