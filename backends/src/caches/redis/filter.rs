//! The dedup filter's calls, written in groups.
//!
//! A call costs this process and the server little in a pipeline of fifty and much alone: reading, writing and waking are
//! the price, not the command. So calls gather while a group is on its way. An idle filter asks at once; there is no timer.

use std::sync::Arc;
use std::time::Duration;

use redis::{Cmd, FromRedisValue, Pipeline, Value};
use tokio::sync::{mpsc, oneshot};
use tokio_util::task::AbortOnDropHandle;

use super::link::Link;
use openclaw_common::cache::CacheError;

/// Time limit of a group. A call waits for one group and is part of another: 100 ms of ingest's 3 s (`docs/design/delivery.md` §10).
pub(super) const LIMIT: Duration = Duration::from_millis(50);
/// Calls in one group at most: more gain nothing.
const GROUP: usize = 512;
/// Calls that may wait for a group. What comes on top is not filtered.
const WAITING: usize = 4096;

struct Call {
    command: Cmd,
    answer: oneshot::Sender<Result<Value, CacheError>>,
}

/// The way to the filter. It ends with its last user.
#[derive(Debug)]
pub(super) struct Filter {
    calls: mpsc::Sender<Call>,
    _task: AbortOnDropHandle<()>,
}

impl Filter {
    /// Within a Tokio runtime.
    pub(super) fn new(link: Arc<Link>) -> Self {
        let (calls, waiting) = mpsc::channel(WAITING);
        Self {
            calls,
            _task: AbortOnDropHandle::new(tokio::spawn(run(link, waiting))),
        }
    }

    /// Runs `command` in the next group. It may run also when its caller has gone.
    pub(super) async fn call<T: FromRedisValue>(&self, command: Cmd) -> Result<T, CacheError> {
        let (answer, answered) = oneshot::channel();
        self.calls
            .try_send(Call { command, answer })
            .map_err(|_| CacheError(format!("{WAITING} calls wait for Redis already")))?;
        let ended = |_| CacheError("the connection to Redis was given up".to_owned());
        let value = answered.await.map_err(ended)??;
        redis::from_redis_value(value).map_err(|error| CacheError(error.to_string()))
    }
}

async fn run(link: Arc<Link>, mut waiting: mpsc::Receiver<Call>) {
    let mut group = Vec::with_capacity(GROUP);
    while waiting.recv_many(&mut group, GROUP).await > 0 {
        let mut pipeline = Pipeline::with_capacity(group.len());
        let mut answers = Vec::with_capacity(group.len());
        for Call { command, answer } in group.drain(..) {
            pipeline.add_command(command);
            answers.push(answer);
        }
        match ask(&link, &pipeline).await {
            // Callers that have gone want no answer.
            Ok(values) => answers.into_iter().zip(values).for_each(|(answer, value)| {
                answer.send(Ok(value)).ok();
            }),
            Err(error) => answers.into_iter().for_each(|answer| {
                answer.send(Err(error.clone())).ok();
            }),
        }
    }
}

/// One refused call fails its group: then the server is out of memory or a replica, which is true for all of them.
async fn ask(link: &Link, pipeline: &Pipeline) -> Result<Vec<Value>, CacheError> {
    let exchange = async |mut connection| pipeline.query_async(&mut connection).await;
    link.run(&link.epoch()?, LIMIT, exchange).await
}
