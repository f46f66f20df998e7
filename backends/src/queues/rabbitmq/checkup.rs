//! What `openclaw check` asks RabbitMQ: whether it lets us in, takes publishes, and has our queues as we declare them.

use std::pin::Pin;
use std::time::Duration;

use futures_util::{Stream, StreamExt};
use lapin::options::{BasicGetOptions, BasicPublishOptions, ConfirmSelectOptions, QueueDeclareOptions};
use lapin::protocol::{AMQPErrorKind, AMQPHardError};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties, ErrorKind, Event};
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::greeting::greeting;
use super::link::Broker;
use super::shape::Shape;
use super::topology;
use super::wire::Wire;
use openclaw_common::bot::BotId;
use openclaw_common::checkup::{Asked, Finding};
use openclaw_common::secret::Secret;

const RABBITMQ: &str = "rabbitmq";
/// For the broker's introduction, for the connection, and for each call.
const PATIENCE: Duration = Duration::from_secs(5);
/// A broker with an alarm says so at once to whoever publishes.
const ALARM: Duration = Duration::from_millis(400);
/// The first version with all that our queues ask for.
const LEAST: (u32, u32) = (3, 10);
/// The broker writes times in seconds.
const GRAIN: Duration = Duration::from_secs(1);

type Events = Pin<Box<dyn Stream<Item = Event> + Send>>;

/// Looks at the broker behind a URL, and at the queues of these bots.
pub(crate) async fn checkup(url: &Secret, bots: &[BotId]) -> Vec<Finding> {
    let broker = match Broker::new(url, "openclaw check") {
        Ok(broker) => broker,
        Err(error) => {
            return vec![Finding::wrong(
                RABBITMQ,
                error.0,
                "correct `backend.distributed.amqp_url`",
            )];
        }
    };
    let (name, version) = match timeout(PATIENCE, greeting(&broker.uri)).await {
        Ok(Ok(greeting)) => greeting,
        Ok(Err(error)) => return vec![absent(&error.to_string())],
        Err(_) => return vec![absent(&format!("no answer within {} s", PATIENCE.as_secs()))],
    };
    let wire = Wire::default();
    let properties = ConnectionProperties::default().with_connection_name("openclaw check".into());
    let connection = match timeout(PATIENCE, wire.connect(broker.uri.clone(), properties)).await {
        Ok(Ok(connection)) => connection,
        Ok(Err(error)) => return vec![refusal(&name, &error)],
        Err(_) => return vec![absent(&format!("{name} does not finish the handshake"))],
    };
    let mut findings = vec![of_version(&name, &version)];
    match look(&connection, bots, &mut findings).await {
        // A blocked broker hears no goodbye.
        Ok(Blocked(true)) => {}
        Ok(Blocked(false)) => {
            timeout(PATIENCE, connection.close(200, "bye".into())).await.ok();
        }
        Err(error) => findings.push(of_call(&error)),
    }
    wire.cut();
    findings
}

struct Blocked(bool);

async fn look(connection: &Connection, bots: &[BotId], findings: &mut Vec<Finding>) -> Result<Blocked, Trouble> {
    let mut events: Events = Box::pin(connection.events_listener());
    // First the queues: a broker with an alarm hears nothing more from who has published.
    let mut channel = None;
    for shape in Shape::all(bots) {
        findings.extend(of_shape(connection, &mut channel, &shape).await?);
    }
    let channel = call(connection.create_channel()).await?;
    let asked = Asked::now();
    let late = match publish(&channel).await {
        Err(Trouble::Said(error)) if topology::is_refused(&error) => {
            findings.push(Finding::warning(
                RABBITMQ,
                format!("alarms and clock were not looked at: {}", words(&error)),
                "let the broker's user configure and read `openclaw.v1.check.*`, and write it and `amq.default`",
            ));
            return Ok(Blocked(false));
        }
        published => published?,
    };
    if let Some(reason) = alarm(&mut events).await {
        findings.push(Finding::wrong(
            RABBITMQ,
            format!("takes no publishes, an alarm is on: {reason}"),
            "free memory or disk on the broker (`rabbitmq-diagnostics alarms`); events are answered 503 until then",
        ));
        return Ok(Blocked(true));
    }
    if let Some(theirs) = died_at(&channel, &late).await? {
        findings.extend(asked.answered(RABBITMQ, theirs, GRAIN));
    }
    Ok(Blocked(false))
}

/// Whether an exchange or queue is as we declare it. One that is not there is made at the first start, and not here.
async fn of_shape(
    connection: &Connection,
    channel: &mut Option<Channel>,
    shape: &Shape,
) -> Result<Option<Finding>, Trouble> {
    for passive in [true, false] {
        let on = match channel.take() {
            Some(channel) => channel,
            None => call(connection.create_channel()).await?,
        };
        match call(shape.declare(&on, passive)).await {
            // A refused call closes its channel, a good one does not.
            Ok(()) => *channel = Some(on),
            Err(Trouble::Said(error)) if topology::is_missing(&error) => return Ok(None),
            Err(Trouble::Said(error)) => {
                let to_do = if topology::is_refused(&error) {
                    "let the broker's user configure, write and read `openclaw.v1.*` (`rabbitmqctl set_permissions`)"
                        .to_owned()
                } else {
                    format!(
                        "empty and delete it (`rabbitmqctl delete_queue {}`): it is declared again by itself",
                        shape.name
                    )
                };
                let detail = format!("{} `{}`: {}", shape.kind, shape.name, words(&error));
                return Ok(Some(Finding::wrong(RABBITMQ, detail, to_do)));
            }
            Err(silence) => return Err(silence),
        }
    }
    Ok(None)
}

/// Publishes one message to a queue of our own, where it dies at once and goes on to a second one, whose name this is: a broker
/// writes the time on what dies.
async fn publish(channel: &Channel) -> Result<String, Trouble> {
    let name = format!("openclaw.v1.check.{:016x}", rand::random::<u64>());
    let late = format!("{name}.late");
    let own = QueueDeclareOptions {
        exclusive: true,
        auto_delete: true,
        ..QueueDeclareOptions::default()
    };
    let mut arguments = FieldTable::default();
    arguments.insert("x-message-ttl".into(), AMQPValue::LongInt(0));
    arguments.insert("x-dead-letter-exchange".into(), AMQPValue::LongString("".into()));
    arguments.insert(
        "x-dead-letter-routing-key".into(),
        AMQPValue::LongString(late.as_str().into()),
    );
    call(channel.queue_declare(late.as_str().into(), own, FieldTable::default())).await?;
    call(channel.queue_declare(name.as_str().into(), own, arguments)).await?;
    call(channel.confirm_select(ConfirmSelectOptions::default())).await?;
    let options = BasicPublishOptions::default();
    let published = channel.basic_publish(
        "".into(),
        name.as_str().into(),
        options,
        b"",
        BasicProperties::default(),
    );
    // Its confirm is of no interest: with an alarm it may not come.
    drop(call(published).await?);
    Ok(late)
}

/// Why the broker takes no publishes, if it says so.
async fn alarm(events: &mut Events) -> Option<String> {
    let until = Instant::now() + ALARM;
    while let Ok(Some(event)) = timeout_at(until, events.next()).await {
        if let Event::ConnectionBlocked(reason) = event {
            return Some(reason);
        }
    }
    None
}

/// When the message died by the broker's clock, Unix milliseconds.
async fn died_at(channel: &Channel, late: &str) -> Result<Option<i64>, Trouble> {
    for _ in 0..10 {
        let options = BasicGetOptions { no_ack: true };
        if let Some(message) = call(channel.basic_get(late.into(), options)).await? {
            return Ok(death(message.delivery.properties.headers().as_ref()));
        }
        sleep(Duration::from_millis(20)).await;
    }
    Ok(None)
}

fn death(headers: Option<&FieldTable>) -> Option<i64> {
    let AMQPValue::FieldArray(deaths) = headers?.inner().get("x-death")? else {
        return None;
    };
    let AMQPValue::FieldTable(death) = deaths.as_slice().first()? else {
        return None;
    };
    match death.inner().get("time")? {
        AMQPValue::Timestamp(seconds) => i64::try_from(seconds.saturating_mul(1000)).ok(),
        _ => None,
    }
}

enum Trouble {
    Said(lapin::Error),
    Silent,
}

async fn call<T>(call: impl Future<Output = lapin::Result<T>>) -> Result<T, Trouble> {
    match timeout(PATIENCE, call).await {
        Ok(answer) => answer.map_err(Trouble::Said),
        Err(_) => Err(Trouble::Silent),
    }
}

fn of_version(name: &str, version: &str) -> Finding {
    let mut numbers = version.split('.').map_while(|number| number.parse::<u32>().ok());
    match (numbers.next(), numbers.next()) {
        (Some(major), Some(minor)) if (major, minor) < LEAST => Finding::wrong(
            RABBITMQ,
            format!("{name} is too old"),
            format!("run RabbitMQ {}.{} or later", LEAST.0, LEAST.1),
        ),
        _ => Finding::ok(RABBITMQ, name),
    }
}

fn of_call(trouble: &Trouble) -> Finding {
    match trouble {
        Trouble::Said(error) if topology::is_refused(error) => Finding::wrong(
            RABBITMQ,
            words(error),
            "let the broker's user configure, write and read `openclaw.v1.*` (`rabbitmqctl set_permissions`)",
        ),
        Trouble::Said(error) => Finding::wrong(RABBITMQ, words(error), "look into the broker's log"),
        Trouble::Silent => Finding::wrong(
            RABBITMQ,
            format!("lets us in and does not answer within {} s", PATIENCE.as_secs()),
            "look whether the broker has too much to do, or a queue without a leader (`rabbitmq-diagnostics check_local_alarms`, \
             `rabbitmq-queues check_if_node_is_quorum_critical`)",
        ),
    }
}

/// Nobody answers, or nobody who speaks AMQP.
fn absent(reason: &str) -> Finding {
    Finding::unreachable(
        RABBITMQ,
        reason,
        "look whether RabbitMQ runs where `backend.distributed.amqp_url` points, and a firewall lets it through",
    )
}

/// It answers, and does not let us in.
fn refusal(name: &str, error: &lapin::Error) -> Finding {
    let to_do = if topology::is_refused(error) {
        "put a user and password that the broker knows into `backend.distributed.amqp_url` (special characters are written as \
         %XX; `guest` may only come from the broker's own machine)"
    } else if matches!(error.kind(), ErrorKind::ProtocolError(error)
        if matches!(error.kind(), AMQPErrorKind::Hard(AMQPHardError::NOTALLOWED)))
    {
        "name a virtual host that exists (`rabbitmqctl add_vhost`) and let the user into it (`rabbitmqctl set_permissions -p \
         VHOST USER '.*' '.*' '.*'`)"
    } else {
        return absent(&format!("{name}: {}", words(error)));
    };
    Finding::unreachable(RABBITMQ, format!("{name}: {}", words(error)), to_do)
}

/// The broker's own words, where it has said something.
fn words(error: &lapin::Error) -> String {
    match error.kind() {
        ErrorKind::ProtocolError(error) => error.get_message().to_string(),
        _ => error.to_string(),
    }
}
