//! Processes of the bench: started, told apart by their CPU time, ended with the bench.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use std::{env, fs, thread};

/// A running process; it is killed when this is dropped.
pub(crate) struct Process {
    child: Child,
    /// Where it listens.
    pub(crate) addresses: Vec<SocketAddr>,
}

impl Process {
    /// Starts this binary in a role and waits until it says where it listens.
    pub(crate) fn role(role: &str, arguments: &[String]) -> Self {
        Self::role_of(&env::current_exe().unwrap(), role, arguments)
    }

    /// The same with another build of this binary.
    pub(crate) fn role_of(binary: &Path, role: &str, arguments: &[String]) -> Self {
        let mut child = Command::new(binary)
            .arg(format!("role:{role}"))
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let mut said = BufReader::new(child.stdout.take().unwrap());
        said.read_line(&mut line).unwrap();
        let addresses = line.split_whitespace();
        Self {
            addresses: addresses.map(|address| address.parse().unwrap()).collect(),
            child,
        }
    }

    /// Takes care of a process of another program.
    pub(crate) fn other(child: Child, address: SocketAddr) -> Self {
        Self {
            child,
            addresses: vec![address],
        }
    }

    /// Memory that is its own and not of a file, as far as it is held in RAM; bytes.
    pub(crate) fn resident(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let anonymous = status
            .lines()
            .find_map(|line| line.strip_prefix("RssAnon:"));
        let kibibytes = anonymous.unwrap().trim().trim_end_matches(" kB");
        kibibytes.parse::<u64>().unwrap() * 1024
    }

    /// CPU time of all its threads so far; nanoseconds, unlike the ticks of /proc/PID/stat.
    pub(crate) fn cpu(&self) -> Duration {
        cpu(self.child.id())
    }
}

/// CPU time of this process so far.
pub(crate) fn own_cpu() -> Duration {
    cpu(std::process::id())
}

fn cpu(process: u32) -> Duration {
    let threads = fs::read_dir(format!("/proc/{process}/task")).unwrap();
    let on_cpu = threads.map(|thread| {
        let stat = fs::read_to_string(thread.unwrap().path().join("schedstat"));
        let first = stat.unwrap_or_default();
        let first = first.split_whitespace().next().unwrap_or("0");
        first.parse::<u64>().unwrap()
    });
    Duration::from_nanos(on_cpu.sum())
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// In a role: tells the bench where this process listens.
pub(crate) fn tell(addresses: &[SocketAddr]) {
    let addresses: Vec<_> = addresses.iter().map(SocketAddr::to_string).collect();
    let mut out = std::io::stdout().lock();
    writeln!(out, "{}", addresses.join(" ")).unwrap();
    out.flush().unwrap();
}

/// In a role: ends this process when the bench is gone, however it went.
pub(crate) fn end_with_parent() {
    thread::spawn(|| {
        let _ = std::io::stdin().read(&mut [0]);
        std::process::exit(0);
    });
}

/// What the figures were measured on.
pub(crate) fn machine() -> String {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let cpuinfo = read("/proc/cpuinfo");
    let model = cpuinfo
        .lines()
        .find_map(|line| line.strip_prefix("model name"));
    let model = model.map_or("unknown CPU", |rest| rest.trim_matches(['\t', ' ', ':']));
    let cores = thread::available_parallelism().map_or(0, usize::from);
    let kernel = read("/proc/sys/kernel/osrelease");
    let now = std::time::SystemTime::now();
    let date = humantime::format_rfc3339_seconds(now);
    let load = read("/proc/loadavg");
    format!(
        "{date} · {model}, {cores} cores · Linux {} · load before: {}",
        kernel.trim(),
        load.split_whitespace().next().unwrap_or_default()
    )
}

/// The middle of some figures.
pub(crate) fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}
