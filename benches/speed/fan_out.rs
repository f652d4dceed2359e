//! Fanout over N instances: when the first and the last partial is there, and what a leg costs.

use std::time::Duration;

use bytes::{Buf as _, BytesMut};
use h2::RecvStream;
use tokio::runtime;
use tokio::time::Instant;

use crate::call::Call;
use crate::load::Connections;
use crate::process::{Process, median};

/// Targets, and calls in one round of them.
const SIZES: [(usize, usize); 3] = [(8, 60), (64, 30), (1000, 8)];
const ROUNDS: usize = 7;
/// `FanoutResponse.event`: the keys of its fields.
const PARTIAL: u8 = 2 << 3 | 2;
const SUMMARY: u8 = 3 << 3 | 2;

#[derive(Default)]
struct Figures {
    first_ms: Vec<f64>,
    last_ms: Vec<f64>,
    leg_us: Vec<f64>,
}

/// Prints the table.
pub(crate) fn measure() {
    let runtime = runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let most = SIZES.map(|(targets, _)| targets).into_iter().max().unwrap();
    let instances = Process::role("echo", &[most.to_string()]);
    let named: Vec<_> = instances
        .addresses
        .iter()
        .zip(1..)
        .map(|(address, at)| format!("w{at:04}={address}"))
        .collect();
    let houses =
        ["orchestrator", "orchestrator-one-thread"].map(|role| Process::role(role, &named));
    let mut figures = houses.each_ref().map(|_| SIZES.map(|_| Figures::default()));
    runtime.block_on(async {
        let mut connections = Vec::new();
        for house in &houses {
            connections.push(Connections::open(house.addresses[0], 1).await);
        }
        for at in 0..=ROUNDS {
            for size in 0..SIZES.len() {
                for house in 0..houses.len() {
                    // Back and forth, as with Route; the round before the first only warms up.
                    let turn = |count: usize, place: usize| {
                        if at % 2 == 0 {
                            place
                        } else {
                            count - 1 - place
                        }
                    };
                    let (size, house) = (turn(SIZES.len(), size), turn(houses.len(), house));
                    let mut warm_up = Figures::default();
                    let figures = if at == 0 {
                        &mut warm_up
                    } else {
                        &mut figures[house][size]
                    };
                    let (targets, calls) = SIZES[size];
                    round(&connections[house], &houses[house], targets, calls, figures).await;
                }
            }
        }
    });
    print(figures);
}

async fn round(
    connections: &Connections,
    house: &Process,
    targets: usize,
    calls: usize,
    figures: &mut Figures,
) {
    let call = Call::fan_out(format!("w0001-w{targets:04}"));
    let before = house.cpu();
    for _ in 0..calls {
        let began = Instant::now();
        let body = connections.send(&call).await;
        let (first, last) = partials(body, targets).await;
        figures.first_ms.push(ms(first - began));
        figures.last_ms.push(ms(last - began));
    }
    let spent = house.cpu() - before;
    figures
        .leg_us
        .push(spent.as_secs_f64() * 1e6 / (calls * targets) as f64);
}

/// Reads all events; returns when the first and the last partial was there.
async fn partials(mut body: RecvStream, expected: usize) -> (Instant, Instant) {
    let (mut seen, mut first, mut last) = (0, None, None);
    let mut unread = BytesMut::new();
    let mut is_summed_up = false;
    while let Some(data) = body.data().await {
        let data = data.unwrap();
        body.flow_control().release_capacity(data.len()).unwrap();
        unread.extend_from_slice(&data);
        let now = Instant::now();
        while let Some(key) = event(&mut unread) {
            if key == PARTIAL {
                seen += 1;
                first.get_or_insert(now);
                last = Some(now);
            }
            is_summed_up |= key == SUMMARY;
        }
    }
    let trailers = body.trailers().await.unwrap().expect("trailers");
    assert_eq!(trailers["grpc-status"], "0");
    assert!(seen == expected && is_summed_up, "{seen} of {expected}");
    (first.unwrap(), last.unwrap())
}

/// Takes one whole message off the front; returns the key of its field.
fn event(unread: &mut BytesMut) -> Option<u8> {
    let length = u32::from_be_bytes(unread.get(1..5)?.try_into().unwrap()) as usize;
    let key = *unread.get(5..5 + length)?.first()?;
    unread.advance(5 + length);
    Some(key)
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

fn print(figures: [[Figures; SIZES.len()]; 2]) {
    println!("Fanout, 1 KiB payload, one call at a time, medians of {ROUNDS} rounds\n");
    println!("| targets | runtime | calls | first partial ms | last partial ms | CPU µs/leg |");
    println!("|--:|---|--:|--:|--:|--:|");
    let runtimes = ["a thread a core", "one thread"];
    for (runtime, figures) in runtimes.into_iter().zip(figures) {
        for ((targets, _), figures) in SIZES.into_iter().zip(figures) {
            println!(
                "| {targets} | {runtime} | {} | {:.2} | {:.1} | {:.1} |",
                figures.first_ms.len(),
                median(figures.first_ms),
                median(figures.last_ms),
                median(figures.leg_us)
            );
        }
    }
    println!();
}
