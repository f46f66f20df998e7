//! Liveness, readiness and the metrics endpoint of every role.
//!
//! * **Liveness** says that the process answers. It never looks at another server: a Redis outage must not restart the fleet.
//! * **Readiness** says whether work should come here: every required dependency answers and the process is not draining.
//!   What it reports is never older than one second: links are read, the rest is asked when the last answer is too old.
//! * The **log** hears of what an operator must act on: what is away for longer than it takes to come back by itself.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use axum::Json;
use axum::Router;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use futures_util::future::{BoxFuture, join_all};
use serde::Serialize;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::config::Monitoring;
use crate::queue::Link;
use crate::telemetry;

/// How long the answer of a probe is used. Together with [`PROBE_TIMEOUT`] it makes the promised second.
const FRESH: Duration = Duration::from_millis(500);
/// A dependency that takes longer counts as missing.
const PROBE_TIMEOUT: Duration = Duration::from_millis(500);
/// How often links are looked at for metrics and logs; it costs a read of a local value.
const LINK_INTERVAL: Duration = Duration::from_secs(1);
/// Whatever is back within this has healed by itself (recovery in `docs/performance.md`): a start, a reconnect, a fail-over.
const PATIENCE: Duration = Duration::from_secs(5);

/// What a missing dependency means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// No work without it: not ready.
    Required,
    /// Work goes on in a poorer way: ready, but degraded.
    Degradable,
}

/// The dependencies of this process and how they are. Cheap to clone.
#[derive(Clone, Default)]
pub struct Health(Arc<Inner>);

#[derive(Default)]
struct Inner {
    draining: AtomicBool,
    dependencies: RwLock<Vec<Arc<Dependency>>>,
    /// As last reported, to report changes only.
    reported: Mutex<BTreeMap<&'static str, Reported>>,
}

/// What is known of one name.
struct Reported {
    up: bool,
    since: Instant,
    /// What the log has said last.
    said: Option<bool>,
}

/// How a dependency is.
#[derive(Clone, Debug)]
enum Answer {
    Up,
    /// Not yet, as at every start.
    Coming,
    Down(String),
}

impl Answer {
    /// The worse of two, and the first of equals.
    fn and(self, other: Self) -> Self {
        match (&self, &other) {
            (Self::Up, _) | (Self::Coming, Self::Down(_)) => other,
            _ => self,
        }
    }
}

struct Dependency {
    name: &'static str,
    need: Need,
    source: Source,
}

enum Source {
    Link(watch::Receiver<Link>),
    Probe {
        check: Box<dyn Fn() -> BoxFuture<'static, Result<(), String>> + Send + Sync>,
        /// Held while the question is asked: everybody who needs the answer waits for the same one.
        last: tokio::sync::Mutex<Option<(Instant, Answer)>>,
    },
}

/// The body of `/readyz`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Status {
    /// Whether work should come here.
    pub ready: bool,
    /// Required dependencies that do not answer.
    pub missing: Vec<&'static str>,
    /// Other dependencies that do not answer.
    pub degraded: Vec<&'static str>,
    /// Present while the process is on its way out.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub draining: bool,
}

impl Health {
    /// No dependencies yet: ready.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a dependency whose state is known at any time. One name may be added several times: it is up when all are.
    pub fn add_link(&self, name: &'static str, need: Need, link: watch::Receiver<Link>) {
        self.add(name, need, Source::Link(link));
    }

    /// Adds a dependency that has to be asked; `check` answers with what is wrong.
    pub fn add_probe<F, A>(&self, name: &'static str, need: Need, check: F)
    where
        F: Fn() -> A + Send + Sync + 'static,
        A: Future<Output = Result<(), String>> + Send + 'static,
    {
        let source = Source::Probe {
            check: Box::new(move || Box::pin(check())),
            last: tokio::sync::Mutex::new(None),
        };
        self.add(name, need, source);
    }

    fn add(&self, name: &'static str, need: Need, source: Source) {
        let dependency = Arc::new(Dependency { name, need, source });
        let mut dependencies = self.0.dependencies.write().unwrap_or_else(PoisonError::into_inner);
        dependencies.push(dependency);
    }

    /// From now on not ready: the process stops soon. Cannot be undone.
    pub fn drain(&self) {
        self.0.draining.store(true, Ordering::Release);
    }

    /// How things are, at most one second ago.
    pub async fn status(&self) -> Status {
        self.look(FRESH).await
    }

    /// Keeps metrics and the log up to date until `shutdown`: links every second, probes every `interval`.
    pub async fn observe(&self, interval: Duration, shutdown: CancellationToken) {
        let mut tick = tokio::time::interval(LINK_INTERVAL.min(interval));
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        while shutdown.run_until_cancelled(tick.tick()).await.is_some() {
            self.look(interval).await;
        }
    }

    async fn look(&self, fresh: Duration) -> Status {
        let dependencies = self
            .0
            .dependencies
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let answers = join_all(dependencies.iter().map(|dependency| dependency.ask(fresh))).await;

        let mut by_name: BTreeMap<&'static str, (Need, Answer)> = BTreeMap::new();
        for (dependency, answer) in dependencies.iter().zip(answers) {
            let (mut need, before) = by_name.remove(dependency.name).unwrap_or((dependency.need, Answer::Up));
            if dependency.need == Need::Required {
                need = Need::Required;
            }
            by_name.insert(dependency.name, (need, before.and(answer)));
        }
        let mut status = Status {
            draining: self.0.draining.load(Ordering::Acquire),
            ..Status::default()
        };
        for (name, (need, answer)) in by_name {
            self.report(name, &answer);
            match (need, answer) {
                (_, Answer::Up) => {}
                (Need::Required, _) => status.missing.push(name),
                (Need::Degradable, _) => status.degraded.push(name),
            }
        }
        status.ready = status.missing.is_empty() && !status.draining;
        status
    }

    fn report(&self, name: &'static str, answer: &Answer) {
        let (now, up) = (Instant::now(), matches!(answer, Answer::Up));
        let mut reported = self.0.reported.lock().unwrap_or_else(PoisonError::into_inner);
        let known = match reported.entry(name) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(new) => {
                telemetry::DEPENDENCY_UP.set(name, f64::from(u8::from(up)));
                new.insert(Reported {
                    up,
                    since: now,
                    said: None,
                })
            }
        };
        if known.up != up {
            telemetry::DEPENDENCY_UP.set(name, f64::from(u8::from(up)));
            (known.up, known.since) = (up, now);
        }
        if known.said == Some(up) {
            return;
        }
        match answer {
            Answer::Up => tracing::info!(dependency = name, "{name} answers"),
            Answer::Down(reason) if now.duration_since(known.since) >= PATIENCE => {
                tracing::error!(dependency = name, reason, "{name} does not answer");
            }
            Answer::Down(_) | Answer::Coming => return,
        }
        known.said = Some(up);
    }
}

impl Dependency {
    async fn ask(&self, fresh: Duration) -> Answer {
        match &self.source {
            Source::Link(link) => match &*link.borrow() {
                Link::Up => Answer::Up,
                Link::Connecting => Answer::Coming,
                Link::Blocked(reason) | Link::Down(reason) => Answer::Down(reason.clone()),
            },
            Source::Probe { check, last } => {
                let mut last = last.lock().await;
                let now = Instant::now();
                if let Some((at, answer)) = &*last {
                    // What is away is asked again soon: that it is back is news.
                    let fresh = match answer {
                        Answer::Up => fresh,
                        Answer::Coming | Answer::Down(_) => fresh.min(LINK_INTERVAL),
                    };
                    if now.duration_since(*at) < fresh {
                        return answer.clone();
                    }
                }
                let answer = tokio::time::timeout(PROBE_TIMEOUT, check())
                    .await
                    .unwrap_or_else(|_| Err(format!("no answer within {} ms", PROBE_TIMEOUT.as_millis())));
                let answer = answer.map_or_else(Answer::Down, |()| Answer::Up);
                *last = Some((now, answer.clone()));
                answer
            }
        }
    }
}

/// `GET {health path}` and `GET /readyz`, for the port of a role.
pub fn health_routes(health: &Health, monitoring: &Monitoring) -> Router {
    let health = health.clone();
    let readiness = get(move || async move {
        let status = health.status().await;
        let code = if status.ready {
            StatusCode::OK
        } else {
            StatusCode::SERVICE_UNAVAILABLE
        };
        (code, Json(status))
    });
    let router = Router::new().without_v07_checks().route("/readyz", readiness);
    match literal(&monitoring.health_path).as_str() {
        "/readyz" => router,
        liveness => router.route(liveness, get(|| async { Json(serde_json::json!({ "status": "ok" })) })),
    }
}

/// `GET {metrics path}`, for the metrics port of a process.
pub fn metrics_router(monitoring: &Monitoring) -> Router {
    telemetry::install();
    let page = || async {
        let content_type = (header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8");
        ([content_type], telemetry::render()).into_response()
    };
    Router::new()
        .without_v07_checks()
        .route(&literal(&monitoring.metrics_path), get(page))
}

/// A configured path is one path, whatever characters the router gives a meaning.
fn literal(path: &str) -> String {
    let path = path.trim_start_matches('/').replace('{', "{{").replace('}', "}}");
    format!("/{path}")
}

#[cfg(test)]
mod tests;
