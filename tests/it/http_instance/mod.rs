//! Instances that take tasks as JSON over HTTP: what they are sent, what their answers mean, and what a broken one
//! proves about the task.

use std::sync::Arc;
use std::time::Duration;

use orchestrator::config::Planned;
use orchestrator::domain::failure::{Failure, Progress, Reason, Status};
use orchestrator::domain::id::InstanceId;
use orchestrator::domain::payload::Payload;
use orchestrator::domain::task::{Form, Metadata, Names, Task};
use orchestrator::domain::trace::Carried;
use orchestrator::instance::endpoint::{Endpoint, dial_tcp};
use orchestrator::instance::http::HttpInstance;
use orchestrator::instance::{Call, Credential, InstanceClient, Sent, Spec, tls};
use orchestrator::memory::Memory;
use orchestrator::payload_json::{from_json, to_json};
use orchestrator::tasks::Tasks;
use tokio::time::Instant;

mod answers;
mod by_hand;
mod connections;
mod house;
mod over_tls;

use by_hand::ByHand;

fn spec(address: &str) -> Spec {
    Spec {
        id: InstanceId::parse("A").unwrap(),
        endpoint: Endpoint::parse(address).unwrap(),
        labels: Default::default(),
        weight: 1,
        calls_in_flight_max: None,
        credential: Credential::bearer("token-of-a"),
        tls: tls::Settings::default(),
    }
}

/// The way to an instance, and what is held for it.
struct Reached {
    instance: HttpInstance,
    tasks: Tasks,
    memory: Memory,
}

fn reach(spec: &Spec) -> Reached {
    let (tasks, memory) = (Tasks::new(), Memory::new(1 << 30));
    let instance = HttpInstance::new(spec, &dial_tcp(), &tasks, &memory).unwrap();
    Reached {
        instance,
        tasks,
        memory,
    }
}

fn reach_by_hand(by_hand: &ByHand) -> Reached {
    reach(&spec(&format!("http://{}/run", by_hand.address)))
}

fn task(payload: Payload) -> Arc<Task> {
    let metadata = [("tenant".to_owned(), "blue".to_owned())];
    Arc::new(Task {
        payload,
        metadata: Metadata::check(metadata).unwrap(),
        names: Names {
            request_id: "request-1".into(),
            traceparent: "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".into(),
            carried: Carried::of([("baggage", &b"k=v"[..]), ("b3", b"0")].into_iter(), None),
        },
        form: Form::default(),
    })
}

fn call(payload: &str) -> Call {
    Call {
        task: task(from_json(payload).unwrap()),
        attempt: 2,
        ends: Instant::now() + Duration::from_secs(60),
        sent: Sent::default(),
        trace: None,
    }
}

/// The answer as JSON, or why there is none.
async fn told(answer: impl Future<Output = Result<Payload, Failure>>) -> Result<String, Failure> {
    let answer = crate::raw::soon(answer).await;
    answer.map(|payload| to_json(payload.encoded()).unwrap())
}

/// An instance of the config at this address.
fn planned(id: &str, address: &str) -> Planned {
    Planned::Remote(Spec {
        id: InstanceId::parse(id).unwrap(),
        credential: None,
        ..spec(address)
    })
}
