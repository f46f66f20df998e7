//! Exit codes, after sysexits: a supervisor can tell a typo from an outage.

use std::fmt;
use std::process::ExitCode;

/// Why the program ends other than by 0.
#[derive(Debug)]
pub(crate) struct Failure {
    code: u8,
    text: String,
}

impl Failure {
    /// 64: the command line or the configuration is wrong; one sentence for each mistake.
    pub(crate) fn usage(text: impl fmt::Display) -> Self {
        Self {
            code: 64,
            text: text.to_string(),
        }
    }

    /// 69: a dependency cannot be reached.
    pub(crate) fn unreachable(text: impl fmt::Display) -> Self {
        Self {
            code: 69,
            text: text.to_string(),
        }
    }

    /// 70: it was reached, and is wrong.
    pub(crate) fn wrong(text: impl fmt::Display) -> Self {
        Self {
            code: 70,
            text: text.to_string(),
        }
    }

    /// The code for the system.
    pub(crate) fn exit_code(&self) -> ExitCode {
        ExitCode::from(self.code)
    }
}

/// 70: everything else.
impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self {
            code: 70,
            text: format!("{error:#}"),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.text)
    }
}
