//! What a durable message costs: 64 writers of 1 KiB against the journal, through the orchestrator's own door, and
//! against etcd on the same disk.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a bench may fail, and prints what it found"
)]

mod door;
mod etcd;
mod journal;

use std::path::Path;
use std::time::{Duration, Instant};

const WRITERS: usize = 64;
const PAYLOAD_BYTES: usize = 1024;
/// Connections of all writers together, where they come by a socket.
const CONNECTIONS: usize = 4;
const ROUNDS: usize = 5;
const ROUND: Duration = Duration::from_secs(3);
/// Not counted, so that files have their size and connections are warm.
const WARM_UP: Duration = Duration::from_secs(1);

/// Times of the answers of one round.
pub(crate) struct Round {
    elapsed: Duration,
    times: Vec<Duration>,
}

impl Round {
    fn per_second(&self) -> f64 {
        self.times.len() as f64 / self.elapsed.as_secs_f64()
    }

    fn percentile(&mut self, percent: usize) -> Duration {
        self.times.sort_unstable();
        self.times[(self.times.len() - 1) * percent / 100]
    }
}

/// Lets each writer write, one message after the other, until the time is over.
pub(crate) async fn load<F>(writers: Vec<impl FnMut() -> F + Send + 'static>) -> Round
where
    F: Future<Output = ()> + Send,
{
    let begin = Instant::now();
    let (counted, end) = (begin + WARM_UP, begin + WARM_UP + ROUND);
    let mut tasks = tokio::task::JoinSet::new();
    for mut write in writers {
        tasks.spawn(async move {
            let mut times = Vec::new();
            loop {
                let start = Instant::now();
                if end <= start {
                    return times;
                }
                write().await;
                if counted <= start {
                    times.push(start.elapsed());
                }
            }
        });
    }
    let times = tasks.join_all().await.concat();
    Round {
        elapsed: ROUND,
        times,
    }
}

/// The median round of a row.
struct Row {
    name: &'static str,
    per_second: f64,
    p50_ms: f64,
}

impl Row {
    /// How it stands to another one.
    fn compare(&self, other: &Self, goals: &str) {
        println!(
            "{} to {}: {:.2} of the messages, {:.2} of the p50{goals}",
            self.name,
            other.name,
            self.per_second / other.per_second,
            self.p50_ms / other.p50_ms,
        );
    }
}

fn line(name: &'static str, mut rounds: Vec<Round>) -> Row {
    let mut row: Vec<(f64, f64, f64)> = rounds
        .iter_mut()
        .map(|round| {
            let ms = |time: Duration| time.as_secs_f64() * 1e3;
            let (p50, p99) = (round.percentile(50), round.percentile(99));
            (round.per_second(), ms(p50), ms(p99))
        })
        .collect();
    row.sort_by(|one, other| one.0.total_cmp(&other.0));
    let (least, most) = (row[0].0, row[row.len() - 1].0);
    let (per_second, p50_ms, p99) = row[row.len() / 2];
    println!("| {name} | {per_second:.0} ({least:.0} to {most:.0}) | {p50_ms:.2} | {p99:.2} |");
    Row {
        name,
        per_second,
        p50_ms,
    }
}

fn main() {
    // The disk of the build, and not a tmpfs.
    let disk = Path::new(env!("CARGO_TARGET_TMPDIR"));
    // In one thread, which takes less from what is measured.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    println!("{WRITERS} writers, {PAYLOAD_BYTES} bytes, medians of {ROUNDS} rounds of {ROUND:?}");
    println!("| store | messages/s | p50 ms | p99 ms |\n|---|--:|--:|--:|");
    let (mut journal, mut door, mut etcd) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        journal.push(runtime.block_on(journal::round(disk)));
        door.push(runtime.block_on(door::round(disk)));
        etcd.extend(runtime.block_on(etcd::round(disk)));
    }
    let (journal, door) = (line("journal", journal), line("SessionSend", door));
    if etcd.is_empty() {
        println!("etcd is not installed and was left out (apt install etcd-server)");
        return;
    }
    let etcd = line("etcd", etcd);
    println!();
    journal.compare(&etcd, " (goals: 1.5 and 0.5)");
    door.compare(&etcd, "");
}
