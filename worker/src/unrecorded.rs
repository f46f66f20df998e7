//! Sends of this process whose end the Store does not know yet.
//!
//! The platform may push what a bot has sent as if a person had written it, and may do so before it answers the send. By then no
//! table knows the message's id. Inside a lane that cannot matter, because the next event waits for the last one's outcome; but
//! the same chat has a lane for each bot, each pool and each form of its address. So whoever is about to answer a message waits
//! for the sends that may have made it, a few milliseconds as a rule, and then asks the Store. Sends of another process, and one
//! that is parked while nobody knows whether it is visible, are not waited for.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use openclaw_common::bot::Bot;
use openclaw_common::store::Row;
use tokio_util::sync::CancellationToken;

use crate::action::Action;
use crate::order;
use crate::people::People;

/// A request is given up sooner, and its outcome committed, as long as the database answers.
const LONGEST: Duration = Duration::from_secs(15);

/// Where a send may become visible.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Place {
    Chat(Arc<str>),
    /// The app's chat with this person.
    Person(Arc<str>, Arc<str>),
    /// One of the app's chats with a person: an address that does not say which.
    Somebody(Arc<str>),
}

/// The sends, by place; each ends its token.
type Sends = HashMap<Place, Vec<CancellationToken>>;

/// The sends that are not recorded.
#[derive(Clone, Debug, Default)]
pub(crate) struct Unrecorded(Arc<Mutex<Sends>>);

/// One of them, until this is dropped.
#[derive(Debug)]
pub(crate) struct Open {
    place: Place,
    ended: CancellationToken,
    sends: Unrecorded,
}

impl Unrecorded {
    /// A request is about to leave.
    pub(crate) fn begin(&self, sender: &Bot, action: &Action) -> Open {
        let (app, target) = (sender.credentials.app_id.clone(), action.target());
        let place = match target.get(..3) {
            Some("oc_") => Place::Chat(target.into()),
            Some("ou_") => Place::Person(app, target.into()),
            _ => Place::Somebody(app),
        };
        let ended = CancellationToken::new();
        self.lock().entry(place.clone()).or_default().push(ended.clone());
        Open {
            place,
            ended,
            sends: self.clone(),
        }
    }

    /// Waits until every send that may have made this message is recorded.
    pub(crate) async fn passed(&self, people: &People, bot: &Bot, row: &Row) {
        if !order::is_message(&row.envelope) {
            return;
        }
        let (app, chat) = (&bot.credentials.app_id, &row.envelope.chat);
        let mut places = vec![Place::Chat(chat.clone())];
        match people.known(app, chat) {
            Some(None) => {}
            Some(Some(person)) => places.extend([Place::Person(app.clone(), person), Place::Somebody(app.clone())]),
            None => places.push(Place::Somebody(app.clone())),
        }
        let open: Vec<CancellationToken> = {
            let sends = self.lock();
            let there = places.iter().filter_map(|place| sends.get(place));
            there.flatten().cloned().collect()
        };
        let all = async {
            for send in &open {
                send.cancelled().await;
            }
        };
        if tokio::time::timeout(LONGEST, all).await.is_err() {
            tracing::warn!(event = %row.envelope.key, bot = %bot.id, "a send into its chat has not come to an end: the event goes on");
        }
    }

    fn lock(&self) -> MutexGuard<'_, Sends> {
        // Nothing panics while it is held.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.ended.cancel();
        let mut sends = self.sends.lock();
        if let Some(open) = sends.get_mut(&self.place) {
            open.retain(|send| !send.is_cancelled());
            if open.is_empty() {
                sends.remove(&self.place);
            }
        }
    }
}
