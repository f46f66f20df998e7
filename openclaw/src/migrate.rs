//! `openclaw migrate`: brings the database's schema to this version. A deployment runs it as a job before the workers.

use openclaw_common::store::StoreError;

use crate::cli::Folder;
use crate::exit::Failure;
use crate::{node, print};

pub(crate) async fn run(folder: Folder) -> Result<(), Failure> {
    let loaded = node::load(&folder.config)?;
    let seams = openclaw_backends::open(&loaded.config.backend, &loaded.config.database, &node::instance())
        .await
        .map_err(node::backend_failure)?;
    match seams.store.migrate().await {
        Ok(()) => {
            print::line(&format!("{}: the schema is up to date", seams.names.store));
            Ok(())
        }
        Err(error @ (StoreError::Unavailable(_) | StoreError::ReadOnly)) => Err(Failure::unreachable(error)),
        Err(error) => Err(anyhow::anyhow!(error).into()),
    }
}
