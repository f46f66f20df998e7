//! The TCP connection under an AMQP connection, and the means to cut it.
//!
//! lapin cancels consumers and closes channels as soon as their last handles drop, and a `basic.cancel` puts what the
//! consumer held *behind* later messages (`docs/design/delivery.md` §6). So we open the socket ourselves, keep a second handle to
//! it, and shut it down under lapin's feet: what was written before still arrives, nothing after does.

use std::net::{Shutdown, TcpStream};
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use lapin::tcp::{AsyncTcpStream, OwnedTLSConfig};
use lapin::uri::{AMQPScheme, AMQPUri};
use lapin::{Connection, ConnectionProperties};

/// Longest wait for the TCP connection. A packet filter that drops everything answers nothing at all.
const TCP_TIMEOUT: Duration = Duration::from_secs(2);

/// A handle to one connection's socket. Cloned handles cut the same socket.
#[derive(Clone, Debug, Default)]
pub(super) struct Wire(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    socket: Option<TcpStream>,
    cut: bool,
}

impl Wire {
    /// Opens socket, TLS if the URL asks for it, and AMQP. Every way out but success cuts the wire.
    pub(super) async fn connect(&self, uri: AMQPUri, properties: ConnectionProperties) -> lapin::Result<Connection> {
        let attempt = Attempt(Some(self.clone()));
        let wire = self.clone();
        let connection = Connection::connector(
            uri,
            lapin::runtime::default_runtime()?,
            async move |uri: AMQPUri, runtime| {
                let opening = async {
                    let host = (uri.authority.host.as_str(), uri.authority.port);
                    let addresses: Vec<_> = tokio::net::lookup_host(host).await?.collect();
                    let stream = AsyncTcpStream::connect(&runtime, addresses).await?;
                    if let AsyncTcpStream::Plain(socket) = &stream {
                        wire.keep(TcpStream::from(socket.get_ref().as_fd().try_clone_to_owned()?))?;
                    }
                    match uri.scheme {
                        AMQPScheme::AMQP => Ok(stream),
                        AMQPScheme::AMQPS => {
                            stream
                                .into_tls(&uri.authority.host, OwnedTLSConfig::default().as_ref())
                                .await
                        }
                    }
                };
                match tokio::time::timeout(TCP_TIMEOUT, opening).await {
                    Ok(opened) => Ok(opened?),
                    Err(_) => Err(std::io::Error::from(std::io::ErrorKind::TimedOut).into()),
                }
            },
            properties,
        )
        .await?;
        attempt.succeeded();
        Ok(connection)
    }

    fn keep(&self, socket: TcpStream) -> std::io::Result<()> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if state.cut {
            return Err(std::io::ErrorKind::ConnectionAborted.into());
        }
        state.socket = Some(socket);
        Ok(())
    }

    /// Shuts the socket down, both ways and for good. Idempotent.
    pub(super) fn cut(&self) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.cut = true;
        if let Some(socket) = state.socket.take()
            && let Err(error) = socket.shutdown(Shutdown::Both)
            && error.kind() != std::io::ErrorKind::NotConnected
        {
            tracing::debug!(%error, "shutting the broker's socket down");
        }
    }
}

/// Cuts the wire of an attempt that failed, timed out or was dropped. lapin's thread would wait for the broker for ever.
struct Attempt(Option<Wire>);

impl Attempt {
    fn succeeded(mut self) {
        self.0 = None;
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        if let Some(wire) = &self.0 {
            wire.cut();
        }
    }
}
