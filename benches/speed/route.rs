//! Route at 1 KiB: what one call costs in the middle, and how long it takes.

use std::path::Path;
use std::time::Duration;

use tokio::runtime;

use crate::call::Call;
use crate::load::{Connections, Shape, p50_us};
use crate::nginx;
use crate::process::{Process, median};

const ROUNDS: usize = 9;
const BUSY: Shape = Shape {
    connections: 4,
    calls_each: 8,
};
const BUSY_TIME: Duration = Duration::from_millis(1500);
const ALONE_TIME: Duration = Duration::from_millis(400);

/// One way from the caller to the instance.
struct Way {
    name: String,
    /// `None` for the way without a middle.
    middle: Option<Process>,
    call: Call,
    busy: Connections,
    alone: Connections,
    rounds: Vec<Round>,
}

struct Round {
    cpu_us: f64,
    busy_p50_us: f64,
    alone_p50_us: f64,
    calls_per_s: f64,
}

/// Prints the table; returns what the orchestrator costs for each call, in microseconds.
pub(crate) fn measure(rivals: &[&String]) -> f64 {
    let runtime = runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let folder = tempfile::tempdir().unwrap();
    let instance = Process::role("echo", &["1".to_owned()]);
    runtime.block_on(async {
        let mut ways = ways(&instance, folder.path(), rivals).await;
        for way in &mut ways {
            way.round(BUSY_TIME / 2).await;
            way.rounds.clear();
        }
        for round in 0..ROUNDS {
            // Back and forth, so that no way always runs after the same other one.
            let count = ways.len();
            for at in 0..count {
                let at = if round % 2 == 0 { at } else { count - 1 - at };
                ways[at].round(BUSY_TIME).await;
            }
        }
        print(&ways)
    })
}

async fn ways(instance: &Process, folder: &Path, rivals: &[&String]) -> Vec<Way> {
    let address = instance.addresses[0];
    let role = |role: &str, argument: String| Some(Process::role(role, &[argument]));
    let named = format!("A={address}");
    let mut made = vec![
        ("direct", None, Call::execute()),
        ("nginx", nginx::start(address, folder), Call::execute()),
        (
            "tonic, opaque",
            role("tonic-opaque", address.to_string()),
            Call::route(),
        ),
        (
            "tonic, typed",
            role("tonic-typed", address.to_string()),
            Call::route(),
        ),
        (
            "orchestrator",
            role("orchestrator", named.clone()),
            Call::route(),
        ),
        (
            "orchestrator, one thread",
            role("orchestrator-one-thread", named.clone()),
            Call::route(),
        ),
    ];
    for rival in rivals {
        let (name, path) = rival.split_once('=').unwrap();
        let rival = Process::role_of(
            Path::new(path),
            "orchestrator",
            std::slice::from_ref(&named),
        );
        made.push((name, Some(rival), Call::route()));
    }
    made.retain(|(name, middle, _)| *name == "direct" || middle.is_some());
    let mut ways = Vec::new();
    for (name, middle, call) in made {
        let to = middle
            .as_ref()
            .map_or(address, |middle| middle.addresses[0]);
        ways.push(Way {
            name: name.to_owned(),
            middle,
            call,
            busy: Connections::open(to, BUSY.connections).await,
            alone: Connections::open(to, 1).await,
            rounds: Vec::new(),
        });
    }
    ways
}

impl Way {
    async fn round(&mut self, time: Duration) {
        let cpu = || self.middle.as_ref().map_or(Duration::ZERO, Process::cpu);
        let before = cpu();
        let mut busy = self.busy.keep_busy(&self.call, BUSY.calls_each, time).await;
        let spent = cpu() - before;
        let mut alone = self.alone.keep_busy(&self.call, 1, ALONE_TIME).await;
        self.rounds.push(Round {
            cpu_us: spent.as_secs_f64() * 1e6 / busy.len() as f64,
            calls_per_s: busy.len() as f64 / time.as_secs_f64(),
            busy_p50_us: p50_us(&mut busy),
            alone_p50_us: p50_us(&mut alone),
        });
    }

    fn middle_of(&self, figure: impl Fn(&Round) -> f64) -> f64 {
        median(self.rounds.iter().map(figure).collect())
    }
}

fn print(ways: &[Way]) -> f64 {
    let nginx = ways.iter().find(|way| way.name == "nginx");
    let Shape {
        connections,
        calls_each,
    } = BUSY;
    println!(
        "Route, 1 KiB payload, {} calls at once over {connections} connections, medians of {ROUNDS} rounds\n",
        connections * calls_each
    );
    println!(
        "| middle | CPU µs/call | × nginx (rounds) | p50 µs busy | p50 µs, 1 call at a time | calls/s |"
    );
    println!("|---|--:|--:|--:|--:|--:|");
    for way in ways {
        let ratio = nginx
            .filter(|_| way.middle.is_some())
            .map_or("–".to_owned(), |nginx| {
                let ratios = way.rounds.iter().zip(&nginx.rounds);
                let ratios: Vec<f64> = ratios
                    .map(|(ours, theirs)| ours.cpu_us / theirs.cpu_us)
                    .collect();
                let least = ratios.iter().copied().fold(f64::INFINITY, f64::min);
                let most = ratios.iter().copied().fold(0.0, f64::max);
                format!("{:.2} ({least:.2}–{most:.2})", median(ratios))
            });
        println!(
            "| {} | {:.1} | {ratio} | {:.0} | {:.0} | {:.0} |",
            way.name,
            way.middle_of(|round| round.cpu_us),
            way.middle_of(|round| round.busy_p50_us),
            way.middle_of(|round| round.alone_p50_us),
            way.middle_of(|round| round.calls_per_s),
        );
    }
    println!();
    ways.iter()
        .find(|way| way.name == "orchestrator")
        .map_or(f64::NAN, |way| way.middle_of(|round| round.cpu_us))
}
