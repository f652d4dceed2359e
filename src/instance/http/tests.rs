//! Connections under a clock that is paused, at an instance that is played by hand.

use std::collections::BTreeMap;
use std::io;
use std::sync::Mutex;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
use tokio::time;

use super::*;
use crate::domain::failure::Status;
use crate::domain::task::{Form, Metadata, Names};
use crate::domain::trace::Carried;
use crate::instance::endpoint::{Connected, Endpoint};
use crate::instance::{Sent, tls};
use crate::payload_json::from_json;

/// An instance, and the other ends of its connections, in the order in which they were made.
struct Stage {
    instance: HttpInstance,
    dialed: Arc<Mutex<Vec<DuplexStream>>>,
}

impl Stage {
    /// It takes so long to connect.
    fn new(connect: Duration) -> Self {
        Self::at("http://127.0.0.1:1/run", connect)
    }

    fn at(address: &str, connect: Duration) -> Self {
        let dialed: Arc<Mutex<Vec<DuplexStream>>> = Arc::default();
        let far = Arc::clone(&dialed);
        let dial: Dial = Arc::new(move |_| {
            let far = Arc::clone(&far);
            Box::pin(async move {
                time::sleep(connect).await;
                let (near, other) = tokio::io::duplex(64 * 1024);
                far.lock().unwrap().push(other);
                Ok::<_, io::Error>(Box::new(near) as Box<dyn Connected>)
            })
        });
        let spec = Spec {
            id: InstanceId::parse("A").unwrap(),
            endpoint: Endpoint::parse(address).unwrap(),
            labels: BTreeMap::new(),
            weight: 1,
            calls_in_flight_max: None,
            credential: None,
            tls: tls::Settings::default(),
        };
        let memory = Memory::new(1 << 20);
        let instance = HttpInstance::new(&spec, &dial, &Tasks::new(), &memory).unwrap();
        Self { instance, dialed }
    }

    fn call(&self, timeout: Duration) -> Pending<Result<Payload, Failure>> {
        let names = Names {
            request_id: Bytes::from_static(b"test"),
            traceparent: Bytes::new(),
            carried: Carried::default(),
        };
        self.instance.execute(Call {
            task: Arc::new(Task {
                payload: from_json("1").unwrap(),
                metadata: Metadata::default(),
                names,
                form: Form::default(),
            }),
            attempt: 1,
            ends: Instant::now() + timeout,
            sent: Sent::default(),
            trace: None,
        })
    }

    /// A call during which the instance reads one request on its connection of this number and says this.
    async fn answered(&self, connection: usize, said: &str) -> Result<Payload, Failure> {
        let call = self.call(Duration::from_secs(60));
        let answering = async {
            let mut stream = loop {
                let there = connection < self.dialed.lock().unwrap().len();
                if there {
                    break self.dialed.lock().unwrap().remove(connection);
                }
                tokio::task::yield_now().await;
            };
            let mut read = Vec::new();
            while !read.ends_with(b"\r\n\r\n1") {
                assert_ne!(stream.read_buf(&mut read).await.unwrap(), 0);
            }
            stream.write_all(said.as_bytes()).await.unwrap();
            self.dialed.lock().unwrap().insert(connection, stream);
        };
        tokio::join!(call, answering).0
    }

    fn connections(&self) -> usize {
        self.dialed.lock().unwrap().len()
    }
}

const ONE: &str = "HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\n1";

#[tokio::test(start_paused = true)]
async fn a_connection_is_made_although_whoever_asked_for_it_has_left() {
    let stage = Stage::new(Duration::from_secs(1));
    let short = Duration::from_millis(100);
    assert!(time::timeout(short, stage.call(short)).await.is_err());
    assert_eq!(stage.connections(), 0);
    time::sleep(Duration::from_secs(2)).await;
    assert_eq!(stage.connections(), 1);
    let before = Instant::now();
    assert!(stage.answered(0, ONE).await.is_ok());
    assert_eq!((stage.connections(), before.elapsed()), (1, Duration::ZERO));
}

#[tokio::test(start_paused = true)]
async fn a_connection_is_kept_for_a_while_and_no_longer() {
    let stage = Stage::new(Duration::ZERO);
    stage.answered(0, ONE).await.unwrap();
    time::sleep(Duration::from_millis(3900)).await;
    stage.answered(0, ONE).await.unwrap();
    assert_eq!(stage.connections(), 1);
    time::sleep(Duration::from_millis(4001)).await;
    stage.answered(1, ONE).await.unwrap();
    assert_eq!(stage.connections(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_failure_is_not_held_up_by_its_words() {
    let stage = Stage::new(Duration::ZERO);
    let before = Instant::now();
    let head = "HTTP/1.1 503 Busy\r\ncontent-length: 100\r\n\r\nout of";
    let failure = stage.answered(0, head).await.unwrap_err();
    assert_eq!(failure.reason, Reason::InstanceFailed(Status::Unavailable));
    assert_eq!(before.elapsed(), Duration::from_secs(1));
}

#[tokio::test(start_paused = true)]
async fn an_instance_that_does_not_let_itself_be_connected_to_is_down_in_time() {
    // Over TLS the first connection may be enough for all, so that the others wait for it; not for its failure once more.
    for address in ["http://127.0.0.1:1/run", "https://127.0.0.1:1/run"] {
        let stage = Stage::at(address, Duration::from_secs(3600));
        let before = Instant::now();
        let calls = (0..3).map(|_| stage.call(Duration::from_secs(60)));
        for outcome in futures_util::future::join_all(calls).await {
            let failure = outcome.unwrap_err();
            assert_eq!(failure.progress, Progress::NeverSent);
            let expected = format!("connect to {address}: no answer within 5 s");
            assert_eq!(failure.detail, expected);
        }
        assert_eq!(before.elapsed(), Duration::from_secs(5), "{address}");
    }
}
