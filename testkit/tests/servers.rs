//! Each promise of [`testkit::Servers`], on the real servers.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use lapin::options::{BasicConsumeOptions, BasicPublishOptions, ConfirmSelectOptions, QueueDeclareOptions};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties};
use redis::AsyncCommands as _;
use serde_json::json;
use sqlx::{Connection as _, PgConnection};
use testkit::{RedisProcess, Servers, Vhost, eventually};

const SOON: Duration = Duration::from_secs(10);

async fn connect(vhost: &Vhost) -> Connection {
    Connection::connect(vhost.amqp_url(), ConnectionProperties::default())
        .await
        .unwrap()
}

async fn publish(channel: &Channel, queue: &str) -> lapin::Confirmation {
    let options = BasicPublishOptions::default();
    let confirm = channel
        .basic_publish("".into(), queue.into(), options, b"body", BasicProperties::default())
        .await;
    confirm.unwrap().await.unwrap()
}

async fn channel_with_queue(connection: &Connection, queue: &str) -> Channel {
    let channel = connection.create_channel().await.unwrap();
    channel.confirm_select(ConfirmSelectOptions::default()).await.unwrap();
    let mut arguments = FieldTable::default();
    arguments.insert(
        "x-queue-type".into(),
        lapin::types::AMQPValue::LongString("quorum".into()),
    );
    let durable = QueueDeclareOptions {
        durable: true,
        ..QueueDeclareOptions::default()
    };
    channel.queue_declare(queue.into(), durable, arguments).await.unwrap();
    channel
}

#[tokio::test]
async fn a_vhost_is_empty_and_its_depth_is_exact() {
    let (mine, other) = (Servers::rabbitmq().await, Servers::rabbitmq().await);
    assert_eq!(mine.depth("orders").await, None);
    let connection = connect(&mine).await;
    let channel = channel_with_queue(&connection, "orders").await;
    for _ in 0..3 {
        publish(&channel, "orders").await;
    }
    assert_eq!(mine.depth("orders").await, Some(3));
    assert_eq!(
        other.depth("orders").await,
        None,
        "another test's virtual host has the queue too"
    );
}

#[tokio::test]
async fn closed_connections_are_really_closed() {
    let vhost = Servers::rabbitmq().await;
    let connection = connect(&vhost).await;
    eventually("the broker closed the connection", SOON, async || {
        vhost.close_connections().await > 0
    })
    .await;
    eventually("lapin saw it", SOON, async || !connection.status().connected()).await;
}

#[tokio::test]
async fn a_deleted_queue_ends_its_consumer() {
    let vhost = Servers::rabbitmq().await;
    let connection = connect(&vhost).await;
    let channel = channel_with_queue(&connection, "orders").await;
    let consume = BasicConsumeOptions::default();
    let mut consumer = channel
        .basic_consume("orders".into(), "".into(), consume, FieldTable::default())
        .await
        .unwrap();
    vhost.delete_queue("orders").await;
    let next = tokio::time::timeout(SOON, consumer.next()).await.unwrap();
    assert!(next.is_none_or(|delivery| delivery.is_err()));
    assert_eq!(vhost.depth("orders").await, None);
}

#[tokio::test]
async fn a_policy_takes_effect() {
    let vhost = Servers::rabbitmq().await;
    let connection = connect(&vhost).await;
    let channel = channel_with_queue(&connection, "orders").await;
    vhost
        .set_policy(
            "small",
            "^orders$",
            json!({ "max-length": 1, "overflow": "reject-publish" }),
        )
        .await;
    eventually("a publish beyond the length is refused", SOON, async || {
        matches!(publish(&channel, "orders").await, lapin::Confirmation::Nack(_))
    })
    .await;
}

#[tokio::test]
async fn a_dropped_vhost_is_gone() {
    let vhost = Servers::rabbitmq().await;
    let url = vhost.amqp_url().to_owned();
    drop(vhost);
    assert!(
        Connection::connect(&url, ConnectionProperties::default())
            .await
            .is_err()
    );
}

async fn redis(server: &RedisProcess) -> redis::RedisResult<redis::aio::MultiplexedConnection> {
    redis::Client::open(server.url())?
        .get_multiplexed_async_connection()
        .await
}

#[tokio::test]
async fn a_killed_redis_refuses_and_a_restarted_one_remembers() {
    let mut server = Servers::redis().await;
    let mut connection = redis(&server).await.unwrap();
    let _: () = connection.set("name", "value").await.unwrap();
    server.kill();
    assert!(redis(&server).await.is_err());
    server.restart().await;
    assert_eq!(
        redis(&server).await.unwrap().get::<_, String>("name").await.unwrap(),
        "value"
    );
    server.restart_empty().await;
    assert_eq!(
        redis(&server)
            .await
            .unwrap()
            .get::<_, Option<String>>("name")
            .await
            .unwrap(),
        None
    );
}

#[tokio::test]
async fn a_paused_redis_hangs_until_it_is_resumed() {
    let server = Servers::redis().await;
    let mut connection = redis(&server).await.unwrap();
    server.pause();
    let ping = tokio::time::timeout(Duration::from_millis(200), connection.ping::<String>()).await;
    assert!(ping.is_err(), "a paused Redis answered");
    server.resume();
    eventually("it answers", SOON, async || connection.ping::<String>().await.is_ok()).await;
}

#[tokio::test]
async fn a_dropped_redis_is_gone() {
    let server = Servers::redis().await;
    let address = server.url().replace("redis://", "");
    drop(server);
    assert!(tokio::net::TcpStream::connect(address).await.is_err());
}

#[tokio::test]
async fn a_database_is_empty_its_own_and_dropped_under_open_connections() {
    let (mine, other) = (Servers::postgres().await, Servers::postgres().await);
    let mut connection = PgConnection::connect(mine.url()).await.unwrap();
    sqlx::query("CREATE TABLE notes (text text)")
        .execute(&mut connection)
        .await
        .unwrap();
    let mut elsewhere = PgConnection::connect(other.url()).await.unwrap();
    assert!(
        sqlx::query("SELECT * FROM notes")
            .execute(&mut elsewhere)
            .await
            .is_err()
    );
    let url = mine.url().to_owned();
    drop(mine);
    assert!(PgConnection::connect(&url).await.is_err());
}

#[tokio::test]
async fn cut_database_connections_fail_and_new_ones_work() {
    let database = Servers::postgres().await;
    let mut connection = PgConnection::connect(database.url()).await.unwrap();
    database.cut_connections().await;
    assert!(sqlx::query("SELECT 1").execute(&mut connection).await.is_err());
    let mut again = PgConnection::connect(database.url()).await.unwrap();
    sqlx::query("SELECT 1").execute(&mut again).await.unwrap();
}

#[tokio::test]
#[should_panic(expected = "not within 50ms: pigs fly")]
async fn eventually_gives_up_at_its_limit() {
    let begin = Instant::now();
    eventually("pigs fly", Duration::from_millis(50), async || {
        assert!(begin.elapsed() < SOON, "it goes on past its limit");
        false
    })
    .await;
}

#[tokio::test]
async fn a_killed_postgres_refuses_and_a_restarted_one_remembers_what_was_committed() {
    let mut server = Servers::postgres_process().await;
    let database = server.database().await;
    let run = async |statement: &'static str| {
        let mut connection = PgConnection::connect(database.url()).await?;
        sqlx::query(statement).execute(&mut connection).await
    };
    run("CREATE TABLE kept (number int)").await.unwrap();
    for kill in [true, false] {
        run("INSERT INTO kept VALUES (1)").await.unwrap();
        match kill {
            true => server.kill(),
            false => server.stop().await,
        }
        assert!(run("SELECT 1").await.is_err());
        server.restart().await;
    }
    let kept = run("SELECT * FROM kept").await.unwrap();
    assert_eq!(kept.rows_affected(), 2);
}
