//! The processes under test, each started again on its port as soon as it is gone.

use std::fs::{self, File, OpenOptions};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use rustix::process::{Pid, Signal, kill_process};

const READY: Duration = Duration::from_secs(60);
const STOP: Duration = Duration::from_secs(40);

/// One place in the fleet: who stands there changes.
pub(crate) struct Place {
    pub(crate) role: &'static str,
    pub(crate) kills: u32,
    /// It ended though nobody had killed it.
    pub(crate) ended: u32,
    /// The most memory anyone held here, KiB.
    pub(crate) memory: u64,
    port: u16,
    log: PathBuf,
    process: Child,
}

pub(crate) struct Fleet {
    configuration: PathBuf,
    pub(crate) places: Vec<Place>,
}

impl Fleet {
    /// Starts these roles; their logs go to `logs`, one file a place.
    pub(crate) fn start(configuration: &Path, logs: &Path, roles: &[&'static str]) -> anyhow::Result<Self> {
        let mut places = Vec::new();
        for (number, &role) in roles.iter().enumerate() {
            let (port, log) = (testkit::free_port(), logs.join(format!("{role}-{number}.log")));
            File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
            places.push(Place {
                process: spawn(role, configuration, port, &log)?,
                role,
                kills: 0,
                ended: 0,
                memory: 0,
                port,
                log,
            });
        }
        Ok(Self {
            configuration: configuration.to_owned(),
            places,
        })
    }

    /// SIGKILL, and the next one starts at once.
    pub(crate) fn kill(&mut self, number: usize) -> anyhow::Result<()> {
        let configuration = self.configuration.clone();
        let place = self.places.get_mut(number).context("no such process")?;
        place.process.kill()?;
        place.process.wait()?;
        place.kills += 1;
        place.process = spawn(place.role, &configuration, place.port, &place.log)?;
        Ok(())
    }

    /// Replaces those that ended by themselves, and notes the memory of all.
    pub(crate) fn look_after(&mut self) -> anyhow::Result<()> {
        for place in &mut self.places {
            if place.process.try_wait()?.is_some() {
                place.ended += 1;
                place.process = spawn(place.role, &self.configuration, place.port, &place.log)?;
            }
            place.memory = place.memory.max(memory(place.process.id()).unwrap_or(0));
        }
        Ok(())
    }

    /// Where events are pushed to.
    pub(crate) fn intakes(&self) -> Vec<String> {
        let intakes = self.places.iter().filter(|place| place.role == "ingest");
        intakes.map(|place| format!("http://{}", place.address())).collect()
    }

    /// Waits until each is ready.
    pub(crate) async fn ready(&self) -> anyhow::Result<()> {
        let client = reqwest::Client::builder().timeout(Duration::from_secs(2)).build()?;
        for place in &self.places {
            let (url, begun) = (format!("http://{}/readyz", place.address()), Instant::now());
            while !client
                .get(&url)
                .send()
                .await
                .is_ok_and(|answer| answer.status().is_success())
            {
                if begun.elapsed() > READY {
                    bail!("{} is not ready, see {}", place.role, place.log.display());
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
        Ok(())
    }

    /// SIGTERM to all; says which did not end well.
    pub(crate) async fn stop(&mut self) -> anyhow::Result<Vec<String>> {
        for place in &self.places {
            let pid = Pid::from_raw(place.process.id().cast_signed()).context("a process has an id")?;
            kill_process(pid, Signal::TERM)?;
        }
        let (begun, mut wrong) = (Instant::now(), Vec::new());
        for place in &mut self.places {
            loop {
                match place.process.try_wait()? {
                    Some(status) if status.success() => break,
                    Some(status) => {
                        wrong.push(format!("{} ended with {status}", place.role));
                        break;
                    }
                    None if begun.elapsed() > STOP => {
                        wrong.push(format!("{} did not end within {STOP:?}", place.role));
                        break;
                    }
                    None => tokio::time::sleep(Duration::from_millis(20)).await,
                }
            }
        }
        Ok(wrong)
    }

    /// What no log may hold, and where it is.
    pub(crate) fn improper(&self) -> anyhow::Result<Vec<String>> {
        let mut found = Vec::new();
        for place in &self.places {
            let log = fs::read_to_string(&place.log)?;
            let lines = (1..).zip(log.lines());
            found.extend(lines.filter_map(|(number, line)| {
                let what = world::improper(line)?;
                Some(format!("{what} in {}:{number}", place.log.display()))
            }));
        }
        Ok(found)
    }
}

impl Place {
    fn address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.port).into()
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        for place in &mut self.places {
            // Already gone when stopped.
            place.process.kill().ok();
            place.process.wait().ok();
        }
    }
}

fn spawn(role: &str, configuration: &Path, port: u16, log: &Path) -> anyhow::Result<Child> {
    let log = OpenOptions::new().append(true).open(log)?;
    let child = world::openclaw(&[role, "--port", &port.to_string(), "--metrics-port", "0", "-c"])
        .arg(configuration)
        .stdout(Stdio::null())
        .stderr(log)
        .spawn();
    child.with_context(|| format!("openclaw {role} does not start"))
}

/// Resident memory in KiB; `None` when it is gone.
fn memory(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.split_whitespace().next()?.parse().ok()
}
