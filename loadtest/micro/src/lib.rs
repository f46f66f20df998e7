//! The pure paths that every event takes, with fixed inputs: timed by `./dev bench micro` (`benches/paths.rs`), counted in
//! instructions by `./dev bench instructions` (`src/main.rs`).
#![expect(
    clippy::expect_used,
    reason = "a path that cannot be taken is no measurement: it must stop"
)]

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue};
use openclaw_common::bot::{Bot, BotId, Credentials};
use openclaw_common::config::{Feishu, Handler, Message, Quota, Security};
use openclaw_common::envelope::Envelope;
use openclaw_common::secret::Secret;
use openclaw_sim::event::{Event, Kind, Recipient};

/// An event of about 1 KiB.
const TEXT: usize = 560;
/// Chats that lanes are moved in.
const CHATS: usize = 100;
/// Events through the lanes in one go.
pub const LANE_MOVES: usize = 10_000;

/// One push and the bot that it is for.
pub struct Push {
    bot: Bot,
    headers: HeaderMap,
    body: Bytes,
}

impl Default for Push {
    fn default() -> Self {
        let credentials = Credentials {
            app_id: "cli_a1b2c3d4e5f6".into(),
            app_secret: Secret::new("secret"),
            verification_token: Secret::new("verification-token"),
            encrypt_key: Some(Secret::new("encrypt-key")),
        };
        let recipient = Arc::new(Recipient {
            bot: "bot1".into(),
            credentials: credentials.clone(),
        });
        let text = "x".repeat(TEXT);
        let wire = Event::with_key(
            recipient,
            Kind::Text { text },
            "oc_1234567890",
            "ou_1234567890",
            "om_1234567890",
        )
        .wire(0);
        let headers = wire.headers.iter().map(|(name, value)| {
            let value = HeaderValue::from_str(value).expect("a header's value");
            (http::HeaderName::from_static(name), value)
        });
        Self {
            bot: Bot {
                id: BotId::new("bot1").expect("a bot's id"),
                credentials,
                message: Message::default(),
                quota: Quota::default(),
                handler: Handler::default(),
                security: Security::default(),
                feishu: Feishu::default(),
            },
            headers: headers.collect(),
            body: wire.body.into(),
        }
    }
}

impl Push {
    /// Verify, decrypt, identify.
    pub fn open(&self) -> Envelope {
        openclaw_ingest::measured::envelope(&self.bot, &self.headers, self.body.clone())
            .expect("a push that is accepted")
    }
}

/// An envelope to an AMQP message and back.
pub fn round_trip(envelope: &Envelope) -> Arc<Envelope> {
    openclaw_backends::queues::rabbitmq::measured::round_trip(envelope).expect("a message that is readable")
}

/// Events of a hundred chats through their lanes, one by one.
pub struct Lanes(Vec<Arc<str>>);

impl Default for Lanes {
    fn default() -> Self {
        Self((0..CHATS).map(|number| format!("oc_{number:010}").into()).collect())
    }
}

impl Lanes {
    /// [`LANE_MOVES`] of them.
    pub fn run(&self) -> usize {
        openclaw_worker::measured::lanes(&self.0, LANE_MOVES)
    }
}
