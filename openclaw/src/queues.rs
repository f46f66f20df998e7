//! Every bot's queue is made before events are asked for: a process is ready when each can take one.
//!
//! A bot whose queue the broker refuses for good is named in the log and holds no other bot up. What is added later, or on a
//! new connection, is made in the background and takes no readiness away: its events are taken all the same, only later.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use openclaw_common::bot::{BotId, Bots};
use openclaw_common::queue::{Link, Queue};
use tokio::sync::watch;

/// Between two tries of what was refused, which is logged where it is known.
const AGAIN: Duration = Duration::from_secs(5);
/// Between the first tries.
const SOON: Duration = Duration::from_millis(250);
/// What is not there after so many tries holds readiness up no longer: the broker refuses it for good.
const PASSES: u32 = 2;

/// Prepares the queues of all bots for as long as the node runs; `state` is [`Link::Up`] once those of the start are there.
pub(crate) async fn prepare(queue: Arc<dyn Queue>, bots: Bots, state: watch::Sender<Link>) {
    let (mut link, mut watched) = (queue.link(), bots.watch());
    loop {
        // On every new connection anew: another broker may stand behind it.
        if link.wait_for(|link| *link == Link::Up).await.is_err() {
            return;
        }
        let (mut prepared, mut passes) = (BTreeSet::new(), 0);
        loop {
            watched.borrow_and_update();
            let lost = tokio::select! {
                biased;
                left = link.wait_for(|link| *link != Link::Up) => left.is_err(),
                () = prepare_new(queue.as_ref(), &bots, &mut prepared) => false,
            };
            if lost {
                return;
            }
            if *link.borrow() != Link::Up {
                break;
            }
            let complete = bots.now().all_served().all(|bot| prepared.contains(&bot.id));
            passes += 1;
            if complete || passes == PASSES {
                state.send_if_modified(|state| std::mem::replace(state, Link::Up) != Link::Up);
            }
            tokio::select! {
                left = link.wait_for(|link| *link != Link::Up) => if left.is_err() { return },
                added = watched.changed() => if added.is_err() { return },
                () = tokio::time::sleep(if passes < PASSES { SOON } else { AGAIN }), if !complete => {}
            }
            if *link.borrow() != Link::Up {
                break;
            }
        }
    }
}

/// Tries each bot that has not been prepared once, one after the other: a push that comes meanwhile waits for one of them.
async fn prepare_new(queue: &dyn Queue, bots: &Bots, prepared: &mut BTreeSet<BotId>) {
    let wanted: Vec<BotId> = bots.now().all_served().map(|bot| bot.id.clone()).collect();
    for bot in wanted {
        if prepared.contains(&bot) {
            continue;
        }
        match queue.prepare(&bot).await {
            Ok(()) => drop(prepared.insert(bot)),
            Err(error) => tracing::debug!(%bot, %error, "the bot's queue is not there yet"),
        }
    }
}
