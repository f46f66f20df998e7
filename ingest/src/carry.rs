//! Work that outlives whoever waits for it.

use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::runtime::Handle;
use tokio_util::task::TaskTracker;

/// Runs inside its caller, which saves a task for each event, and goes on as a task of `tasks` when the caller drops it.
pub(crate) struct Carried<F>
where
    F: Future<Output: Send> + Send + 'static,
{
    /// Taken out while it is polled: what panicked is not carried on.
    work: Option<Pin<Box<F>>>,
    tasks: TaskTracker,
}

impl<F> Carried<F>
where
    F: Future<Output: Send> + Send + 'static,
{
    pub(crate) fn new(work: F, tasks: &TaskTracker) -> Self {
        Self {
            work: Some(Box::pin(work)),
            tasks: tasks.clone(),
        }
    }
}

impl<F> Future for Carried<F>
where
    F: Future<Output: Send> + Send + 'static,
{
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let Some(mut work) = self.work.take() else {
            // Only after a panic or its end, when nobody may ask.
            return Poll::Pending;
        };
        let polled = work.as_mut().poll(context);
        if polled.is_pending() {
            self.work = Some(work);
        }
        polled
    }
}

impl<F> Drop for Carried<F>
where
    F: Future<Output: Send> + Send + 'static,
{
    fn drop(&mut self) {
        // Without a runtime there is nothing left to run it.
        if let (Some(work), Ok(runtime)) = (self.work.take(), Handle::try_current()) {
            self.tasks.spawn_on(work, &runtime);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use tokio::sync::oneshot;

    use super::*;

    /// Work that says when it ends, and the word that lets it.
    fn work() -> (
        impl Future<Output = u8> + Send + 'static,
        oneshot::Sender<()>,
        oneshot::Receiver<()>,
    ) {
        let (go, gone) = oneshot::channel();
        let (end, ended) = oneshot::channel();
        let work = async move {
            gone.await.ok();
            end.send(()).ok();
            7
        };
        (work, go, ended)
    }

    #[tokio::test]
    async fn who_waits_gets_the_result_and_no_task_is_made() {
        let (work, go, _ended) = work();
        let tasks = TaskTracker::new();
        go.send(()).ok();
        assert_eq!(Carried::new(work, &tasks).await, 7);
        assert!(tasks.is_empty());
    }

    #[tokio::test]
    async fn what_is_left_goes_on_as_a_task() {
        let (work, go, ended) = work();
        let tasks = TaskTracker::new();
        let mut carried = Box::pin(Carried::new(work, &tasks));
        let mut context = Context::from_waker(Waker::noop());
        assert!(carried.as_mut().poll(&mut context).is_pending());
        assert!(tasks.is_empty());
        drop(carried);
        assert_eq!(tasks.len(), 1);
        go.send(()).ok();
        assert!(ended.await.is_ok());
        tasks.close();
        tasks.wait().await;
    }

    #[tokio::test]
    async fn what_panicked_is_not_carried_on() {
        let tasks = TaskTracker::new();
        let carried = Carried::new(async { panic!("on purpose") }, &tasks);
        let ended: Result<(), _> = tokio::spawn(carried).await;
        assert!(ended.is_err());
        assert!(tasks.is_empty());
    }
}
