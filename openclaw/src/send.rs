//! `openclaw send`: one message, through the running node's own send API. The node has the queue and, with the embedded
//! backend, the data folder for itself; so this asks it, with the folder's own token, instead of going behind its back.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use openclaw_common::config::{self, Config, Environment};
use serde_json::{Value, json};

use crate::cli;
use crate::exit::Failure;
use crate::print;

const PATIENCE: Duration = Duration::from_secs(10);

pub(crate) async fn run(arguments: cli::Send) -> Result<(), Failure> {
    let folder = &arguments.folder.config;
    let mut environment = Environment::of_process();
    if let Some(port) = arguments.port {
        environment = environment.with("OPENCLAW_SERVER__PORT", port.to_string());
    }
    let config = config::load(folder, &environment).map_err(Failure::usage)?.config;
    let Some(token) = config.api.tokens.first() else {
        return Err(Failure::usage(format!(
            "`openclaw send` asks the running node, which needs a token: set `api.tokens` in {}",
            folder.join("config.yaml").display()
        )));
    };
    let address = address(&config)?;
    let mut body = json!({ "to": arguments.to, "msg_type": "text", "content": { "text": arguments.text } });
    match (&arguments.bot, &arguments.pool) {
        (Some(bot), _) => body["bot"] = json!(bot),
        (None, pool) => body["pool"] = json!(pool),
    }
    let client = reqwest::Client::builder()
        .timeout(PATIENCE)
        // The node is this machine's, or as near.
        .no_proxy()
        .build()
        .map_err(|error| anyhow::anyhow!("no HTTP client: {error}"))?;
    let mut request = client
        .post(format!("http://{address}/v1/messages"))
        .bearer_auth(token.expose())
        .json(&body);
    if let Some(key) = &arguments.idempotency_key {
        request = request.header("Idempotency-Key", key);
    }
    let unreachable = |error: reqwest::Error| {
        let role = "is `openclaw run` or `openclaw ingest` running with this folder?";
        Failure::unreachable(format!("no node answers at {address} ({error}): {role}"))
    };
    let answer = request.send().await.map_err(unreachable)?;
    let status = answer.status().as_u16();
    let text = answer.text().await.map_err(unreachable)?;
    let answer: Value = serde_json::from_str(&text).unwrap_or_default();
    match (status, answer["id"].as_str()) {
        (202, Some(id)) if arguments.json => print::line(&json!({ "id": id }).to_string()),
        (202, Some(id)) => print::line(&format!("queued as {id}")),
        _ => return Err(refused(status, &answer)),
    }
    Ok(())
}

/// Where the folder's node listens, as seen from this machine.
fn address(config: &Config) -> Result<SocketAddr, Failure> {
    let host = match config.server.host {
        IpAddr::V4(host) if host.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(host) if host.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        host => host,
    };
    match config.server.port {
        0 => Err(Failure::usage(
            "`server.port` is 0, so the node's port is not known: give --port",
        )),
        port => Ok(SocketAddr::new(host, port)),
    }
}

/// 64 when the request is at fault, 69 when the node cannot take it now, 70 when nobody can say.
fn refused(status: u16, answer: &Value) -> Failure {
    let message = answer["error"]["message"]
        .as_str()
        .unwrap_or("an answer nobody expects");
    let sentence = format!("the node answers {status}: {message}");
    match status {
        400..=499 => Failure::usage(sentence),
        503 => Failure::unreachable(sentence),
        _ => anyhow::anyhow!(sentence).into(),
    }
}
