//! Being built.

use anyhow::bail;

#[derive(Debug, clap::Args)]
pub(crate) struct Soak {}

impl Soak {
    pub(crate) async fn run(self) -> anyhow::Result<bool> {
        bail!("not built yet")
    }
}
