//! What stands in the broker by our names, to compare it with what we declare.

use lapin::options::{ExchangeDeclareOptions, QueueDeclareOptions};
use lapin::types::FieldTable;
use lapin::{Channel, ExchangeKind};

use super::topology::{self, DEAD, EVENTS, UNROUTED, bot_queue};
use openclaw_common::bot::BotId;

/// One exchange or queue as this program declares it.
pub(super) struct Shape {
    pub(super) kind: &'static str,
    pub(super) name: String,
    exchange: Option<ExchangeKind>,
    arguments: FieldTable,
}

impl Shape {
    /// All of ours: what the bots share, then each bot's queue.
    pub(super) fn all(bots: &[BotId]) -> Vec<Self> {
        let exchange = |name: &str, kind, arguments| Self {
            kind: "exchange",
            name: name.to_owned(),
            exchange: Some(kind),
            arguments,
        };
        let queue = |name: String, arguments| Self {
            kind: "queue",
            name,
            exchange: None,
            arguments,
        };
        let mut shapes = vec![
            exchange(UNROUTED, ExchangeKind::Fanout, FieldTable::default()),
            exchange(DEAD, ExchangeKind::Fanout, FieldTable::default()),
            exchange(EVENTS, ExchangeKind::Direct, topology::events_arguments()),
            queue(UNROUTED.to_owned(), topology::unrouted_arguments()),
            queue(DEAD.to_owned(), topology::dead_arguments()),
        ];
        shapes.extend(bots.iter().map(|bot| queue(bot_queue(bot), topology::bot_arguments())));
        shapes
    }

    /// Declares it: passively, it is only asked whether it is there; else the broker compares it with what it has, or makes it.
    pub(super) async fn declare(&self, channel: &Channel, passive: bool) -> lapin::Result<()> {
        let (name, arguments) = (self.name.as_str().into(), self.arguments.clone());
        match &self.exchange {
            Some(kind) => {
                let options = ExchangeDeclareOptions {
                    passive,
                    durable: true,
                    ..ExchangeDeclareOptions::default()
                };
                channel.exchange_declare(name, kind.clone(), options, arguments).await
            }
            None => {
                let options = QueueDeclareOptions {
                    passive,
                    ..QueueDeclareOptions::durable()
                };
                channel.queue_declare(name, options, arguments).await.map(drop)
            }
        }
    }
}
