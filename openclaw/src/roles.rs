//! The roles: the same two calls, together in one process or apart.

use std::sync::Arc;
use std::time::{Duration, Instant};

use openclaw_common::health;
use openclaw_common::serve::{self, Limits};
use openclaw_common::store::Store;
use openclaw_ingest::{Drain, Ingest};
use openclaw_worker::Worker;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::cli;
use crate::exit::Failure;
use crate::node::{self, Needs, Node};
use crate::readable;
use crate::signals;

const MIGRATE_RETRY: Duration = Duration::from_secs(1);
const MIGRATE_PATIENCE: Duration = Duration::from_secs(5);

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
    let (working, leave) = (work(worker_of(&node), worker_stop.clone()), stop.clone());
    let worker = tokio::spawn(async move {
        let worked = working.await;
        // Accepting what nobody works on would only hide it.
        leave.cancel();
        worked
    });
    // The worker stops last: it closes the queue that ingest publishes to.
    let served = tokio::spawn(openclaw_ingest::run(
        ingest_of(
            &node,
            Drain {
                grace: Duration::ZERO,
                ..Drain::default()
            },
        ),
        listener,
        stop,
    ))
    .await;
    worker_stop.cancel();
    let worked = worker.await;
    node.finish().await;
    joined(served)?;
    worker_ended(worked)
}

/// The worker, unless it would find what it cannot read.
async fn work(worker: Worker, stop: CancellationToken) -> Result<(), Failure> {
    if let Some(readable) = stop.run_until_cancelled(readable::check(&worker)).await {
        readable?;
    }
    Ok(openclaw_worker::run(worker, stop)
        .await
        .map_err(|error| anyhow::anyhow!(error))?)
}

/// `openclaw ingest`
pub(crate) async fn ingest(arguments: cli::Node) -> Result<(), Failure> {
    let stop = stop_token()?;
    let (node, listener) = node::start(&arguments, "ingest", true).await?;
    node.watch_dependencies(Needs {
        publishes: true,
        works: false,
    });
    let served = tokio::spawn(openclaw_ingest::run(ingest_of(&node, Drain::default()), listener, stop)).await;
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
    let worked = tokio::spawn(work(worker_of(&node), stop.clone())).await;
    // It may have ended by itself; what else runs here waits for this.
    stop.cancel();
    node.finish().await;
    worker_ended(worked)
}

fn ingest_of(node: &Node, drain: Drain) -> Ingest {
    Ingest {
        config: node.config.clone(),
        bots: node.bots.clone(),
        queue: node.seams.queue.clone(),
        cache: node.seams.cache.clone(),
        keys: node.keys.clone(),
        health: node.health.clone(),
        drain,
    }
}

fn worker_of(node: &Node) -> Worker {
    Worker {
        config: node.config.clone(),
        bots: node.bots.clone(),
        queue: node.seams.queue.clone(),
        cache: node.seams.cache.clone(),
        store: node.seams.store.clone(),
        keys: node.keys.clone(),
        id: node.id.clone(),
    }
}

/// `run` migrates by itself, as soon as its database is there.
async fn migrate(store: Arc<dyn Store>) {
    let (begun, mut said) = (Instant::now(), String::new());
    while let Err(error) = store.migrate().await {
        let error = error.to_string();
        // Said once for each reason, and not for a database that is only about to start.
        if begun.elapsed() > MIGRATE_PATIENCE && error != said {
            tracing::error!(error, "cannot migrate the database");
            said = error;
        }
        tokio::time::sleep(MIGRATE_RETRY).await;
    }
}

fn stop_token() -> Result<CancellationToken, Failure> {
    Ok(signals::stop_token().map_err(|error| anyhow::anyhow!("no stop signals: {error}"))?)
}

fn joined<T>(ended: Result<T, tokio::task::JoinError>) -> Result<(), Failure> {
    ended
        .map(drop)
        .map_err(|error| anyhow::anyhow!("ingest ended by a bug: {error}").into())
}

fn worker_ended(ended: Result<Result<(), Failure>, tokio::task::JoinError>) -> Result<(), Failure> {
    ended.map_err(|error| anyhow::anyhow!("the worker ended by a bug: {error}"))?
}
