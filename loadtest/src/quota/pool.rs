//! Three bots behind one name, beside one bot: distinct chats, endless demand, at the same time in the same deployment.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use openclaw_sim::clock::monotonic_us;
use reqwest::{Client, StatusCode};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::Extent;
use super::arrivals::{Arrivals, PER_SECOND};
use super::stage::Stage;
use crate::report::{Report, Row, say};

const MEMBERS: usize = 3;
const TOKEN: &str = "token-of-the-bench";
/// Requests on their way at once.
const SIDE_BY_SIDE: usize = 8;
/// Before measuring: the first bursts, the workers' placement.
const SETTLE: Duration = Duration::from_secs(8);
const SECONDS: f64 = 40.0;

pub(super) async fn run(extent: Extent, report: &mut Report) -> anyhow::Result<()> {
    say("pool: three bots behind one name, beside one bot");
    let extra = format!("pools: {{ trio: [bot0, bot1, bot2] }}\napi: {{ tokens: [\"{TOKEN}\"] }}\n");
    let stage = Stage::new(MEMBERS + 1, 2, &extra).await?;
    let seconds = extent.seconds(SECONDS);
    let enough = ((seconds + SETTLE.as_secs_f64() + 10.0) * PER_SECOND as f64) as usize;
    let orders = (0..enough * (MEMBERS + 1)).map(|number| {
        // In turn, so that both have had their share from the beginning.
        let sender = match number % (MEMBERS + 1) {
            MEMBERS => ("bot", "bot3"),
            _ => ("pool", "trio"),
        };
        json!({ sender.0: sender.1, "to": format!("oc_of_{number}"), "msg_type": "text", "content": { "text": "news" } })
    });
    order(&stage, orders.collect()).await?;
    sleep(SETTLE).await;
    let from = monotonic_us();
    sleep(Duration::from_secs_f64(seconds)).await;
    let until = monotonic_us();
    let arrivals = Arrivals::at(&stage.world.sim);
    let sent = |bots: std::ops::Range<usize>, from, until| -> usize {
        bots.map(|bot| arrivals.count(&format!("bot cli_bot{bot}"), from, until))
            .sum()
    };
    let (of_pool, of_one) = (0..MEMBERS, MEMBERS..MEMBERS + 1);
    for (bots, ordered) in [(of_pool.clone(), enough * MEMBERS), (of_one.clone(), enough)] {
        ensure!(
            sent(bots, 0, until) < ordered,
            "one of them ran dry: the run says nothing"
        );
    }
    let (pool, one) = (sent(of_pool, from, until) as f64, sent(of_one, from, until) as f64);
    let under = format!(
        "{:.2}/s beside {:.2}/s for {seconds:.0} s, distinct chats",
        pool / seconds,
        one / seconds
    );
    report.add(Row::ratio(
        "pool: three bots' rate, of one bot's",
        pool / one,
        under.clone(),
        2.9,
    ));
    report.add(Row::rate("pool: three bots' rate", pool / seconds, under.clone(), 14.0));
    let violations = arrivals.violations(0, u64::MAX);
    report.add(Row::violations(
        "pool: violations, every level",
        violations,
        arrivals.sends(),
        under,
    ));
    Ok(())
}

/// Hands all of them to the send API.
async fn order(stage: &Stage, orders: Vec<Value>) -> anyhow::Result<()> {
    let client = Client::builder().timeout(Duration::from_secs(10)).build()?;
    let ingest = stage.processes.first().context("a deployment has an ingest process")?;
    let url = format!("{}/v1/messages", ingest.url());
    let mut orderers = JoinSet::new();
    for part in orders.chunks(orders.len().div_ceil(SIDE_BY_SIDE)) {
        let (client, url, part) = (client.clone(), url.clone(), part.to_vec());
        orderers.spawn(async move {
            for order in part {
                let answer = client.post(&url).bearer_auth(TOKEN).json(&order).send().await?;
                let status = answer.status();
                ensure!(status == StatusCode::ACCEPTED, "{status}: {}", answer.text().await?);
            }
            Ok(())
        });
    }
    for ended in orderers.join_all().await {
        ended?;
    }
    Ok(())
}
