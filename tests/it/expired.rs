//! Certificates of callers that come to their end while their connections are open.

use std::time::{Duration, SystemTime};

use h2::client::{ResponseFuture, SendRequest};
use orchestrator::ingress::listener::Limits;
use orchestrator::ingress::listener::secure::ClientCertificate;
use orchestrator::proto::orchestrator::RouteRequest;
use tokio::sync::watch;

use crate::raw::caller::grpc;
use crate::raw::{frame, soon};
use crate::stage::authority::{Authority, Caller, DOOR, Files, Time};
use crate::stage::instance::{Act, Instance};
use crate::stage::{App, Config, config, planned, start, text};

const ROUTE: &str = "/openclaw.orchestrator.v1.OrchestratorService/Route";
/// Longer than a test.
const LONG: Duration = Duration::from_secs(600);
/// Long after the date.
const LATE: Duration = Duration::from_secs(5);
/// A machine may be too slow for a date once or twice.
const TRIES: usize = 5;

/// Which date comes first.
#[derive(Debug, Clone, Copy)]
enum Ends {
    Certificate,
    List,
}

/// An orchestrator that has taken a call from a caller whose certificate, or list, comes to its end soon.
struct House {
    app: App,
    authority: Authority,
    held: Instance,
    let_go: watch::Sender<bool>,
    files: Files,
}

type Asked = (SendRequest<bytes::Bytes>, ResponseFuture);

impl House {
    async fn new(age_grace: Duration) -> Self {
        let authority = Authority::new();
        let pair = authority.pair(DOOR, Time::Valid);
        let files = Files::new(&pair, Some((&authority, ClientCertificate::Required)));
        files.put("crl.pem", &authority.revoked(&[], Time::Valid));
        let (let_go, gate) = watch::channel(false);
        let held = Instance::start(Act::EchoOnce(gate)).await;
        let mut tls = files.settings();
        tls.look_interval = Duration::from_millis(5);
        let app = start(Config {
            tls: Some(tls),
            instances: vec![planned("held", held.address)],
            limits: Limits {
                age_grace,
                ..Limits::default()
            },
            ..config()
        })
        .await;
        Self {
            app,
            authority,
            held,
            let_go,
            files,
        }
    }

    /// A call that its instance has, and the caller's way back.
    async fn call(&self, ends: Ends) -> (Asked, Caller) {
        for _ in 0..TRIES {
            let time = match ends {
                Ends::Certificate => within_a_moment(),
                Ends::List => Time::Valid,
            };
            let shown = self.authority.pair("one.internal", time);
            let caller = Caller::new(&self.authority, Some(&shown));
            let before = self.held.counts.borrow().begun;
            let Some(asked) = self.ask(&caller).await else {
                // Too slow for the date: again.
                continue;
            };
            let has_it = self.held.until(|counts| before < counts.begun);
            if tokio::time::timeout(LATE, has_it).await.is_err() {
                continue;
            }
            if let Ends::List = ends {
                let list = self.authority.revoked(&[], within_a_moment());
                self.files.put("crl.pem", &list);
            }
            return (asked, caller);
        }
        panic!("no call has come before its date");
    }

    async fn ask(&self, caller: &Caller) -> Option<Asked> {
        let stream = caller.shake(self.app.address()).await.ok()?;
        let (sender, connection) = h2::client::handshake(stream).await.ok()?;
        tokio::task::spawn(connection);
        let mut sender = sender.ready().await.ok()?;
        let request = grpc(ROUTE, &[("grpc-timeout", "10M")]);
        let (answer, mut body) = sender.send_request(request, false).ok()?;
        let task = RouteRequest {
            instances: vec!["held".into()],
            payload: text("task"),
            ..Default::default()
        };
        body.send_data(frame::message(&task).into(), true).ok()?;
        Some((sender, answer))
    }
}

/// Dates have whole seconds.
fn within_a_moment() -> Time {
    Time::Until(SystemTime::now() + Duration::from_secs(2))
}

/// Waits until the peer has said that it takes no more.
async fn until_goaway(mut sender: SendRequest<bytes::Bytes>) {
    soon(async {
        while let Ok(ready) = sender.ready().await {
            sender = ready;
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_connection_takes_no_more_calls_than_its_certificate_allows_and_finishes_what_it_has() {
    for ends in [Ends::Certificate, Ends::List] {
        let house = House::new(LONG).await;
        let ((sender, answer), caller) = house.call(ends).await;
        until_goaway(sender).await;
        house.let_go.send_replace(true);
        let (head, mut body) = soon(answer).await.unwrap().into_parts();
        assert_eq!(head.status, 200, "{ends:?}");
        while let Some(part) = soon(body.data()).await {
            part.unwrap();
        }
        let trailers = soon(body.trailers()).await.unwrap().unwrap();
        assert_eq!(trailers["grpc-status"], "0", "{ends:?}");
        // Whoever comes again is refused, if only once it has asked (TLS 1.3).
        if let Some((_, answer)) = house.ask(&caller).await {
            assert!(soon(answer).await.is_err(), "{ends:?}");
        }
    }
}

#[tokio::test]
async fn a_call_that_outlasts_the_grace_of_an_expired_certificate_is_cut() {
    let house = House::new(Duration::from_millis(100)).await;
    let ((sender, answer), _) = house.call(Ends::Certificate).await;
    until_goaway(sender).await;
    assert!(soon(answer).await.is_err());
    house.held.until(|counts| 1 <= counts.reset).await;
}
