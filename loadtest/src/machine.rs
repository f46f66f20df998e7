//! Where the figures are from.

use std::fs;
use std::process::Command;

/// One sentence: processor, cores, memory, kernel, and the servers' versions.
pub(crate) fn described() -> String {
    let file = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let value = |text: &str, name: &str| {
        let line = text.lines().find(|line| line.starts_with(name));
        line.and_then(|line| Some(line.split_once(':')?.1.trim().to_owned()))
    };
    let (cpu, memory) = (file("/proc/cpuinfo"), file("/proc/meminfo"));
    let kib: Option<f64> = value(&memory, "MemTotal").and_then(|text| text.split(' ').next()?.parse().ok());
    format!(
        "{} cores of {}, {:.0} GiB, Linux {}; {}; {}; RabbitMQ {}. Load driver, simulated Feishu and all servers are on the same machine.",
        std::thread::available_parallelism().map_or(1, usize::from),
        value(&cpu, "model name").unwrap_or_else(|| "an unknown processor".to_owned()),
        kib.unwrap_or(0.0) / 1_048_576.0,
        file("/proc/sys/kernel/osrelease").trim(),
        version("redis-server", "--version", 0..3),
        version("psql", "--version", 0..3).replace("psql (PostgreSQL)", "PostgreSQL"),
        rabbitmq(),
    )
}

/// These words of what a program says about itself.
fn version(program: &str, flag: &str, words: std::ops::Range<usize>) -> String {
    let said = Command::new(program).arg(flag).output().map(|output| output.stdout);
    let said = String::from_utf8(said.unwrap_or_default()).unwrap_or_default();
    let said: Vec<&str> = said.split_whitespace().skip(words.start).take(words.len()).collect();
    if said.is_empty() {
        format!("{program} of unknown version")
    } else {
        said.join(" ")
    }
}

/// `rabbitmqctl version` needs the node's cookie; the package's folder does not.
fn rabbitmq() -> String {
    let folders = fs::read_dir("/usr/lib/rabbitmq/lib").into_iter().flatten().flatten();
    let mut names = folders.filter_map(|folder| folder.file_name().into_string().ok());
    names
        .find_map(|name| Some(name.strip_prefix("rabbitmq_server-")?.to_owned()))
        .unwrap_or_else(|| "of unknown version".to_owned())
}
