//! Everything in one process on one SQLite file, end to end.

use world::Kind;

use super::{BOTS, Speed, UNBOUND, both};
use crate::report::Report;

pub(super) async fn measure(speed: &Speed, report: &mut Report) -> anyhow::Result<()> {
    let world = super::world(Kind::Embedded, BOTS, UNBOUND).await;
    let processes = world.start(1).await;
    let found = both::turns(&both::Plan::of(speed), &world, &processes).await?;
    report.add(found.row("embedded, one process, end to end", 3_000.0));
    Ok(())
}
