//! What the program says to the person or script that called it: stdout, and nothing but stdout.

use std::io::Write as _;

/// Prints one line. A reader that has gone (`openclaw … | head`) is no failure of ours.
pub(crate) fn line(text: &str) {
    drop(writeln!(std::io::stdout().lock(), "{text}"));
}

/// Prints one line about a failure to stderr, where it belongs also when stdout is piped.
pub(crate) fn failure(text: &str) {
    drop(writeln!(std::io::stderr().lock(), "{text}"));
}
