//! What was found, for people or for machines, and how the program ends.

use openclaw_common::checkup::{Finding, Verdict};
use openclaw_common::config::Mistake;

use crate::exit::Failure;
use crate::print;

/// Says each finding as soon as it is there, and remembers what is not well.
pub(super) struct Report {
    json: bool,
    wrong: Vec<String>,
    unreachable: Vec<String>,
}

impl Report {
    pub(super) fn new(json: bool) -> Self {
        Self {
            json,
            wrong: Vec::new(),
            unreachable: Vec::new(),
        }
    }

    /// One finding.
    pub(super) fn add(&mut self, finding: Finding) {
        let line = match finding.what.as_str() {
            // Its sentences begin with a file.
            super::CONFIGURATION => finding.sentence(),
            what => format!("{what}: {}", finding.sentence()),
        };
        if self.json {
            self.line(&finding);
        } else {
            match finding.result {
                Verdict::Ok => print::line(&line),
                Verdict::Warning => print::line(&format!("warning: {line}")),
                // The failure says them, to stderr.
                Verdict::Wrong | Verdict::Unreachable => {}
            }
        }
        match finding.result {
            Verdict::Ok | Verdict::Warning => {}
            Verdict::Wrong => self.wrong.push(line),
            Verdict::Unreachable => self.unreachable.push(line),
        }
    }

    /// A mistake in the files, for machines; people read it in the failure.
    pub(super) fn mistake(&self, mistake: &Mistake) {
        if self.json {
            self.line(&Finding::wrong(mistake.what(), mistake.sentence(), "correct it"));
        }
    }

    fn line(&self, finding: &Finding) {
        if let Ok(line) = serde_json::to_string(finding) {
            print::line(&line);
        }
    }

    /// 69 as long as anything cannot be reached, because the look is not complete then; else 70 when anything is wrong.
    pub(super) fn end(self) -> Result<(), Failure> {
        let all = [self.unreachable.as_slice(), &self.wrong].concat().join("\n");
        if !self.unreachable.is_empty() {
            Err(Failure::unreachable(all))
        } else if !self.wrong.is_empty() {
            Err(Failure::wrong(all))
        } else {
            Ok(())
        }
    }
}
