//! The simulator's HTTP server. It drives each connection itself, because some faults are not answers but the lack of one.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::response::Response;
use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt as _;

use crate::openapi::respond::ResetConnection;
use crate::state::Sim;
use crate::{admin, openapi};

/// An idle or half-sent request is dropped after this long.
const HEADER_TIMEOUT: Duration = Duration::from_secs(120);

/// What calls in progress get to finish when the simulator stops.
const GRACE: Duration = Duration::from_secs(1);

/// After a failed accept (out of descriptors, most likely).
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// What request handlers need.
#[derive(Clone)]
pub(crate) struct Gate {
    pub(crate) sim: Sim,
    pub(crate) stop: CancellationToken,
    pub(crate) tasks: TaskTracker,
}

/// Serves the Open API and the admin API (`/sim/…`) until `shutdown`; then calls in progress get one second.
///
/// The state lives in `sim`: serving it again on another listener goes on where it stopped, like a platform that was down.
///
/// # Errors
/// When the listener has no address, which means it is not open.
pub async fn run(sim: Sim, listener: TcpListener, shutdown: CancellationToken) -> io::Result<()> {
    let address = listener.local_addr()?;
    tracing::info!(%address, "simulated Feishu listens");
    let tasks = TaskTracker::new();
    let gate = Gate {
        sim,
        stop: shutdown.clone(),
        tasks: tasks.clone(),
    };
    let router: Router = openapi::routes()
        .merge(admin::routes())
        .fallback(openapi::respond::not_found)
        .method_not_allowed_fallback(openapi::respond::not_found)
        .with_state(gate);
    loop {
        tokio::select! {
            () = shutdown.cancelled() => break,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    tasks.spawn(serve(stream, router.clone(), shutdown.clone()));
                }
                Err(error) => {
                    tracing::warn!(%error, "simulated Feishu cannot accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
    tasks.close();
    tasks.wait().await;
    Ok(())
}

/// A fault asks for a TCP reset.
#[derive(Debug, thiserror::Error)]
#[error("reset on purpose")]
struct OnPurpose;

async fn serve(stream: TcpStream, router: Router, shutdown: CancellationToken) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "a connection was gone before its first request");
        return;
    }
    let service = service_fn(move |request: Request<Incoming>| {
        let router = router.clone();
        let answer: Pin<Box<dyn Future<Output = Result<Response, OnPurpose>> + Send>> = Box::pin(async move {
            let Ok(response) = router.oneshot(request.map(Body::new)).await;
            match response.extensions().get::<ResetConnection>() {
                Some(_) => Err(OnPurpose),
                None => Ok(response),
            }
        });
        answer
    });
    let mut connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .serve_connection(TokioIo::new(stream), service);
    let ended = tokio::select! {
        ended = poll_fn(|context| connection.poll_without_shutdown(context)) => Some(ended),
        () = shutdown.cancelled() => {
            Pin::new(&mut connection).graceful_shutdown();
            let rest = poll_fn(|context| connection.poll_without_shutdown(context));
            tokio::time::timeout(GRACE, rest).await.ok()
        }
    };
    let on_purpose = match &ended {
        Some(Err(error)) => std::error::Error::source(error).is_some_and(|source| source.is::<OnPurpose>()),
        _ => false,
    };
    if on_purpose && let Err(error) = connection.into_parts().io.into_inner().set_zero_linger() {
        tracing::warn!(%error, "a connection could not be reset: it is closed instead");
    }
}
