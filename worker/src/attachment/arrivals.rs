//! Taking deliveries up: each gets its course before its row is written, and its row says what becomes of it.

use openclaw_common::fail_point::fail_point;
use openclaw_common::priority::Priority;
use openclaw_common::queue::{Delivery, Receipt};
use openclaw_common::store::{Arrival, Begun, Intent};
use openclaw_common::telemetry;

use super::Attachment;
use crate::commit::CommitError;
use crate::process::Work;
use crate::{archive, order};

impl Attachment {
    pub(super) async fn arrive(&mut self, batch: Vec<Delivery>) {
        fail_point("W0", "");
        let mut arrivals = Vec::with_capacity(batch.len());
        let mut receipts = Vec::with_capacity(batch.len());
        for delivery in batch {
            let envelope = match delivery.payload {
                Ok(envelope) => envelope,
                Err(unreadable) => {
                    archive::bury_unreadable(&self.engine, &self.bot, unreadable, delivery.receipt).await;
                    continue;
                }
            };
            if order::is_order(&envelope) && self.held.contains_key(&envelope.key) {
                order::settle(&self.engine, envelope, delivery.receipt);
                continue;
            }
            if let Some(copies) = self.held.get_mut(&envelope.key) {
                copies.push(delivery.receipt);
                telemetry::DUPLICATES_DROPPED.add(1);
                continue;
            }
            // Entered at once: a copy in the same batch must not be taken up twice.
            self.held.insert(envelope.key.clone(), Vec::new());
            // A chat gets little of what memory is left, unless all of it is left soon: slow chats must not hold it all.
            let tight = self.is_short() && !self.throughput.is_high();
            let priority = Priority::of(&envelope, 0);
            let room = priority == Priority::Answer || !self.crowded && self.unasked_room() > 0;
            self.crowded |= !room;
            let intent = self.lanes.reserve(&envelope.chat, priority, tight, room);
            arrivals.push(Arrival { envelope, intent });
            receipts.push(delivery.receipt);
        }
        self.begin(arrivals, receipts).await;
    }

    async fn begin(&mut self, arrivals: Vec<Arrival>, receipts: Vec<Receipt>) {
        if arrivals.is_empty() {
            return;
        }
        let engine = self.engine.clone();
        let begun = match self.meanwhile(engine.commits.begin(arrivals.clone())).await {
            Ok(begun) => begun,
            // Stopped: all of it comes again. Refused: one bad row among many, so take them up one by one.
            Err(CommitError::Stopped) => return,
            Err(CommitError::Refused(_)) if arrivals.len() > 1 => {
                for (arrival, receipt) in arrivals.into_iter().zip(receipts) {
                    Box::pin(self.begin(vec![arrival], vec![receipt])).await;
                }
                return;
            }
            Err(CommitError::Refused(error)) => {
                for (arrival, receipt) in arrivals.into_iter().zip(receipts) {
                    self.cancel(&arrival);
                    self.held.remove(&arrival.envelope.key);
                    archive::bury_refused(&self.engine, arrival.envelope, &error, receipt).await;
                }
                return;
            }
        };
        fail_point("T1", "");
        for ((arrival, receipt), begun) in arrivals.into_iter().zip(receipts).zip(begun) {
            let envelope = &arrival.envelope;
            match begun {
                Begun::Taken(row) => {
                    let started = row.new && arrival.intent == Intent::Start;
                    self.cancel(&arrival);
                    if !row.new && row.envelope.chat != envelope.chat {
                        tracing::warn!(event = %envelope.key, "a copy names another chat: the first one counts");
                    }
                    let mut receipt = Some(receipt);
                    if !row.new
                        && order::is_order(envelope)
                        && !order::is_same(&self.engine, &row.envelope, envelope)
                        && let Some(receipt) = receipt.take()
                    {
                        order::settle(&self.engine, envelope.clone(), receipt);
                    }
                    self.enter(Work { row, receipt, started });
                }
                Begun::Ours => {
                    tracing::debug!(event = %envelope.key, bot = %self.bot, "a message of our own: it is not handled");
                    telemetry::OWN_MESSAGES.add(1);
                    self.cancel(&arrival);
                    self.anchor.settle(receipt);
                    self.release(&envelope.key);
                }
                Begun::Settled { parked } => {
                    if parked && arrival.intent == Intent::Park {
                        // An answer behind a few notifications calls for them, and itself.
                        self.refill |= self.wants_refill(&envelope.chat);
                    } else {
                        self.cancel(&arrival);
                        // Or it is our own parking, repeated after its answer was lost.
                        self.unsure |= arrival.intent == Intent::Park;
                        self.release(&envelope.key);
                        if order::is_order(envelope) {
                            order::settle(&self.engine, envelope.clone(), receipt);
                            continue;
                        }
                        telemetry::DUPLICATES_DROPPED.add(1);
                    }
                    self.anchor.settle(receipt);
                    self.release(&envelope.key);
                }
            }
        }
    }

    fn cancel(&mut self, arrival: &Arrival) {
        let priority = Priority::of(&arrival.envelope, 0);
        self.lanes.cancel(&arrival.envelope.chat, priority, arrival.intent);
    }

    /// Somebody else has raised the fence. With a delivery in hand: if they have finished, it can go; if not, the newest owner
    /// goes on. Without one the row is looked for among the unfinished.
    pub(super) async fn look_again(&mut self, work: Work) {
        let copies = &mut self.held;
        let copy = || copies.get_mut(&work.row.envelope.key).and_then(Vec::pop);
        let Some(receipt) = work.receipt.or_else(copy) else {
            self.held.remove(&work.row.envelope.key);
            self.unsure = true;
            return;
        };
        let arrival = Arrival {
            envelope: work.row.envelope.clone(),
            intent: Intent::Hold,
        };
        self.lanes
            .place(&arrival.envelope.chat, Priority::of(&arrival.envelope, 0));
        self.begin(vec![arrival], vec![receipt]).await;
    }
}
