//! The connection to an instance breaks in the middle of its answers, at every place there is.

use std::net::SocketAddr;

use orchestrator::proto::orchestrator::{CallPolicy, HealthState};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use crate::kill::check_once;
use crate::load::{Account, call, connect, settled};
use crate::processes::{Instance, Orchestrator};

/// Bytes of an answer's payload: more than one HTTP/2 frame.
const ANSWER: usize = 40_000;
/// Places at which answers are cut.
const CUTS: usize = 60;

/// A way to an instance that breaks once so many bytes have come back on one connection.
struct Cutter {
    address: SocketAddr,
    /// Bytes from the instance after which a connection breaks.
    after: watch::Sender<usize>,
}

impl Cutter {
    async fn start(instance: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (after, limit) = watch::channel(usize::MAX);
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                tokio::spawn(forward(near, instance, limit.clone()));
            }
        });
        Self { address, after }
    }
}

async fn forward(near: TcpStream, instance: SocketAddr, limit: watch::Receiver<usize>) {
    let far = TcpStream::connect(instance).await.unwrap();
    let (mut near_in, mut near_out) = near.into_split();
    let (mut far_in, mut far_out) = far.into_split();
    let there = tokio::spawn(async move { tokio::io::copy(&mut near_in, &mut far_out).await });
    let mut bytes = vec![0; 4096];
    // Counted from the last change of the limit, so that a place means a place within the answers to come.
    let (mut passed, mut counted_for) = (0, *limit.borrow());
    while let Ok(read @ 1..) = far_in.read(&mut bytes).await {
        let limit = *limit.borrow();
        if limit != counted_for {
            (passed, counted_for) = (0, limit);
        }
        let allowed = read.min(limit.saturating_sub(passed));
        if near_out.write_all(&bytes[..allowed]).await.is_err() || allowed < read {
            break;
        }
        passed += read;
    }
    there.abort();
}

pub(crate) async fn an_answer_cut_at_any_byte_is_one_outcome_and_never_a_second_execution() {
    let mut instance = Instance::start("A");
    let cutter = Cutter::start(instance.address).await;
    let orchestrator = Orchestrator::start(&[("A", cutter.address)]);
    settled(orchestrator.address, |_, state| {
        state == HealthState::Healthy
    })
    .await;
    instance.tell(&format!("padded {ANSWER}"));
    let mut client = connect(orchestrator.address).await;
    let mut account = Account::default();
    for cut in 0..CUTS {
        cutter.after.send(usize::MAX).unwrap();
        settled(orchestrator.address, |_, state| {
            state == HealthState::Healthy
        })
        .await;
        // Odd steps meet frame headers, length prefixes, payload and trailers.
        cutter.after.send(1 + cut * 701).unwrap();
        let one = call(&mut client, format!("cut-{cut}"), CallPolicy::default()).await;
        one.check();
        account.add(one);
    }
    println!("{account}");
    let cut: usize = account.failed.values().sum();
    assert!(CUTS / 2 < cut, "most answers were cut: {account}");
    let known = ["Unavailable INSTANCE_LOST", "Unavailable INSTANCE_DOWN"];
    assert!(
        account
            .failed
            .keys()
            .all(|kind| known.contains(&kind.as_str())),
        "{account}"
    );
    check_once(&[instance]);
}
