//! A connection whose requests' headers have to arrive in time: the first ones from the connection's beginning, later ones
//! from their first byte.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Sleep, sleep};

use super::open::State;

/// Ends when the headers of a request have not come within the limit after their first byte.
pub(super) struct Heads {
    stream: TcpStream,
    state: Arc<State>,
    limit: Duration,
    reading: Option<Reading>,
}

/// Headers that are due.
struct Reading {
    /// How many requests were before this one.
    before: u64,
    deadline: Pin<Box<Sleep>>,
}

impl Heads {
    pub(super) fn new(stream: TcpStream, state: Arc<State>, limit: Duration) -> Self {
        // Answers are one small write: waiting for more to send only costs time. A failure means the peer has gone.
        stream.set_nodelay(true).ok();
        Self {
            stream,
            state,
            limit,
            // Whoever connects has something to say.
            reading: Some(Reading {
                before: 0,
                deadline: Box::pin(sleep(limit)),
            }),
        }
    }

    fn begun(&self) -> u64 {
        self.state.begun()
    }
}

impl AsyncRead for Heads {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = self.begun();
        self.reading = self.reading.take().filter(|reading| reading.before == before);
        let had = buffer.filled().len();
        match Pin::new(&mut self.stream).poll_read(context, buffer) {
            Poll::Ready(read) => {
                // While a request is answered what comes is its body, or a next one that nobody waits for yet.
                if buffer.filled().len() > had && self.reading.is_none() && self.state.idle_from().is_some() {
                    let deadline = Box::pin(sleep(self.limit));
                    self.reading = Some(Reading { before, deadline });
                }
                Poll::Ready(read)
            }
            Poll::Pending => {
                if let Some(reading) = &mut self.reading {
                    ready!(reading.deadline.as_mut().poll(context));
                    return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
                }
                Poll::Pending
            }
        }
    }
}

impl AsyncWrite for Heads {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, data)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
