//! What a process has used so far: processor time and memory, from /proc.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use anyhow::Context as _;

use crate::report::short;

/// The kernel counts processor time in hundredths of a second on every platform that Rust's Linux targets name.
const TICK: Duration = Duration::from_millis(10);

/// A look at a process.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Usage {
    /// Processor time, user and system.
    pub(crate) cpu: Duration,
    /// The most resident bytes so far.
    pub(crate) peak: u64,
    /// Resident bytes now.
    pub(crate) resident: u64,
}

/// A number from `/proc/PROCESS/stat`, counted behind the name in brackets, which may hold anything.
fn stat(process: u32, places: &[usize]) -> anyhow::Result<u32> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat"))?;
    let fields: Vec<&str> = stat.rsplit_once(')').context("no name")?.1.split_whitespace().collect();
    let number =
        |place: &usize| -> anyhow::Result<u32> { Ok(fields.get(*place).context("a field is missing")?.parse()?) };
    places.iter().map(number).sum()
}

/// Who started a process.
pub(crate) fn parent(process: u32) -> anyhow::Result<u32> {
    stat(process, &[1])
}

/// Processor time of a process and all that it started, those that have ended too.
pub(crate) fn family(process: u32) -> anyhow::Result<Duration> {
    let own = stat(process, &[11, 12, 13, 14])?;
    // One that has ended meanwhile is in its parent's count.
    let children = processes()?.filter(|child| parent(*child).is_ok_and(|parent| parent == process));
    Ok(TICK * (own + children.filter_map(|child| stat(child, &[11, 12]).ok()).sum::<u32>()))
}

/// All that run now.
fn processes() -> anyhow::Result<impl Iterator<Item = u32>> {
    let entries = fs::read_dir("/proc")?.flatten();
    Ok(entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()))
}

impl Usage {
    pub(crate) fn of(process: u32) -> anyhow::Result<Self> {
        let status = fs::read_to_string(format!("/proc/{process}/status"))?;
        let bytes = |name: &str| -> anyhow::Result<u64> {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            let kib = line
                .and_then(|line| line.split_whitespace().next())
                .context("a field is missing")?;
            Ok(kib.parse::<u64>()? * 1_024)
        };
        Ok(Self {
            cpu: TICK * stat(process, &[11, 12])?,
            peak: bytes("VmHWM:")?,
            resident: bytes("VmRSS:")?,
        })
    }
}

/// What everything on this machine has used so far, by program. On two cores every microsecond that anybody spends counts.
#[derive(Clone, Debug, Default)]
pub(crate) struct Census(BTreeMap<String, Duration>);

impl Census {
    pub(crate) fn take() -> anyhow::Result<Self> {
        let mut programs = BTreeMap::<String, Duration>::new();
        for process in processes()? {
            // One that has ended meanwhile is nobody's any more.
            let (Ok(usage), Ok(name)) = (Usage::of(process), fs::read_to_string(format!("/proc/{process}/comm")))
            else {
                continue;
            };
            *programs.entry(name.trim().to_owned()).or_default() += usage.cpu;
        }
        Ok(Self(programs))
    }

    /// Microseconds an event since `before`: the whole, and who spent at least a microsecond, most first.
    pub(crate) fn since(&self, before: &Self, events: f64) -> String {
        let spent = |(name, cpu): (&String, &Duration)| {
            let before = before.0.get(name).copied().unwrap_or_default();
            (name.clone(), cpu.saturating_sub(before).as_secs_f64() * 1e6 / events)
        };
        let mut costs: Vec<(String, f64)> = self.0.iter().map(spent).collect();
        costs.sort_by(|one, other| other.1.total_cmp(&one.1));
        let whole: f64 = costs.iter().map(|(_, cost)| cost).sum();
        let parts = costs.iter().filter(|(_, cost)| *cost >= 1.0);
        let parts: Vec<_> = parts.map(|(name, cost)| format!("{name} {}", short(*cost))).collect();
        format!("{} µs ({})", short(whole), parts.join(", "))
    }
}

/// Bytes as MiB.
pub(crate) fn mib(bytes: u64) -> f64 {
    bytes as f64 / 1_048_576.0
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "what cannot go on is a failed test")]
mod tests {
    use super::*;

    #[test]
    fn this_process_uses_something() {
        let usage = Usage::of(std::process::id()).unwrap();
        assert!(usage.peak > 100_000, "{usage:?}");
    }
}
