//! What every role does before it starts, in this order: read the whole configuration, start the log, open the sockets,
//! open the backends. Whatever is wrong is said before anything runs.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;

use openclaw_backends::{BackendError, Seams};
use openclaw_common::bot::Bots;
use openclaw_common::config::{self, Backend, Config, Environment, Loaded};
use openclaw_common::health::{self, Health, Need};
use openclaw_common::queue::Link;
use openclaw_common::seal::KeyRing;
use openclaw_common::serve::{self, Limits};
use openclaw_common::store::Store;
use openclaw_common::telemetry;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::cli;
use crate::exit::Failure;
use crate::queues;

/// A started node: everything a role is made of.
pub(crate) struct Node {
    pub(crate) config: Arc<Config>,
    pub(crate) bots: Bots,
    pub(crate) seams: Seams,
    pub(crate) keys: Arc<KeyRing>,
    pub(crate) health: Health,
    /// Unique a process: host and process id.
    pub(crate) id: String,
    /// Health reports, metrics and the folder watcher run in the background until this is cancelled.
    pub(crate) background: CancellationToken,
    pub(crate) tasks: TaskTracker,
}

/// Reads the configuration folder; every mistake at once.
pub(crate) fn load(folder: &Path) -> Result<Loaded, Failure> {
    config::load(folder, &Environment::of_process()).map_err(Failure::usage)
}

/// Which data folder or address cannot be used, and whose fault it is.
pub(crate) fn backend_failure(error: BackendError) -> Failure {
    match error {
        BackendError::Store(error) => Failure::unreachable(error),
        error => Failure::usage(error),
    }
}

/// Starts a node for `role` from its folder and opens its socket; `distributed` roles need servers that several processes
/// share.
pub(crate) async fn start(
    arguments: &cli::Node,
    role: &'static str,
    distributed: bool,
) -> Result<(Node, TcpListener), Failure> {
    let folder = &arguments.folder.config;
    let environment = environment(arguments);
    let loaded = config::load(folder, &environment).map_err(Failure::usage)?;
    if distributed && matches!(loaded.config.backend, Backend::Embedded { .. }) {
        return Err(Failure::usage(format!(
            "`openclaw {role}` needs `backend.distributed` in {}: the embedded backend lives inside one process, use `openclaw run`",
            folder.join("config.yaml").display()
        )));
    }
    telemetry::init_logs(&loaded.config.log, &instance()).map_err(Failure::usage)?;
    for sentence in loaded.warnings.iter().chain(&loaded.not_yet) {
        tracing::warn!("{sentence}");
    }
    let (background, tasks) = (CancellationToken::new(), TaskTracker::new());
    let (bots, following) = config::follow(&loaded, environment, background.clone());
    let config = Arc::new(loaded.config);
    let listener = bind(config.server.host, config.server.port, "server.port", "--port")?;
    let node = Node::open(config, bots, background, tasks).await?;
    // Not before: what cannot start has nothing to follow.
    node.tasks.spawn(following);
    tracing::info!(
        role,
        address = %address(&listener),
        bots = node.bots.now().len(),
        backend = node.seams.names.queue,
        version = env!("CARGO_PKG_VERSION"),
        "started"
    );
    Ok((node, listener))
}

impl Node {
    /// Opens the metrics port and the backends of a configuration.
    pub(crate) async fn open(
        config: Arc<Config>,
        bots: Bots,
        background: CancellationToken,
        tasks: TaskTracker,
    ) -> Result<Self, Failure> {
        telemetry::install();
        let keys = match &config.encryption {
            Some(encryption) => KeyRing::new(encryption).map_err(Failure::usage)?,
            None => KeyRing::default(),
        };
        let monitoring = &config.monitoring;
        if monitoring.metrics_enable {
            let port = monitoring.metrics_port;
            let listener = bind(config.server.host, port, "monitoring.metrics.port", "--metrics-port")?;
            let router = health::metrics_router(monitoring);
            tasks.spawn(serve::serve(listener, router, Limits::default(), background.clone()));
        }
        let seams = openclaw_backends::open(&config.backend, &config.database, &instance())
            .await
            .map_err(backend_failure)?;
        let health = Health::new();
        let (observed, interval, stop) = (health.clone(), monitoring.health_interval, background.clone());
        tasks.spawn(async move { observed.observe(interval, stop).await });
        Ok(Self {
            config,
            bots,
            seams,
            keys: Arc::new(keys),
            health,
            id: instance(),
            background,
            tasks,
        })
    }

    /// Reports the queue (both ways), the store and the cache as `needs` says.
    pub(crate) fn watch_dependencies(&self, needs: Needs) {
        let Seams {
            queue,
            store,
            cache,
            names,
            ..
        } = &self.seams;
        if needs.publishes {
            self.health.add_link(names.queue, Need::Required, queue.link());
            let (state, prepared) = watch::channel(Link::Connecting);
            self.health.add_link(names.queue, Need::Required, prepared);
            let preparing = queues::prepare(queue.clone(), self.bots.clone(), state);
            self.tasks
                .spawn(self.background.clone().run_until_cancelled_owned(preparing));
        }
        if needs.works {
            self.health.add_link(names.queue, Need::Required, queue.consume_link());
            let store = store.clone();
            self.health.add_probe(names.store, Need::Required, move || {
                let store = store.clone();
                async move { store.ready().await.map_err(|error| error.to_string()) }
            });
            let store = self.seams.store.clone();
            self.health.add_probe("feishu_quota", Need::Degradable, move || {
                let store = store.clone();
                async move { quota_left(store.as_ref()).await }
            });
        }
        let cache = cache.clone();
        self.health.add_probe(names.cache, Need::Degradable, move || {
            let cache = cache.clone();
            async move { cache.ping().await.map_err(|error| error.to_string()) }
        });
    }

    /// Ends what runs in the background.
    pub(crate) async fn finish(self) {
        self.background.cancel();
        self.tasks.close();
        self.tasks.wait().await;
        tracing::info!("stopped");
    }
}

/// What a role depends on.
#[derive(Clone, Copy)]
pub(crate) struct Needs {
    pub(crate) publishes: bool,
    pub(crate) works: bool,
}

/// Whether any tenant is stopped because its monthly calls are used up. It asks the Store, never Feishu: a health check must not
/// spend calls.
async fn quota_left(store: &dyn Store) -> Result<(), String> {
    // A database that does not answer is another dependency's news.
    let stopped = store.stopped_tenants().await.unwrap_or_default();
    let tenants: Vec<&str> = stopped.iter().map(|stopped| stopped.stop.tenant.as_str()).collect();
    match tenants.as_slice() {
        [] => Ok(()),
        tenants => Err(format!(
            "monthly calls used up, stopped until `openclaw quota resume`: {}",
            tenants.join(", ")
        )),
    }
}

fn bind(host: IpAddr, port: u16, key: &str, flag: &str) -> Result<TcpListener, Failure> {
    serve::listen(SocketAddr::new(host, port)).map_err(|error| {
        Failure::usage(format!(
            "cannot listen on {host}:{port} ({error}): set `{key}` or {flag} to a free port"
        ))
    })
}

/// The address a listener has; port 0 was a request, this is the answer.
pub(crate) fn address(listener: &TcpListener) -> String {
    listener
        .local_addr()
        .map_or_else(|error| error.to_string(), |address| address.to_string())
}

/// The flags are the same as their variables, so that the folder's follower sees the configuration that runs.
fn environment(arguments: &cli::Node) -> Environment {
    let flags = [
        ("OPENCLAW_SERVER__PORT", arguments.port),
        ("OPENCLAW_MONITORING__METRICS__PORT", arguments.metrics_port),
    ];
    flags
        .into_iter()
        .filter_map(|(name, port)| Some((name, port?)))
        .fold(Environment::of_process(), |environment, (name, port)| {
            environment.with(name, port.to_string())
        })
}

/// Unique a process: host and process id.
pub(crate) fn instance() -> String {
    format!("{}-{}", host(), std::process::id())
}

/// What this machine is called.
pub(crate) fn host() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    match host.trim() {
        "" => "openclaw".to_owned(),
        host => host.to_owned(),
    }
}
