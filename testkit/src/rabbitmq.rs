//! A virtual host of its own for each test, and what only the management API can do to it.

use std::time::Duration;

use lapin::options::QueueDeclareOptions;
use lapin::types::FieldTable;
use lapin::{Connection, ConnectionProperties};
use reqwest::{Client, Method, StatusCode};
use serde_json::{Value, json};

use crate::{addresses, cleanup, unique_name};

/// An empty RabbitMQ virtual host, deleted with this value together with its connections and queues.
#[derive(Debug)]
pub struct Vhost {
    name: String,
    amqp_url: String,
    api: Api,
}

impl Vhost {
    pub(crate) async fn create() -> Self {
        Self::create_on(&addresses::amqp(), &addresses::rabbitmq_api()).await
    }

    /// On the broker with these addresses.
    pub(crate) async fn create_on(amqp_url: &str, api_url: &str) -> Self {
        let name = unique_name();
        let api = Api::new(api_url);
        let (server, _default) = amqp_url
            .rsplit_once('/')
            .map(own_pair)
            .expect("the AMQP URL ends with /vhost");
        api.send(Method::PUT, &format!("vhosts/{name}"), Some(json!({})))
            .await
            .unwrap_or_else(|error| {
                panic!(
                    "RabbitMQ at {} gives no virtual host ({error}): run `./dev services up`",
                    api.address
                )
            });
        let all = json!({ "configure": ".*", "write": ".*", "read": ".*" });
        api.send(Method::PUT, &format!("permissions/{name}/{}", api.user), Some(all))
            .await
            .expect("permissions on the new virtual host");
        Self {
            amqp_url: format!("{server}/{name}"),
            name,
            api,
        }
    }

    /// `amqp://…/vhost`, for connections of the test's own.
    #[must_use]
    pub fn amqp_url(&self) -> &str {
        &self.amqp_url
    }

    /// Closes every connection to this virtual host that the broker lists, as an operator can, and says how many.
    /// A connection is listed at most 5 s after it was opened: repeat until the count is the expected one.
    ///
    /// # Panics
    /// When the broker does not answer.
    pub async fn close_connections(&self) -> usize {
        let listed = self
            .api
            .send(Method::GET, &format!("vhosts/{}/connections", self.name), None)
            .await;
        let listed = listed.expect("the list of connections");
        let mut closed = 0;
        for name in listed
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|connection| connection["name"].as_str())
        {
            // The name holds addresses and an arrow: `127.0.0.1:1 -> 127.0.0.1:2`.
            let name = name.replace(' ', "%20").replace('>', "%3E");
            match self
                .api
                .send(Method::DELETE, &format!("connections/{name}"), None)
                .await
            {
                Ok(_) => closed += 1,
                Err(Refused {
                    status: Some(StatusCode::NOT_FOUND),
                    ..
                }) => {}
                Err(error) => panic!("RabbitMQ does not close {name}: {error}"),
            }
        }
        closed
    }

    /// Messages ready for delivery in `queue` at this moment; `None` when there is no such queue.
    /// (Asked over AMQP: the management API's figure is up to 5 s old.)
    ///
    /// # Panics
    /// When the broker does not answer.
    pub async fn depth(&self, queue: &str) -> Option<u32> {
        let connection = Connection::connect(&self.amqp_url, ConnectionProperties::default()).await;
        let connection = connection.expect("a connection to the test's virtual host");
        let channel = connection.create_channel().await.expect("a channel");
        let passive = QueueDeclareOptions {
            passive: true,
            ..QueueDeclareOptions::default()
        };
        let declared = channel
            .queue_declare(queue.into(), passive, FieldTable::default())
            .await;
        let depth = declared.ok().map(|queue| queue.message_count());
        connection
            .close(200, "done".into())
            .await
            .expect("the connection closes");
        depth
    }

    /// Publishes one persistent message, as a stranger would; false when no queue got it.
    ///
    /// # Panics
    /// When the broker does not answer or has no such exchange.
    pub async fn publish(&self, exchange: &str, routing_key: &str, body: &str) -> bool {
        let message = json!({
            "properties": { "delivery_mode": 2 }, "routing_key": routing_key, "payload": body, "payload_encoding": "string",
        });
        let path = format!("exchanges/{}/{exchange}/publish", self.name);
        let answer = self.api.send(Method::POST, &path, Some(message)).await;
        answer.expect("the message is published")["routed"] == Value::Bool(true)
    }

    /// The prefetch of each consumer that is attached now.
    ///
    /// # Panics
    /// When the broker does not answer.
    pub async fn prefetches(&self) -> Vec<u64> {
        let path = format!("consumers/{}", self.name);
        let consumers = self
            .api
            .send(Method::GET, &path, None)
            .await
            .expect("the list of consumers");
        let prefetch = |consumer: &Value| consumer["prefetch_count"].as_u64();
        consumers
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(prefetch)
            .collect()
    }

    /// The version of the broker.
    ///
    /// # Panics
    /// When the broker does not answer.
    pub async fn version(&self) -> String {
        let overview = self.api.send(Method::GET, "overview", None).await;
        let version = &overview.expect("the broker's overview")["rabbitmq_version"];
        version.as_str().expect("a version").to_owned()
    }

    /// Everything that is declared here: `exchanges`, `queues`, `bindings`, each in the order of its names.
    ///
    /// # Panics
    /// When the broker does not answer.
    pub async fn definitions(&self) -> Value {
        let path = format!("definitions/{}", self.name);
        let mut definitions = self.api.send(Method::GET, &path, None).await.expect("the definitions");
        for kind in ["exchanges", "queues", "bindings"] {
            if let Some(all) = definitions[kind].as_array_mut() {
                all.sort_by_key(Value::to_string);
            }
        }
        let of = |kind: &str| definitions[kind].clone();
        json!({ "exchanges": of("exchanges"), "queues": of("queues"), "bindings": of("bindings") })
    }

    /// Declares `queue` as nobody here would: durable, and nothing else.
    ///
    /// # Panics
    /// When the broker does not answer or has such a queue with other properties.
    pub async fn declare_plain(&self, queue: &str) {
        let path = format!("queues/{}/{queue}", self.name);
        let durable = json!({ "durable": true });
        self.api
            .send(Method::PUT, &path, Some(durable))
            .await
            .expect("the queue is declared");
    }

    /// Deletes `queue` with its messages; consumers get a cancel from the broker.
    ///
    /// # Panics
    /// When the broker does not answer or has no such queue.
    pub async fn delete_queue(&self, queue: &str) {
        let path = format!("queues/{}/{queue}", self.name);
        self.api
            .send(Method::DELETE, &path, None)
            .await
            .expect("the queue is deleted");
    }

    /// Sets a policy, such as `{"max-length": 10}`, on the queues whose names match the regular expression `pattern`.
    /// It takes effect some moments later.
    ///
    /// # Panics
    /// When the broker refuses it.
    pub async fn set_policy(&self, name: &str, pattern: &str, definition: Value) {
        let policy = json!({ "pattern": pattern, "definition": definition, "apply-to": "queues" });
        let path = format!("policies/{}/{name}", self.name);
        self.api
            .send(Method::PUT, &path, Some(policy))
            .await
            .expect("the policy is set");
    }
}

impl Drop for Vhost {
    fn drop(&mut self) {
        let path = format!("vhosts/{}", self.name);
        let url = self.api.url.clone();
        cleanup::finish(format!("virtual host {}", self.name), async move {
            // A client of its own: the other one's connections belong to the test's runtime.
            Api::new(&url)
                .send(Method::DELETE, &path, None)
                .await
                .map(drop)
                .map_err(|error| error.to_string())
        });
    }
}

/// The management API.
#[derive(Debug)]
struct Api {
    client: Client,
    /// `http://user:password@host:port`
    url: String,
    /// `http://host:port`
    address: String,
    user: String,
    password: String,
}

/// Why the management API did not do it.
#[derive(Debug)]
struct Refused {
    /// The answer's status; `None` when there was no answer.
    status: Option<StatusCode>,
    text: String,
}

impl std::fmt::Display for Refused {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(&self.text)
    }
}

impl From<reqwest::Error> for Refused {
    fn from(error: reqwest::Error) -> Self {
        Self {
            status: None,
            text: error.to_string(),
        }
    }
}

impl Api {
    fn new(url: &str) -> Self {
        let (scheme, rest) = url.split_once("://").expect("the API's address begins with http://");
        let (login, place) = rest.split_once('@').expect("the API's address holds user:password@");
        let (user, password) = login
            .split_once(':')
            .map(own_pair)
            .expect("the API's address holds user:password@");
        // reqwest wants a TLS provider even for plain HTTP; an error means that one is installed already.
        rustls::crypto::ring::default_provider().install_default().ok();
        let client = Client::builder()
            .timeout(Duration::from_secs(10))
            .build()
            .expect("an HTTP client");
        Self {
            client,
            url: url.to_owned(),
            address: format!("{scheme}://{place}"),
            user,
            password,
        }
    }

    /// The answer's JSON; `null` when it has none.
    async fn send(&self, method: Method, path: &str, body: Option<Value>) -> Result<Value, Refused> {
        let mut request = self
            .client
            .request(method, format!("{}/api/{path}", self.address))
            .basic_auth(&self.user, Some(&self.password));
        if let Some(body) = body {
            request = request.json(&body);
        }
        let response = request.send().await?;
        let status = response.status();
        let text = response.text().await?;
        if !status.is_success() {
            return Err(Refused {
                status: Some(status),
                text: format!("{status}: {text}"),
            });
        }
        Ok(serde_json::from_str(&text).unwrap_or(Value::Null))
    }
}

fn own_pair((left, right): (&str, &str)) -> (String, String) {
    (left.to_owned(), right.to_owned())
}
