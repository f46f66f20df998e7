//! One supervised connection: connect, serve, notice the end, connect again, for ever.
//!
//! lapin's auto-recovery stays off (it is off unless `enable_auto_recover` is called): it does not tell in-flight work
//! that its delivery tags are void. Here a connection is a [`Session`] with an epoch; when it ends, everything made from
//! it ends with it, and the next epoch starts from nothing.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use futures_util::StreamExt;
use lapin::uri::AMQPUri;
use lapin::{Channel, Connection, ConnectionProperties, Event};
use tokio::sync::watch;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use super::wire::Wire;
use openclaw_common::backoff::Reconnect;
use openclaw_common::queue::{Link, QueueError};
use openclaw_common::secret::Secret;

/// Longest wait for one broker call.
pub(super) const CALL_TIMEOUT: Duration = Duration::from_secs(5);

/// Longest wait for one step of leaving: what publishes and acknowledgements still need, then the polite close.
pub(super) const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// Longest wait for the TCP connection and the AMQP handshake together.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(3);

/// Bounds of the wait between attempts. Longest wait plus longest handshake stay below the 5 s in which `docs/performance.md` wants
/// the link back after any outage, however long.
const RECONNECT: (Duration, Duration) = (Duration::from_millis(100), Duration::from_millis(1500));

/// lapin reports the end of a connection as an event; this look at its state is the net below.
const LOOK: Duration = Duration::from_millis(500);

/// Seconds; lapin gives a silent broker up after about twice that.
const HEARTBEAT: u16 = 10;

/// Where the broker is, and how this process introduces itself.
#[derive(Clone, Debug)]
pub(super) struct Broker {
    pub(super) uri: AMQPUri,
    name: String,
}

impl Broker {
    /// Reads an `amqp://` or `amqps://` URL. The error never contains it.
    pub(super) fn new(url: &Secret, name: &str) -> Result<Self, QueueError> {
        let mut uri: AMQPUri = url
            .expose()
            .parse()
            .map_err(|reason: String| QueueError(format!("the AMQP URL is not valid: {reason}")))?;
        uri.query.heartbeat.get_or_insert(HEARTBEAT);
        // `amqp://host/` means the default virtual host to everybody but the letter of the specification.
        if uri.vhost.is_empty() {
            uri.vhost = "/".to_owned();
        }
        // The parser knows no IPv6 literals and silently takes `localhost` for them.
        if let Some(host) = ipv6_host(url.expose()) {
            uri.authority.host = host.to_owned();
        }
        Ok(Self {
            uri,
            name: name.to_owned(),
        })
    }
}

fn ipv6_host(url: &str) -> Option<&str> {
    let authority = url.split_once("://")?.1.split(['/', '?']).next()?;
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    Some(host.strip_prefix('[')?.split_once(']')?.0)
}

/// One connection's life. Whatever is made from it holds an `Arc` and ends when [`Session::ended`] says so.
#[derive(Debug)]
pub(super) struct Session {
    broker: Broker,
    connection: Connection,
    wire: Wire,
    /// Cancelled when the connection is gone or no longer trusted.
    pub(super) ended: CancellationToken,
}

impl Session {
    async fn connect(broker: &Broker) -> Result<Self, QueueError> {
        let wire = Wire::default();
        let properties = ConnectionProperties::default().with_connection_name(broker.name.as_str().into());
        let connecting = wire.connect(broker.uri.clone(), properties);
        let connection = within(HANDSHAKE_TIMEOUT, "connecting", connecting).await?;
        Ok(Self {
            broker: broker.clone(),
            connection,
            wire,
            ended: CancellationToken::new(),
        })
    }

    /// A connection of its own to the same broker, for a call that may end the one it is made on.
    pub(super) async fn apart(&self) -> Result<Self, QueueError> {
        Self::connect(&self.broker).await
    }

    /// Opens a channel.
    pub(super) async fn channel(&self) -> Result<Channel, QueueError> {
        within(CALL_TIMEOUT, "opening a channel", self.connection.create_channel()).await
    }

    /// Whether the connection stands, as far as is known here.
    pub(super) fn is_connected(&self) -> bool {
        self.connection.status().connected()
    }

    /// Gives the connection up: the supervisor makes a new one.
    pub(super) fn give_up(&self, reason: &str) {
        if !self.ended.is_cancelled() {
            tracing::warn!(reason, "giving the broker's connection up");
            self.ended.cancel();
        }
    }

    /// Cuts the connection without an AMQP close.
    pub(super) fn cut(&self) {
        self.wire.cut();
        self.ended.cancel();
    }

    /// Closes the connection politely, then cuts it in any case.
    pub(super) async fn close(&self) {
        match timeout(CLOSE_TIMEOUT, self.connection.close(200, "bye".into())).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(%error, "closing the broker's connection"),
            Err(_) => tracing::warn!("the broker did not answer the close of its connection"),
        }
        self.cut();
    }
}

impl Drop for Session {
    /// Ends lapin's thread, and keeps a dropped handle from closing politely what must be cut.
    fn drop(&mut self) {
        self.cut();
    }
}

/// Awaits one broker call with a deadline.
pub(super) async fn within<T>(
    limit: Duration,
    what: &str,
    call: impl Future<Output = lapin::Result<T>>,
) -> Result<T, QueueError> {
    match timeout(limit, call).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(QueueError(format!("{what}: {error}"))),
        Err(_) => Err(QueueError(format!("{what}: no answer within {limit:?}"))),
    }
}

/// What a connection is for: built anew in every epoch.
pub(super) trait Role: Sized + Send + Sync + 'static {
    /// What every epoch is built from.
    type Setup: Send + Sync + 'static;

    /// Makes the connection usable.
    fn open(session: Arc<Session>, setup: &Self::Setup) -> impl Future<Output = Result<Self, QueueError>> + Send;

    /// Ends it for good, bounded in time; the session has ended when this returns.
    fn finish(&self) -> impl Future<Output = ()> + Send;
}

/// The current epoch of one connection, as others see it.
#[derive(Debug)]
pub(super) struct Endpoint<R> {
    link: watch::Sender<Link>,
    current: ArcSwapOption<R>,
}

impl<R: Role> Endpoint<R> {
    pub(super) fn new() -> Self {
        Self {
            link: watch::Sender::new(Link::Connecting),
            current: ArcSwapOption::empty(),
        }
    }

    /// The link's state and its changes.
    pub(super) fn link(&self) -> watch::Receiver<Link> {
        self.link.subscribe()
    }

    /// The usable epoch, else why there is none.
    pub(super) fn current(&self) -> Result<Arc<R>, String> {
        self.current.load_full().ok_or_else(|| match &*self.link.borrow() {
            Link::Down(reason) | Link::Blocked(reason) => reason.clone(),
            Link::Connecting => "not connected yet".to_owned(),
            Link::Up => "the connection just ended".to_owned(),
        })
    }

    /// Why the broker takes no publishes although the connection stands.
    pub(super) fn blocked(&self) -> Option<String> {
        match &*self.link.borrow() {
            Link::Blocked(reason) => Some(reason.clone()),
            Link::Connecting | Link::Up | Link::Down(_) => None,
        }
    }

    /// Keeps the connection up until `stop`.
    pub(super) async fn supervise(self: Arc<Self>, broker: Broker, setup: R::Setup, stop: CancellationToken) {
        let mut waits = Reconnect::new(RECONNECT.0, RECONNECT.1);
        let mut outage = false;
        while !stop.is_cancelled() {
            let opened = tokio::select! {
                biased;
                () = stop.cancelled() => break,
                opened = open::<R>(&broker, &setup) => opened,
            };
            let reason = match opened {
                Ok((session, role)) => {
                    tracing::info!(connection = broker.name, "connected to the broker");
                    waits.reset();
                    outage = false;
                    self.serve(&session, Arc::new(role), &stop).await
                }
                Err(error) => error.0,
            };
            if stop.is_cancelled() {
                break;
            }
            // Said once an outage: the state is in `link` and in the metrics meanwhile.
            if !std::mem::replace(&mut outage, true) {
                tracing::warn!(
                    connection = broker.name,
                    reason,
                    "no connection to the broker; trying again"
                );
            }
            self.link.send_replace(Link::Down(reason));
            tokio::select! {
                () = stop.cancelled() => {}
                () = tokio::time::sleep(waits.wait()) => {}
            }
        }
        self.link.send_replace(Link::Down("closed".to_owned()));
    }

    /// One epoch, from usable to gone; says why it ended.
    async fn serve(&self, session: &Session, role: Arc<R>, stop: &CancellationToken) -> String {
        // A single listener: lapin gives each event to one of them.
        let mut events = std::pin::pin!(session.connection.events_listener());
        self.current.store(Some(Arc::clone(&role)));
        self.link.send_replace(Link::Up);
        let mut look = tokio::time::interval_at(Instant::now() + LOOK, LOOK);
        let reason = loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => {
                    self.current.store(None);
                    role.finish().await;
                    break "closed".to_owned();
                }
                () = session.ended.cancelled() => break "the connection was given up".to_owned(),
                event = events.next() => match event {
                    Some(Event::ConnectionBlocked(reason)) => {
                        tracing::warn!(reason, "the broker takes no publishes");
                        self.link.send_replace(Link::Blocked(reason));
                    }
                    Some(Event::ConnectionUnblocked) => {
                        tracing::info!("the broker takes publishes again");
                        self.link.send_replace(Link::Up);
                    }
                    // Errors of a single channel arrive here too.
                    Some(Event::Error(error)) if !session.connection.status().connected() => break error.to_string(),
                    Some(_) => {}
                    None => break "the connection ended".to_owned(),
                },
                _ = look.tick() => {
                    if !session.connection.status().connected() {
                        break "the connection ended".to_owned();
                    }
                }
            }
        };
        // First ends what hangs on the session, then tells the world: who sees the change finds no live delivery.
        self.current.store(None);
        session.cut();
        reason
    }
}

async fn open<R: Role>(broker: &Broker, setup: &R::Setup) -> Result<(Arc<Session>, R), QueueError> {
    let session = Arc::new(Session::connect(broker).await?);
    match timeout(CALL_TIMEOUT, R::open(Arc::clone(&session), setup)).await {
        Ok(role) => Ok((session, role?)),
        Err(_) => Err(QueueError("the broker answers too slowly".to_owned())),
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    fn broker(url: &str) -> Broker {
        Broker::new(&Secret::new(url), "test").unwrap()
    }

    #[test]
    fn a_url_gets_a_heartbeat_unless_it_names_one() {
        assert_eq!(broker("amqp://h").uri.query.heartbeat, Some(10));
        assert_eq!(broker("amqp://h/v?heartbeat=3").uri.query.heartbeat, Some(3));
    }

    #[test]
    fn a_url_without_a_virtual_host_means_the_default_one() {
        assert_eq!(broker("amqp://h").uri.vhost, "/");
        assert_eq!(broker("amqp://h/").uri.vhost, "/");
        assert_eq!(broker("amqp://h/a%2fb").uri.vhost, "a/b");
    }

    #[test]
    fn an_ipv6_address_is_the_host() {
        assert_eq!(broker("amqp://u:p@[::1]:5672/v").uri.authority.host, "::1");
        assert_eq!(broker("amqp://[fe80::1]").uri.authority.host, "fe80::1");
        assert_eq!(broker("amqp://u:p@10.0.0.1/v").uri.authority.host, "10.0.0.1");
    }

    #[test]
    fn a_bad_url_is_an_error_that_does_not_repeat_the_password() {
        for url in ["http://u:geheim@h", "amqp://u:geheim@h:port", "geheim"] {
            let error = Broker::new(&Secret::new(url), "test").unwrap_err();
            assert!(!error.to_string().contains("geheim"), "{error}");
        }
    }
}
