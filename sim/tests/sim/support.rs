//! A served simulator, a client that speaks its API, and a receiver that answers pushes as told.

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::Path;
use axum::http::HeaderMap;
use axum::response::Response;
use axum::routing::post;
use bytes::Bytes;
use hyper::{Method, Request};
use openclaw_common::bot::Credentials;
use openclaw_common::secret::Secret;
use openclaw_sim::event::Recipient;
use openclaw_sim::push::{Answer, Client, ClientError};
use openclaw_sim::{Options, Sim, run};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_util::sync::{CancellationToken, DropGuard};

pub(crate) const APP: &str = "cli_one";

pub(crate) struct Running {
    pub(crate) sim: Sim,
    pub(crate) client: Client,
    _stop: DropGuard,
}

impl Running {
    pub(crate) async fn start(options: Options) -> Self {
        let sim = Sim::new(&options);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let stop = CancellationToken::new();
        tokio::spawn(run(sim.clone(), listener, stop.clone()));
        let client = client(&address);
        Self {
            sim,
            client,
            _stop: stop.drop_guard(),
        }
    }

    pub(crate) async fn token(&self, app: &str) -> String {
        let body = json!({"app_id": app, "app_secret": "s"});
        let answer = self
            .call(
                Method::POST,
                "/open-apis/auth/v3/tenant_access_token/internal",
                None,
                &body,
            )
            .await;
        answer.unwrap().json()["tenant_access_token"]
            .as_str()
            .unwrap()
            .to_owned()
    }

    pub(crate) async fn call(
        &self,
        method: Method,
        path: &str,
        token: Option<&str>,
        body: &Value,
    ) -> Result<Reply, ClientError> {
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header("content-type", "application/json");
        if let Some(token) = token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let request = request.body(Bytes::from(body.to_string())).unwrap();
        self.client.send(request).await.map(Reply)
    }

    pub(crate) async fn create(
        &self,
        token: &str,
        chat: &str,
        text: &str,
        uuid: Option<&str>,
    ) -> Result<Reply, ClientError> {
        let path = "/open-apis/im/v1/messages?receive_id_type=chat_id";
        self.call(Method::POST, path, Some(token), &text_body(Some(chat), text, uuid))
            .await
    }

    pub(crate) async fn reply(
        &self,
        token: &str,
        to: &str,
        text: &str,
        uuid: Option<&str>,
    ) -> Result<Reply, ClientError> {
        let path = format!("/open-apis/im/v1/messages/{to}/reply");
        self.call(Method::POST, &path, Some(token), &text_body(None, text, uuid))
            .await
    }
}

pub(crate) fn client(address: &str) -> Client {
    Client::new(address, 64, Duration::from_secs(2), Duration::from_secs(5)).unwrap()
}

pub(crate) fn text_body(receive_id: Option<&str>, text: &str, uuid: Option<&str>) -> Value {
    let mut body = json!({"msg_type": "text", "content": json!({"text": text}).to_string()});
    if let Some(id) = receive_id {
        body["receive_id"] = id.into();
    }
    if let Some(uuid) = uuid {
        body["uuid"] = uuid.into();
    }
    body
}

#[derive(Debug)]
pub(crate) struct Reply(pub(crate) Answer);

impl Reply {
    pub(crate) fn status(&self) -> u16 {
        self.0.status.as_u16()
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.0.body).unwrap()
    }

    pub(crate) fn code(&self) -> i64 {
        self.json()["code"].as_i64().unwrap()
    }

    pub(crate) fn message_id(&self) -> String {
        self.json()["data"]["message_id"].as_str().unwrap().to_owned()
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.0.headers[name].to_str().unwrap()
    }
}

pub(crate) fn recipient(bot: &str) -> Arc<Recipient> {
    Arc::new(Recipient {
        bot: bot.into(),
        credentials: Credentials {
            app_id: format!("cli_{bot}").into(),
            app_secret: Secret::new("s"),
            verification_token: Secret::new("vt"),
            encrypt_key: Some(Secret::new("key")),
        },
    })
}

/// A webhook that does whatever `handle` says with each request.
pub(crate) async fn receiver<Handle, Answering>(handle: Handle) -> (String, DropGuard)
where
    Handle: Fn(String, HeaderMap, Bytes) -> Answering + Clone + Send + Sync + 'static,
    Answering: Future<Output = Response> + Send,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let stop = CancellationToken::new();
    let until = stop.clone();
    let route = post(
        move |Path(bot): Path<String>, headers: HeaderMap, body: Bytes| async move { handle(bot, headers, body).await },
    );
    let router = Router::new().route("/webhook/{bot}", route);
    tokio::spawn(async move {
        tokio::select! {
            served = axum::serve(listener, router) => served.unwrap(),
            () = until.cancelled() => {}
        }
    });
    (address, stop.drop_guard())
}

/// The event inside a pushed body.
pub(crate) fn open(body: &[u8]) -> Value {
    let outer: Value = serde_json::from_slice(body).unwrap();
    match outer["encrypt"].as_str() {
        Some(sealed) => serde_json::from_slice(&openclaw_common::crypto::decrypt("key", sealed).unwrap()).unwrap(),
        None => outer,
    }
}

pub(crate) fn status(status: u16) -> Response {
    let mut response = Response::new("{}".into());
    *response.status_mut() = status.try_into().unwrap();
    response
}

/// Waits until `ready`, for at most five seconds.
pub(crate) async fn eventually(what: &str, mut ready: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(5);
    while !ready() {
        assert!(Instant::now() < deadline, "never happened: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}
