//! `openclaw check`: every mistake in the configuration at once, then a look at each dependency.

use std::time::Duration;

use openclaw_common::backend::{self, Seams};
use openclaw_common::queue::{Link, Queue};

use crate::cli::Check;
use crate::exit::Failure;
use crate::{node, print};

/// A dependency that takes longer counts as unreachable.
const PATIENCE: Duration = Duration::from_secs(5);

pub(crate) async fn run(arguments: Check) -> Result<(), Failure> {
    let folder = &arguments.folder.config;
    let loaded = node::load(folder)?;
    for sentence in loaded.warnings.iter().chain(&loaded.not_yet) {
        print::line(&format!("warning: {sentence}"));
    }
    let names: Vec<&str> = loaded.bots.iter().map(|bot| bot.id.as_str()).collect();
    print::line(&format!(
        "{}: the configuration is valid; bots: {}",
        folder.display(),
        list(&names)
    ));
    if arguments.offline {
        return Ok(());
    }
    let seams = backend::open(&loaded.config.backend, &loaded.config.database, &node::instance())
        .await
        .map_err(node::backend_failure)?;
    let Seams {
        queue,
        store,
        cache,
        names,
        ..
    } = &seams;
    let answers = [
        (names.queue, within(link_up(queue.as_ref())).await),
        (
            names.cache,
            within(async { cache.ping().await.map_err(|error| error.to_string()) }).await,
        ),
        (
            names.store,
            within(async { store.ready().await.map_err(|error| error.to_string()) }).await,
        ),
    ];
    queue.close().await;
    let mut unreachable = Vec::new();
    for (name, answer) in answers {
        match answer {
            Ok(()) => print::line(&format!("{name}: answers")),
            Err(error) => unreachable.push(format!("{name}: {error}")),
        }
    }
    if unreachable.is_empty() {
        Ok(())
    } else {
        Err(Failure::unreachable(unreachable.join("\n")))
    }
}

fn list(names: &[&str]) -> String {
    if names.is_empty() {
        "none yet".to_owned()
    } else {
        names.join(", ")
    }
}

async fn link_up(queue: &dyn Queue) -> Result<(), String> {
    let mut link = queue.link();
    loop {
        let state = link.borrow_and_update().clone();
        match state {
            Link::Up => return Ok(()),
            Link::Blocked(reason) => return Err(format!("refuses publishes: {reason}")),
            // The first attempt is still running, or failed and is repeated.
            Link::Down(reason) => {
                if tokio::time::timeout(PATIENCE, link.changed()).await.is_err() {
                    return Err(reason);
                }
            }
        }
    }
}

async fn within<T>(answer: impl Future<Output = Result<T, String>>) -> Result<T, String> {
    tokio::time::timeout(PATIENCE + Duration::from_secs(1), answer)
        .await
        .unwrap_or_else(|_| Err(format!("no answer within {} s", PATIENCE.as_secs())))
}
