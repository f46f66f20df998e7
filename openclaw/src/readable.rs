//! Whether the key ring opens what the worker is to go on with. Without its key every such event would become a dead letter.

use std::collections::BTreeMap;
use std::time::Duration;

use openclaw_common::seal::{self, OpenError};
use openclaw_common::store::{StoreError, StoredPart};
use openclaw_worker::Worker;

use crate::exit::Failure;

const RETRY: Duration = Duration::from_millis(200);

/// Looks as soon as the database is there: until then a worker has nothing to do.
pub(crate) async fn check(worker: &Worker) -> Result<(), Failure> {
    let bots: Vec<_> = worker.bots.now().all_served().map(|bot| bot.id.clone()).collect();
    let parts = loop {
        match worker.store.parts(&bots).await {
            Ok(parts) => break parts,
            Err(StoreError::Internal(error)) => {
                tracing::error!(error, "cannot look whether the stored events can be opened");
                return Ok(());
            }
            // The health report says what is wrong.
            Err(StoreError::Unavailable(_) | StoreError::ReadOnly | StoreError::Schema { .. }) => {
                tokio::time::sleep(RETRY).await;
            }
        }
    };
    // One that opens proves its key; one that does not may be damaged itself.
    let mut manners: BTreeMap<&[u8], Result<(), OpenError>> = BTreeMap::new();
    for StoredPart { event, part, bytes } in &parts {
        let opened = worker.keys.open(event, *part, bytes).map(drop);
        let manner = manners
            .entry(seal::manner(bytes).unwrap_or_default())
            .or_insert_with(|| opened.clone());
        if opened.is_ok() {
            *manner = opened;
        }
    }
    let refusals = manners.into_values().filter_map(Result::err);
    let sentences: Vec<_> = refusals.map(|error| sentence(&error)).collect();
    if sentences.is_empty() {
        Ok(())
    } else {
        Err(Failure::usage(sentences.join("\n")))
    }
}

fn sentence(error: &OpenError) -> String {
    match error {
        OpenError::MissingKey(id) => format!(
            "`encryption.keys.{id}` is missing, and events that wait in the database are sealed with it: put the key back \
             under this id; it need not be the active one"
        ),
        OpenError::Damaged(id) => format!(
            "`encryption.keys.{id}` is not the key that events in the database are sealed with under this id: put that one \
             back, and give a new key an id of its own"
        ),
        OpenError::Plain => {
            "events that wait in the database are not sealed although `encryption.keys` is configured: set \
             `encryption.accept_plain_until` to a time by which they are done, such as 2026-12-01T00:00:00Z"
                .to_owned()
        }
        OpenError::Older(id) => format!(
            "events that wait in the database are sealed with `encryption.keys.{id}` in the way of an older version: set \
             `encryption.accept_plain_until` to a time by which they are done, such as 2026-12-01T00:00:00Z"
        ),
        OpenError::Unknown => {
            "events in the database are sealed in a way this program does not know: run the newer version that did it"
                .to_owned()
        }
    }
}
