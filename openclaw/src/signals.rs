//! Stop signals: the first one drains, the second one ends the process at once.

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// What a shell reports for a process ended by Ctrl-C.
const INTERRUPTED: i32 = 130;

/// A token that the first SIGTERM or Ctrl-C cancels.
///
/// # Errors
/// When the system refuses to deliver signals.
pub(crate) fn stop_token() -> std::io::Result<CancellationToken> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let token = CancellationToken::new();
    let stop = token.clone();
    tokio::spawn(async move {
        either(&mut terminate, &mut interrupt).await;
        tracing::info!("stopping: finishing what has begun (once more to stop at once)");
        stop.cancel();
        either(&mut terminate, &mut interrupt).await;
        tracing::warn!("stopped at once: what was on its way is taken up again at the next start");
        #[expect(clippy::disallowed_methods, reason = "the second signal means: no drain, at once")]
        std::process::exit(INTERRUPTED);
    });
    Ok(token)
}

async fn either(one: &mut Signal, other: &mut Signal) {
    tokio::select! {
        _ = one.recv() => {}
        _ = other.recv() => {}
    }
}
