//! Each bot's app, at Feishu.

use std::collections::HashSet;

use futures_util::stream::{self, StreamExt as _};
use openclaw_common::bot::BotSet;
use openclaw_common::checkup::Finding;
use openclaw_worker::feishu::Examiner;

/// Bots that are asked about at the same time.
const TOGETHER: usize = 16;

/// What Feishu says of each bot, in the bots' order; of Feishu itself (its clock) only once.
pub(super) async fn look(examiner: &Examiner, bots: &BotSet) -> Vec<Finding> {
    let asked = bots.iter().map(|bot| async move { examiner.examine(bot).await });
    let findings: Vec<_> = stream::iter(asked).buffered(TOGETHER).collect().await;
    let mut said = HashSet::new();
    findings
        .into_iter()
        .flatten()
        .filter(|finding| said.insert(finding.what.clone()))
        .collect()
}
