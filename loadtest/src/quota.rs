//! Being built.

use anyhow::bail;

#[derive(Debug, clap::Args)]
pub(crate) struct Quota {}

impl Quota {
    pub(crate) async fn run(self) -> anyhow::Result<bool> {
        bail!("not built yet")
    }
}
