//! Requests, made before the clock starts.

use std::sync::Arc;
use std::thread;

use anyhow::anyhow;
use openclaw_sim::event::{Event, Recipient, Workload};

/// Distinct events as the bytes of whole HTTP requests. One batch serves every contender of a pair: each has a memory of
/// its own.
pub(crate) struct Batch {
    requests: Vec<Box<[u8]>>,
}

/// What a batch is made of.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    /// Chats in all, over all bots.
    pub(crate) chats: usize,
    /// Bytes of an event before encryption.
    pub(crate) event_bytes: usize,
}

impl Default for Shape {
    /// As `docs/performance.md` has it.
    fn default() -> Self {
        Self {
            chats: 2_000,
            event_bytes: 1_024,
        }
    }
}

impl Batch {
    /// `events` events for these bots, in turn.
    pub(crate) async fn new(bots: &[Arc<Recipient>], shape: Shape, events: usize) -> anyhow::Result<Arc<Self>> {
        let bots = bots.to_vec();
        tokio::task::spawn_blocking(move || {
            let chats = u32::try_from((shape.chats / bots.len()).max(1))?;
            let bare = Workload::new(bots.clone(), chats, 0).next();
            let bare = bare.ok_or_else(|| anyhow!("no bots"))?.plaintext(0).to_string().len();
            let events = Workload::new(bots, chats, shape.event_bytes.saturating_sub(bare)).take(events);
            Ok(Arc::new(Self::of(&events.collect::<Vec<_>>())))
        })
        .await?
    }

    fn of(events: &[Event]) -> Self {
        let cores = thread::available_parallelism().map_or(1, usize::from);
        let requests = thread::scope(|scope| {
            let parts = events.chunks(events.len().div_ceil(cores).max(1));
            let parts: Vec<_> = parts
                .map(|part| scope.spawn(|| part.iter().map(request).collect::<Vec<_>>()))
                .collect();
            parts
                .into_iter()
                .flat_map(|part| part.join().unwrap_or_default())
                .collect()
        });
        Self { requests }
    }

    pub(crate) fn len(&self) -> usize {
        self.requests.len()
    }

    pub(super) fn request(&self, number: usize) -> Option<&[u8]> {
        self.requests.get(number).map(|request| &**request)
    }
}

/// Bodies are signed with the time of their making, which nobody holds against them: there is no freshness check.
fn request(event: &Event) -> Box<[u8]> {
    let wire = event.wire(0);
    let mut request = format!(
        "POST /webhook/{} HTTP/1.1\r\nhost: openclaw\r\ncontent-type: application/json;charset=utf-8\r\ncontent-length: {}\r\n",
        event.recipient.bot,
        wire.body.len()
    );
    for (name, value) in &wire.headers {
        request.push_str(&format!("{name}: {value}\r\n"));
    }
    request.push_str("\r\n");
    let mut request = request.into_bytes();
    request.extend(wire.body);
    request.into_boxed_slice()
}
