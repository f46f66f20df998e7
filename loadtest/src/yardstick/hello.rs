//! axum, answering: what HTTP alone costs here.

use axum::Router;
use axum::routing::post;
use bytes::Bytes;
use openclaw_common::serve::{self, Limits};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

pub(super) async fn serve(listener: TcpListener) -> anyhow::Result<()> {
    let router = Router::new().route("/webhook/{bot}", post(async |_body: Bytes| "{}"));
    serve::serve(listener, router, Limits::default(), CancellationToken::new()).await;
    Ok(())
}
