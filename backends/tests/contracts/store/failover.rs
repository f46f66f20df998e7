//! A database that another server takes over behind its address, or that nobody may write.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use openclaw_common::store::{Intent, Store, StoreError};
use testkit::{Servers, eventually};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use super::world::{World, arrival, connect};

/// A store is to have found the new primary within this of its promotion.
const TAKEN_OVER: Duration = Duration::from_secs(5);

/// An address that leads to one server after another: open connections stay where they are.
struct Address {
    here: SocketAddr,
    leads_to: watch::Sender<SocketAddr>,
}

impl Address {
    async fn leading_to(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (leads_to, now) = watch::channel(server);
        let here = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                let server = *now.borrow();
                tokio::spawn(async move {
                    let mut server = TcpStream::connect(server).await?;
                    tokio::io::copy_bidirectional(&mut client, &mut server).await
                });
            }
        });
        Self { here, leads_to }
    }
}

async fn begin(store: &dyn Store, key: &str) -> Result<(), StoreError> {
    store.begin(&[arrival(key, "oc_1", Intent::Hold)]).await.map(drop)
}

/// Uses as many connections of the pool as it may have.
async fn crowd(store: &dyn Store, round: &str) -> Vec<Result<(), StoreError>> {
    let keys: Vec<_> = (0..40).map(|number| format!("om_{round}_{number}")).collect();
    futures_util::future::join_all(keys.iter().map(|key| begin(store, key))).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_leaves_a_primary_that_was_stood_down_for_the_promoted_standby() {
    let primary = Servers::postgres_process().await;
    let database = primary.database().await;
    let address = Address::leading_to(primary.address()).await;
    let url = database
        .url()
        .replace(&primary.address().to_string(), &address.here.to_string());
    let store = connect(&url);
    store.migrate().await.unwrap();
    let standby = primary.standby().await;
    for outcome in crowd(&store, "before").await {
        outcome.unwrap();
    }

    primary.stand_down().await;
    // Every connection still answers, and reads: that is not enough to be ready.
    eventually(
        "a read-only database is not ready",
        Duration::from_secs(1),
        async || store.ready().await.is_err(),
    )
    .await;
    let error = store.ready().await.unwrap_err().to_string();
    assert!(error.contains("read-only"), "{error}");
    for outcome in crowd(&store, "meanwhile").await {
        let error = outcome.unwrap_err();
        assert!(matches!(error, StoreError::ReadOnly), "{error:?}");
    }

    // The address leads to the standby before that is promoted.
    address.leads_to.send_replace(standby.address());
    let error = store.ready().await.unwrap_err().to_string();
    assert!(error.contains("standby"), "{error}");
    let promoted = Instant::now();
    standby.promote().await;
    eventually("the store is ready again", TAKEN_OVER, async || {
        store.ready().await.is_ok()
    })
    .await;
    // Not one of the pool's connections leads to the old primary any more.
    for outcome in crowd(&store, "after").await {
        outcome.unwrap();
    }
    assert!(promoted.elapsed() < TAKEN_OVER, "it took {:?}", promoted.elapsed());
}

/// What has no rights, or not the columns of today, an operator has to mend: no event is given up for it.
#[tokio::test(flavor = "multi_thread")]
async fn missing_rights_and_columns_are_no_fault_of_an_event() {
    let world = World::postgres().await;
    world.start("om_1").await;
    world
        .execute("ALTER TABLE events RENAME COLUMN priority TO other")
        .await;
    let error = begin(world.other().as_ref(), "om_2").await.unwrap_err();
    assert!(matches!(error, StoreError::Schema { .. }), "{error:?}");
    world
        .execute("ALTER TABLE events RENAME COLUMN other TO priority")
        .await;

    let role = testkit::unique_name();
    world.execute(&format!("CREATE ROLE {role} LOGIN")).await;
    let url = world
        .database()
        .unwrap()
        .url()
        .replace("postgres@", &format!("{role}@"));
    let error = begin(&connect(&url), "om_2").await.unwrap_err();
    world.execute(&format!("DROP ROLE {role}")).await;
    assert!(matches!(error, StoreError::Unavailable(_)), "{error:?}");
    assert!(error.to_string().contains("42501"), "{error}");
    world.start("om_2").await;
}
