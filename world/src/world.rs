//! A whole world for one test: configuration folder, servers of its own, a simulated Feishu, and the judge.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use openclaw_common::bot::Credentials;
use openclaw_common::secret::Secret;
use openclaw_common::serve;
use openclaw_sim::check::{self, Expectations, Report};
use openclaw_sim::event::{Recipient, Workload};
use openclaw_sim::proxy::Proxy;
use openclaw_sim::push::{PushOptions, Pusher};
use openclaw_sim::{Options, Sim};
use tempfile::TempDir;
use testkit::{Database, PgBouncer, PostgresProcess, RabbitNode, RedisProcess, Servers, Vhost};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::process::Process;

/// Which servers a world stands on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// One process on SQLite.
    Embedded,
    /// RabbitMQ, Redis and PostgreSQL.
    Distributed,
}

/// The servers of a distributed world, and the proxies on the way to them.
pub struct Shared {
    /// The broker.
    pub rabbitmq: Vhost,
    /// The cache.
    pub redis: RedisProcess,
    /// The database.
    pub database: Database,
    /// How the processes reach them.
    pub ways: Ways,
    /// The broker's process when it is this world's own.
    pub node: Option<RabbitNode>,
    /// The database's process when it is this world's own.
    pub postgres: Option<PostgresProcess>,
    /// What stands before the database, when the way leads through it.
    pub bouncer: Option<PgBouncer>,
}

/// One proxy before each server: everything the processes say and hear passes here.
pub struct Ways {
    /// To RabbitMQ.
    pub amqp: Proxy,
    /// To Redis.
    pub redis: Proxy,
    /// To PostgreSQL.
    pub database: Proxy,
}

impl Shared {
    async fn new(node: Option<RabbitNode>, postgres: Option<PostgresProcess>) -> Self {
        let rabbitmq = match &node {
            Some(node) => node.vhost().await,
            None => Servers::rabbitmq().await,
        };
        let database = match &postgres {
            Some(postgres) => postgres.database().await,
            None => Servers::postgres().await,
        };
        let redis = Servers::redis().await;
        let way = |url: &str| Proxy::start(address(url)).unwrap();
        Self {
            ways: Ways {
                amqp: way(rabbitmq.amqp_url()),
                redis: way(&redis.url()),
                database: way(database.url()),
            },
            rabbitmq,
            redis,
            database,
            node,
            postgres,
            bouncer: None,
        }
    }

    /// The server's URL, by way of its proxy.
    fn by_way(url: &str, way: &Proxy) -> String {
        url.replace(&address(url).to_string(), &way.address().to_string())
    }

    /// The `backend` section; `direct`: past the proxies, for what is measured.
    fn section(&self, direct: bool) -> String {
        let url = |url: &str, way: &Proxy| {
            if direct { url.to_owned() } else { Self::by_way(url, way) }
        };
        format!(
            "backend:\n  distributed:\n    amqp_url: \"{}\"\n    redis_url: \"{}\"\n    database_url: \"{}\"\n",
            url(self.rabbitmq.amqp_url(), &self.ways.amqp),
            url(&self.redis.url(), &self.ways.redis),
            url(self.database.url(), &self.ways.database)
        )
    }
}

fn address(url: &str) -> SocketAddr {
    let rest = url.split_once("://").unwrap().1;
    let authority = rest.split('/').next().unwrap();
    authority.rsplit('@').next().unwrap().parse().unwrap()
}

/// Configuration folder, servers, platform and judge of one run.
pub struct World {
    folder: TempDir,
    /// The simulated Feishu.
    pub sim: Sim,
    feishu: SocketAddr,
    /// The servers; none when embedded.
    pub shared: Option<Shared>,
    /// The bots it began with.
    pub bots: Vec<Arc<Recipient>>,
    /// Ends the platform and the pushers; cancelled when this is dropped.
    pub stop: CancellationToken,
    _stop: DropGuard,
}

impl World {
    /// `bots` bots named `bot0`, …, on servers of their own, with `extra` lines at the end of the node's configuration.
    pub async fn new(kind: Kind, bots: usize, extra: &str) -> Self {
        let shared = match kind {
            Kind::Embedded => None,
            Kind::Distributed => Some(Shared::new(None, None).await),
        };
        Self::on(shared, bots, extra).await
    }

    /// Distributed, on a broker process of its own, which may be stopped.
    pub async fn with_broker(bots: usize, extra: &str) -> Self {
        let node = Servers::rabbitmq_node().await;
        Self::on(Some(Shared::new(Some(node), None).await), bots, extra).await
    }

    /// Distributed, on processes of its own throughout: any server may be stopped and killed.
    pub async fn with_servers(bots: usize, extra: &str) -> Self {
        let (node, postgres) = tokio::join!(Servers::rabbitmq_node(), Servers::postgres_process());
        Self::on(Some(Shared::new(Some(node), Some(postgres)).await), bots, extra).await
    }

    /// Distributed, on a PostgreSQL of its own, which may be failed over.
    pub async fn with_postgres(bots: usize, extra: &str) -> Self {
        let postgres = Servers::postgres_process().await;
        Self::on(Some(Shared::new(None, Some(postgres)).await), bots, extra).await
    }

    /// Distributed, and the way to PostgreSQL leads through a PgBouncer with these settings.
    pub async fn with_bouncer(bots: usize, settings: &[&str]) -> Self {
        let mut shared = Shared::new(None, None).await;
        let bouncer = PgBouncer::start(shared.database.address(), settings).await;
        shared.ways.database.redirect(bouncer.address());
        shared.bouncer = Some(bouncer);
        Self::on(Some(shared), bots, "").await
    }

    async fn on(shared: Option<Shared>, bots: usize, extra: &str) -> Self {
        Self::built(shared, bots, extra, false, &Options::default()).await
    }

    /// For measuring: the processes reach their servers without a proxy between, and the platform is as `options` say.
    pub async fn direct(kind: Kind, bots: usize, extra: &str, options: &Options) -> Self {
        let shared = match kind {
            Kind::Embedded => None,
            Kind::Distributed => Some(Shared::new(None, None).await),
        };
        Self::built(shared, bots, extra, true, options).await
    }

    async fn built(shared: Option<Shared>, bots: usize, extra: &str, direct: bool, options: &Options) -> Self {
        let listener = serve::listen((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        let feishu = listener.local_addr().unwrap();
        let (sim, stop) = (Sim::new(options), CancellationToken::new());
        tokio::spawn(openclaw_sim::run(sim.clone(), listener, stop.clone()));
        let mut world = Self {
            folder: tempfile::tempdir().unwrap(),
            sim,
            feishu,
            shared,
            bots: Vec::new(),
            _stop: stop.clone().drop_guard(),
            stop,
        };
        world.write("config.yaml", &world.node(extra, direct));
        for number in 0..bots {
            let recipient = world.add_bot(&format!("bot{number}"));
            world.bots.push(recipient);
        }
        if world.shared.is_some() {
            let migrated = crate::process::openclaw(&["migrate", "-c", world.path().to_str().unwrap()])
                .status()
                .unwrap();
            assert!(migrated.success());
        }
        world
    }

    fn node(&self, extra: &str, direct: bool) -> String {
        let backend = self.shared.as_ref().map(|shared| shared.section(direct));
        format!(
            "server: {{ host: 127.0.0.1 }}\nfeishu: {{ base_url: \"http://{}\" }}\nhandler: {{ kind: echo }}\n{}{extra}",
            self.feishu,
            backend.unwrap_or_default()
        )
    }

    /// Writes the bot's folder.
    pub fn add_bot(&self, name: &str) -> Arc<Recipient> {
        let app_id = format!("cli_{name}");
        self.write(
            &format!("{name}/credentials.yaml"),
            &format!(
                "app_id: {app_id}\napp_secret: secret-of-{name}\nverification_token: token-of-{name}\nencrypt_key: key-of-{name}\n"
            ),
        );
        Arc::new(Recipient {
            bot: name.into(),
            credentials: Credentials {
                app_id: app_id.into(),
                app_secret: Secret::new(format!("secret-of-{name}")),
                verification_token: Secret::new(format!("token-of-{name}")),
                encrypt_key: Some(Secret::new(format!("key-of-{name}"))),
            },
        })
    }

    /// Writes a file of the configuration folder, as a whole.
    pub fn write(&self, name: &str, text: &str) {
        let path = self.folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        // As a whole, the way deployments do it: a watcher never sees half of it.
        let draft = path.with_extension("draft");
        fs::write(&draft, text).unwrap();
        fs::rename(draft, path).unwrap();
    }

    /// The configuration folder.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// A file of the configuration folder.
    pub fn join(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Every role this world needs, on `workers` workers; the ingest (or only) process first.
    pub async fn start(&self, workers: usize) -> Vec<Process> {
        if self.shared.is_none() {
            return vec![Process::start("run", self.path()).await];
        }
        let mut processes = vec![Process::start("ingest", self.path()).await];
        for _ in 0..workers {
            processes.push(Process::start("worker", self.path()).await);
        }
        processes
    }

    /// Pushes to these processes.
    pub fn pusher(&self, targets: &[&Process], options: PushOptions) -> Pusher {
        let options = PushOptions {
            targets: targets.iter().map(|process| process.url()).collect(),
            ..options
        };
        Pusher::new(options, Some(self.sim.clone()), self.stop.clone()).unwrap()
    }

    /// Texts for every bot, in turn over `chats` chats each.
    pub fn workload(&self, chats: u32) -> Workload {
        Workload::new(self.bots.clone(), chats, 16)
    }

    /// Waits until everything that is owed has been answered, as long as answers keep coming.
    pub async fn answered(&self, pusher: &Pusher) {
        self.answered_but(pusher, 0).await;
    }

    /// The same, where so many are to die.
    pub async fn answered_but(&self, pusher: &Pusher, dead: u64) {
        let mut last = (u64::MAX, Instant::now());
        loop {
            let owed = pusher.log(|log| log.totals().owed);
            let replied = self.sim.ledger(|ledger| ledger.totals().replied);
            if replied + dead >= owed {
                return;
            }
            if replied != last.0 {
                last = (replied, Instant::now());
            }
            if last.1.elapsed() > Duration::from_secs(25) {
                let found = self.found().await;
                panic!("{replied} of {owed} answered, and no more are coming; {found}");
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Where events are, for the reader of a failure: rows by state and bot, messages ready by queue.
    async fn found(&self) -> String {
        let Some(shared) = &self.shared else {
            return String::new();
        };
        let pool = sqlx::PgPool::connect(shared.database.url()).await.unwrap();
        let rows: Vec<(String, String, i64)> =
            sqlx::query_as("SELECT bot, state, count(*) FROM events GROUP BY 1, 2 ORDER BY 1, 2")
                .fetch_all(&pool)
                .await
                .unwrap();
        pool.close().await;
        format!("rows {rows:?}, ready {:?}", self.queues().await)
    }

    /// The judge's report.
    pub fn report(&self, pusher: &Pusher, expected: &Expectations) -> Report {
        let forgotten = self.sim.forgotten_uuids();
        pusher.log(|log| self.sim.ledger(|ledger| check::check(log, ledger, forgotten, expected)))
    }

    /// The same; fails the test unless every promise was kept.
    pub fn judge(&self, pusher: &Pusher, expected: &Expectations) -> Report {
        let report = self.report(pusher, expected);
        assert!(report.passed(), "{report}");
        assert!(report.incomplete.is_none(), "{report}");
        report
    }

    /// Waits until the Store holds exactly `events` rows, all of them finished.
    pub async fn finished(&self, events: u64) {
        let Some(shared) = &self.shared else { return };
        let pool = sqlx::PgPool::connect(shared.database.url()).await.unwrap();
        let all_done = vec![("done".to_owned(), i64::try_from(events).unwrap())];
        let begun = Instant::now();
        loop {
            let states: Vec<(String, i64)> = sqlx::query_as("SELECT state, count(*) FROM events GROUP BY state")
                .fetch_all(&pool)
                .await
                .unwrap();
            if states == all_done {
                break;
            }
            assert!(
                begun.elapsed() < Duration::from_secs(10),
                "not {events} finished rows and no other: {states:?}"
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        pool.close().await;
    }
}
