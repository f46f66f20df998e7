//! One keep-alive connection: a request out, an answer in.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Far beyond Feishu's three seconds: a slow answer is measured, a lost one is a failure.
const DEADLINE: Duration = Duration::from_secs(10);

const END_OF_HEAD: &[u8] = b"\r\n\r\n";

#[derive(Debug)]
pub(super) struct Connection {
    stream: TcpStream,
    answer: Vec<u8>,
}

impl Connection {
    pub(super) async fn open(target: SocketAddr) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(target)
            .await
            .with_context(|| format!("nobody listens on {target}"))?;
        stream.set_nodelay(true)?;
        Ok(Self {
            stream,
            answer: Vec::with_capacity(1024),
        })
    }

    /// The answer's status.
    pub(super) async fn exchange(&mut self, request: &[u8]) -> io::Result<u16> {
        timeout(DEADLINE, async {
            self.stream.write_all(request).await?;
            self.read().await
        })
        .await
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }

    async fn read(&mut self) -> io::Result<u16> {
        self.answer.clear();
        loop {
            if self.stream.read_buf(&mut self.answer).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let Some(head) = find(&self.answer, END_OF_HEAD) else {
                continue;
            };
            let (status, length) = parse(self.answer.get(..head).unwrap_or_default())?;
            if self.answer.len() >= head + END_OF_HEAD.len() + length {
                return Ok(status);
            }
        }
    }
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes.windows(wanted.len()).position(|window| window == wanted)
}

/// Status and length of the body.
fn parse(head: &[u8]) -> io::Result<(u16, usize)> {
    let head = str::from_utf8(head).map_err(|_| io::ErrorKind::InvalidData)?;
    let mut lines = head.split("\r\n");
    let status = lines.next().and_then(|line| line.split(' ').nth(1)?.parse().ok());
    let length = lines.find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then_some(value.trim())
    });
    let length = length
        .map_or(Ok(0), str::parse)
        .map_err(|_| io::ErrorKind::InvalidData)?;
    Ok((status.ok_or(io::ErrorKind::InvalidData)?, length))
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn the_head_of_an_answer_says_status_and_length() {
        let head = b"HTTP/1.1 503 Service Unavailable\r\ndate: now\r\nContent-Length: 17";
        assert_eq!(parse(head).ok(), Some((503, 17)));
        assert_eq!(parse(b"HTTP/1.1 204 No Content").ok(), Some((204, 0)));
        assert!(parse(b"nonsense").is_err());
    }
}
