//! What a world's tables and queues hold.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use sqlx::Connection as _;
use sqlx::postgres::PgRow;

use crate::world::World;

/// Events by where they ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rows {
    /// Done.
    pub done: u64,
    /// Dead.
    pub dead: u64,
    /// Dead letters, settled ones too.
    pub letters: u64,
    /// All rows, unfinished ones too.
    pub all: u64,
}

impl Rows {
    /// Whether nothing is under way.
    pub fn are_terminal(&self) -> bool {
        self.done + self.dead == self.all
    }
}

impl World {
    /// One row, straight from the database.
    pub async fn row<R>(&self, text: &'static str) -> R
    where
        R: for<'row> sqlx::FromRow<'row, PgRow> + Send + Unpin,
    {
        let url = self.shared.as_ref().unwrap().database.url();
        let mut connection = sqlx::PgConnection::connect(url).await.unwrap();
        let row = sqlx::query_as(text).fetch_one(&mut connection).await.unwrap();
        connection.close().await.unwrap();
        row
    }

    /// The tables, counted.
    pub async fn rows(&self) -> Rows {
        let counted: (i64, i64, i64, i64) = self
            .row(
                "SELECT count(*) FILTER (WHERE state = 'done'), count(*) FILTER (WHERE state = 'dead'), \
                 (SELECT count(*) FROM dead_letters), count(*) FROM events",
            )
            .await;
        let count = |number: i64| u64::try_from(number).unwrap();
        Rows {
            done: count(counted.0),
            dead: count(counted.1),
            letters: count(counted.2),
            all: count(counted.3),
        }
    }

    /// Messages ready in each queue; what a consumer holds is not among them. A queue that is not there holds none.
    pub async fn queues(&self) -> Vec<(String, u32)> {
        let rabbitmq = &self.shared.as_ref().unwrap().rabbitmq;
        let bots = self.bots.iter().map(|bot| format!("openclaw.v1.bot.{}", bot.bot));
        let mut depths = Vec::new();
        for queue in bots.chain(["openclaw.v1.unrouted".to_owned(), "openclaw.v1.dead".to_owned()]) {
            let depth = rabbitmq.depth(&queue).await.unwrap_or(0);
            depths.push((queue, depth));
        }
        depths
    }

    /// The longest pause of any bot between two visible messages.
    pub fn longest_pause(&self) -> Duration {
        let mut last: HashMap<Arc<str>, u64> = HashMap::new();
        let mut longest = 0;
        self.sim.ledger(|ledger| {
            for message in ledger.messages() {
                let before = last.insert(message.app.clone(), message.visible_us);
                longest = longest.max(message.visible_us - before.unwrap_or(message.visible_us));
            }
        });
        Duration::from_micros(longest)
    }
}
