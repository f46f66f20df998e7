//! Whether the key ring opens what the worker is to go on with. Without its key every such event would become a dead letter.

use std::collections::BTreeMap;
use std::time::Duration;

use openclaw_common::seal::{self, OpenError};
use openclaw_common::store::StoreError;
use openclaw_worker::Worker;

use crate::exit::Failure;

const RETRY: Duration = Duration::from_millis(200);

/// Looks as soon as the database is there: until then a worker has nothing to do.
pub(crate) async fn check(worker: &Worker) -> Result<(), Failure> {
    let bots: Vec<_> = worker.bots.now().all_served().map(|bot| bot.id.clone()).collect();
    let sealed = loop {
        match worker.store.sealed(&bots).await {
            Ok(sealed) => break sealed,
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
    let mut keys: BTreeMap<&str, Result<(), OpenError>> = BTreeMap::new();
    for (event, body) in &sealed {
        let opened = worker.keys.open(event, body).map(drop);
        let key = keys
            .entry(seal::key_id(body).unwrap_or_default())
            .or_insert_with(|| opened.clone());
        if opened.is_ok() {
            *key = opened;
        }
    }
    let refusals = keys.into_values().filter_map(Result::err);
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
        OpenError::Unknown => {
            "events in the database are sealed in a way this program does not know: run the newer version that did it"
                .to_owned()
        }
    }
}
