//! Runs an asynchronous clean-up from `Drop`, where nothing can be awaited.

use std::future::Future;
use std::time::Duration;

/// Longest time a test waits for its part of a server to be removed.
const LIMIT: Duration = Duration::from_secs(10);

/// Runs `work` to its end on a thread with a runtime of its own: the test's runtime may be the one that is going away.
/// What could not be removed is reported and left: `./dev services up` starts with empty servers.
pub(crate) fn finish(what: String, work: impl Future<Output = Result<(), String>> + Send + 'static) {
    let thread = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| error.to_string())?;
        runtime.block_on(async {
            tokio::time::timeout(LIMIT, work)
                .await
                .map_err(|late| late.to_string())?
        })
    });
    let failure = match thread.join() {
        Ok(Ok(())) => return,
        Ok(Err(text)) => text,
        Err(_panic) => "the clean-up panicked".to_owned(),
    };
    report(&format!("{what} was not removed: {failure}"));
}

#[expect(clippy::print_stderr, reason = "the test's own output is where its reader looks")]
fn report(text: &str) {
    eprintln!("testkit: {text}");
}
