//! The request's body, bounded in size and time.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderMap, header};
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt as _;

use crate::overload::{Overload, Permit};
use crate::reply::{Code, Refusal};

/// For the whole body (`reliability.md` D8): a third of Feishu's 3 s.
const READ: Duration = Duration::from_secs(1);
/// What is read and thrown away behind the limit, so that a client that is still sending sees the answer and not a reset.
const DISCARD: usize = 1024 * 1024;

/// The body as it came over the wire, at most `limit` bytes, and the right to handle it: only now is there anything to do.
pub(crate) async fn read(
    headers: &HeaderMap,
    mut body: Body,
    limit: usize,
    overload: &Arc<Overload>,
) -> Result<(Bytes, Permit), Refusal> {
    // No decompression, so no decompression bombs.
    if let Some(encoding) = headers.get(header::CONTENT_ENCODING)
        && !encoding.as_bytes().eq_ignore_ascii_case(b"identity")
    {
        return Err(Refusal::new(
            Code::UnsupportedEncoding,
            "content-encoding is not supported: send the body as it is",
        ));
    }
    let reading = async {
        // hyper answers `Expect: 100-continue` when the body is first read: not before its announced length is right.
        if announced(headers).is_some_and(|length| length > limit) {
            return Err(too_large(limit));
        }
        let mut permit = overload.permit();
        let whole = collect(&mut body, limit, &mut permit).await;
        if matches!(&whole, Err(refusal) if refusal.code == Code::TooLarge) {
            discard(&mut body).await;
        }
        let whole = whole?;
        permit.enter()?;
        Ok((whole, permit))
    };
    tokio::time::timeout(READ, reading)
        .await
        .unwrap_or_else(|_| Err(Refusal::malformed("the body did not arrive within 1 s")))
}

fn announced(headers: &HeaderMap) -> Option<usize> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

async fn collect(body: &mut Body, limit: usize, permit: &mut Permit) -> Result<Bytes, Refusal> {
    // Nearly every body is one chunk, which is used without a copy.
    let mut first = Bytes::new();
    let mut whole = BytesMut::new();
    while let Some(chunk) = next(body).await? {
        if first.len() + whole.len() + chunk.len() > limit {
            return Err(too_large(limit));
        }
        permit.grow(chunk.len())?;
        if first.is_empty() && whole.is_empty() {
            first = chunk;
        } else {
            whole.extend_from_slice(&std::mem::take(&mut first));
            whole.extend_from_slice(&chunk);
        }
    }
    Ok(if whole.is_empty() { first } else { whole.freeze() })
}

async fn next(body: &mut Body) -> Result<Option<Bytes>, Refusal> {
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| Refusal::malformed("the body ended early"))?;
        if let Ok(data) = frame.into_data() {
            return Ok(Some(data));
        }
    }
    Ok(None)
}

async fn discard(body: &mut Body) {
    let mut left = DISCARD;
    while let Ok(Some(chunk)) = next(body).await {
        match left.checked_sub(chunk.len()) {
            Some(rest) => left = rest,
            None => return,
        }
    }
}

fn too_large(limit: usize) -> Refusal {
    Refusal::new(
        Code::TooLarge,
        format!("the body is larger than {limit} bytes (`security.max_body`)"),
    )
}
