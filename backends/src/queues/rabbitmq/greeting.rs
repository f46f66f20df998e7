//! The broker's own introduction: the first thing it says to anybody, before it knows who asks. The client library keeps none
//! of it.

use std::io;

use futures_util::{AsyncReadExt, AsyncWriteExt};
use lapin::tcp::{AsyncTcpStream, OwnedTLSConfig};
use lapin::types::parsing::parse_field_table;
use lapin::types::{AMQPValue, FieldTable};
use lapin::uri::{AMQPScheme, AMQPUri};

/// How a client begins (AMQP 0-9-1, §4.2.2).
const HELLO: &[u8; 8] = b"AMQP\0\0\x09\x01";
/// A frame's type, channel and size.
const HEADER: usize = 7;
const METHOD_FRAME: u8 = 1;
/// `connection.start`, its class and method, then the protocol's version; the properties follow.
const START: [u8; 4] = [0, 10, 0, 10];
const PROPERTIES_AT: usize = 6;
/// RabbitMQ's is under 1 KiB.
const MOST: usize = 64 * 1024;

/// What the broker calls itself, such as `RabbitMQ 3.10.8`, and its version.
pub(super) async fn greeting(uri: &AMQPUri) -> io::Result<(String, String)> {
    let runtime = lapin::runtime::default_runtime().map_err(io::Error::other)?;
    let host = uri.authority.host.as_str();
    let addresses: Vec<_> = tokio::net::lookup_host((host, uri.authority.port)).await?.collect();
    let mut stream = AsyncTcpStream::connect(&runtime, addresses).await?;
    if uri.scheme == AMQPScheme::AMQPS {
        stream = stream.into_tls(host, OwnedTLSConfig::default().as_ref()).await?;
    }
    stream.write_all(HELLO).await?;
    stream.flush().await?;
    let mut header = [0; HEADER];
    stream.read_exact(&mut header).await?;
    let [kind, _, _, size @ ..] = header;
    let size = usize::try_from(u32::from_be_bytes(size)).unwrap_or(usize::MAX);
    if kind != METHOD_FRAME || size > MOST {
        return Err(stranger());
    }
    let mut payload = vec![0; size];
    stream.read_exact(&mut payload).await?;
    let properties = payload
        .strip_prefix(&START)
        .and_then(|_| payload.get(PROPERTIES_AT..))
        .and_then(|rest| parse_field_table(rest).ok())
        .map(|(_, properties)| properties)
        .ok_or_else(stranger)?;
    let (product, version) = (text(&properties, "product"), text(&properties, "version"));
    Ok((format!("{product} {version}"), version))
}

fn text(properties: &FieldTable, name: &str) -> String {
    match properties.inner().get(name) {
        Some(AMQPValue::LongString(text)) => text.to_string(),
        _ => "unknown".to_owned(),
    }
}

fn stranger() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "what answers there speaks no AMQP 0-9-1")
}
