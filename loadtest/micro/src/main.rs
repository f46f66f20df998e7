//! `openclaw-micro PATH COUNT`: takes one path so often, to be counted from outside (`dev.d/instructions.bash`).

use std::hint::black_box;
use std::process::ExitCode;

use openclaw_micro::{Lanes, Push, round_trip};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [path, count] = arguments.as_slice() else {
        return ExitCode::from(64);
    };
    let Ok(count) = count.parse() else {
        return ExitCode::from(64);
    };
    let (push, lanes) = (Push::default(), Lanes::default());
    let envelope = push.open();
    for _ in 0..count {
        match path.as_str() {
            "push" => drop(black_box(push.open())),
            "codec" => drop(black_box(round_trip(&envelope))),
            "lanes" => drop(black_box(lanes.run())),
            _ => return ExitCode::from(64),
        }
    }
    ExitCode::SUCCESS
}
