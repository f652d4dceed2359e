//! The stream of a session between the orchestrator and an instance: what comes through it, what a broken one
//! means, and that it holds nobody up.

use std::net::SocketAddr;
use std::sync::Arc;

use orchestrator::domain::failure::Failure;
use orchestrator::domain::id::InstanceId;
use orchestrator::domain::payload::Payload;
use orchestrator::domain::task::Names;
use orchestrator::domain::trace::Carried;
use orchestrator::instance::endpoint::{Endpoint, dial_tcp};
use orchestrator::instance::grpc::GrpcInstance;
use orchestrator::instance::session::{Data, Frame, Open, Opened, Received};
use orchestrator::instance::{Credential, InstanceClient, Spec, tls};
use orchestrator::memory::Memory;
use orchestrator::tasks::Tasks;
use prost_types::value::Kind;

use crate::raw::soon;
use crate::stage::text;

mod broken;
mod builtin;
mod many;

/// The way to an instance that listens there.
pub(crate) fn instance(address: SocketAddr, tasks: &Tasks) -> GrpcInstance {
    let spec = Spec {
        id: InstanceId::parse("A").unwrap(),
        endpoint: Endpoint::parse(&address.to_string()).unwrap(),
        labels: Default::default(),
        weight: 1,
        calls_in_flight_max: None,
        credential: Credential::bearer("token-of-a"),
        tls: tls::Settings::default(),
    };
    GrpcInstance::new(&spec, &dial_tcp(), tasks, &Memory::new(usize::MAX)).unwrap()
}

/// The first opening of a session.
fn opening(session: &str, epoch: u64) -> Open {
    Open {
        session: session.into(),
        spawned_ms: 1_700_000_000_123,
        epoch,
        next_seq: 1,
        answered_through: 0,
        received: Received::default(),
        labels: Arc::new([("zone".to_owned(), "a".to_owned())].into()),
        names: Some(Names {
            request_id: "request-1".into(),
            traceparent: "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".into(),
            carried: Carried::default(),
        }),
    }
}

async fn open(instance: &GrpcInstance, open: Open) -> Result<Opened, Failure> {
    soon(instance.open_session(open)).await
}

fn payload(words: &str) -> Payload {
    Payload::check(text(words).unwrap()).unwrap()
}

/// A payload that asks a built-in instance for something.
fn asking(key: &str, value: Kind) -> Payload {
    let object = |key: &str, kind: Kind| {
        let value = prost_types::Value { kind: Some(kind) };
        Kind::StructValue(prost_types::Struct {
            fields: [(key.to_owned(), value)].into(),
        })
    };
    let asked = object("_builtin", object(key, value));
    let value = prost_types::Value { kind: Some(asked) };
    Payload::check(prost::Message::encode_to_vec(&value).into()).unwrap()
}

fn data(seq: u64, payload: Payload) -> Frame {
    Frame::Data(Data {
        seq,
        in_reply_to: None,
        redelivered: false,
        payload,
    })
}

fn answer(seq: u64, in_reply_to: u64, payload: Payload) -> Frame {
    Frame::Data(Data {
        seq,
        in_reply_to: Some(in_reply_to),
        redelivered: false,
        payload,
    })
}

/// Sends once there is room.
async fn send(opened: &mut Opened, frame: Frame) {
    soon(opened.sender.ready()).await.unwrap();
    opened.sender.send(frame).unwrap();
}

/// The next frame, which must be one.
async fn receive(opened: &mut Opened) -> Frame {
    soon(opened.receiver.receive()).await.unwrap().unwrap()
}

/// The failure with which the stream ends, and nothing after it.
async fn failure(opened: &mut Opened) -> Failure {
    let failure = soon(opened.receiver.receive()).await.unwrap().unwrap_err();
    assert_eq!(soon(opened.receiver.receive()).await, None);
    failure
}
