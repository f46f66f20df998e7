//! `openclaw sim`: the simulated Feishu alone, for load tests and for trying things out.

use openclaw_common::config::Log;
use openclaw_common::{serve, telemetry};
use openclaw_sim::{Limits, Options, Sim};

use crate::cli;
use crate::exit::Failure;
use crate::{print, signals};

pub(crate) async fn run(arguments: cli::Sim) -> Result<(), Failure> {
    let stop = signals::stop_token().map_err(|error| anyhow::anyhow!("no stop signals: {error}"))?;
    telemetry::init_logs(&Log::default(), "sim").map_err(Failure::usage)?;
    let listener = serve::listen(arguments.listen).map_err(|error| {
        Failure::usage(format!(
            "cannot listen on {} ({error}): set --listen to a free address",
            arguments.listen
        ))
    })?;
    print::line(&format!(
        "a simulated Feishu at http://{} (set `feishu.base_url` to it); it takes any app; questions under /sim/",
        arguments.listen
    ));
    let limits = if arguments.no_limits {
        Limits::off()
    } else {
        Limits::default()
    };
    let options = Options {
        limits,
        time_scale: arguments.time_scale,
        ..Options::default()
    };
    openclaw_sim::run(Sim::new(&options), listener, stop)
        .await
        .map_err(|error| anyhow::anyhow!("the simulated Feishu: {error}").into())
}
