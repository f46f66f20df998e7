//! One call from arrival to answer.

use std::sync::Arc;

use axum::response::Response;
use serde::Deserialize;

use super::admit::{Admitted, Incoming};
use super::target::Place;
use super::{Api, Refusal, body, refusals, respond};
use crate::clock::monotonic_us;
use crate::faults::Subject;
use crate::ledger::{Call, NO_CODE};
use crate::server::Gate;

/// What it wants there.
#[derive(Clone, Debug)]
pub(crate) struct Draft {
    pub(crate) msg_type: Arc<str>,
    pub(crate) content: Arc<str>,
    pub(crate) uuid: Option<Arc<str>>,
}

/// One message call, from arrival to answer.
pub(super) async fn perform(gate: &Gate, incoming: Incoming<'_>) -> Response {
    let admitted = gate.sim.state().admit(incoming, monotonic_us());
    let outcome = match admitted {
        Admitted::Decided(outcome) => outcome,
        Admitted::InFlight(ticket, hold) => {
            let (sim, stop) = (gate.sim.clone(), gate.stop.clone());
            // A task of its own: the platform finishes what it began when the caller hangs up.
            let finished = gate.tasks.spawn(async move {
                tokio::select! {
                    () = tokio::time::sleep(hold) => {}
                    () = stop.cancelled() => {}
                }
                let mut state = sim.state();
                state.commit(ticket, monotonic_us())
            });
            match finished.await {
                Ok(outcome) => outcome,
                Err(error) => {
                    tracing::error!(%error, "a held call of the simulator did not finish");
                    return respond::server_error(500);
                }
            }
        }
    };
    respond::outcome(outcome).await
}

#[derive(Deserialize)]
struct TokenBody {
    app_id: Option<Arc<str>>,
    app_secret: Option<Arc<str>>,
}

/// The token endpoint, from arrival to answer.
pub(super) async fn issue_token(gate: &Gate, body: &[u8]) -> Response {
    let now_us = monotonic_us();
    let parsed: Result<TokenBody, Refusal> = body::parse(body);
    let (app, secret) = parsed.map_or_else(
        |refusal| (Arc::default(), Err(refusal)),
        |body| {
            let secret = body.app_secret.unwrap_or_default();
            (body.app_id.unwrap_or_default(), Ok(secret))
        },
    );
    let (fault, result) = {
        let mut state = gate.sim.state();
        let picked = state.faults.pick(&Subject {
            api: Api::Token,
            app: &app,
            chat: None,
            message: None,
        });
        let fault = picked.map(|(_, fault)| fault);
        let (code, result) = match fault.as_ref().filter(|fault| !fault.commit) {
            Some(fault) => match fault.refusal() {
                Some(refusal) => (refusal.code, Err(refusal)),
                // The answer is the fault's own; this text is never sent.
                None => (NO_CODE, Err(refusals::unknown_app())),
            },
            None => match secret.and_then(|secret| state.tokens.issue(&app, &secret, now_us)) {
                Ok(issued) => (0, Ok(issued)),
                Err(refusal) => (refusal.code, Err(refusal)),
            },
        };
        state.ledger.record_call(Call {
            code,
            fault: fault.as_ref().map(|fault| fault.name.clone()),
            ..Place::default().call(Api::Token, app, now_us)
        });
        (fault, result)
    };
    respond::token(result, fault).await
}
