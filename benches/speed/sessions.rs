//! What a session costs that is attached and has nothing to say: memory of the orchestrator, as a slope.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::{Buf as _, Bytes, BytesMut};
use h2::client::SendRequest;
use h2::{RecvStream, SendStream, server};
use http::{HeaderValue, Response, header};
use orchestrator::proto::instance::{SessionOpened, SessionResponse, session_response};
use orchestrator::proto::orchestrator::{
    SessionAck, SessionClientData, SessionHello, SessionSendRequest, SessionSendResponse,
    SessionSpawnRequest, session_send_request, session_send_response,
};
use prost::Message;
use tokio::runtime;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::call::{Call, framed};
use crate::load::{Connections, one};
use crate::process::Process;

/// The two ends of the slope.
const FEW: usize = 1_000;
const MANY: usize = 50_000;
/// Sessions on one connection of the client; its limit at the door of this orchestrator.
pub(crate) const STREAMS_EACH: usize = 1_000;
/// A quarter of the most that one instance takes, and room for all sessions in all of them.
const INSTANCES: usize = 4;
/// Sessions that are begun at once.
const AT_ONCE: usize = 256;
/// How long memory may go on settling before it is read.
const SETTLE: Duration = Duration::from_secs(3);

/// An attached session. Dropping it detaches.
struct Attached {
    _to: SendStream<Bytes>,
    _from: RecvStream,
}

/// Prints the slope.
pub(crate) fn measure() {
    let runtime = runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let journal = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let instances = Process::role("echo", &[INSTANCES.to_string()]);
    let mut arguments = vec![journal.path().to_str().unwrap().to_owned()];
    let named = instances.addresses.iter().zip(1..);
    arguments.extend(named.map(|(address, at)| format!("w{at}={address}")));
    let house = Process::role("orchestrator-with-sessions", &arguments);
    println!("Attached sessions that rest, one message each before\n");
    println!(
        "| sessions | memory of the orchestrator, MB | begun in, s | CPU at rest, % of a core |"
    );
    println!("|--:|--:|--:|--:|");
    let mut attached = Vec::new();
    let mut points = Vec::new();
    for sessions in [FEW, MANY] {
        let began = Instant::now();
        runtime.block_on(attach(house.addresses[0], &mut attached, sessions));
        let took = began.elapsed();
        // The client reads on while memory settles and rest is measured.
        let rest = || runtime.block_on(async { tokio::time::sleep(SETTLE).await });
        rest();
        let before = house.cpu();
        rest();
        let busy = (house.cpu() - before).as_secs_f64() / SETTLE.as_secs_f64() * 100.0;
        let bytes = house.resident();
        println!(
            "| {sessions} | {:.1} | {:.1} | {busy:.1} |",
            bytes as f64 / 1e6,
            took.as_secs_f64()
        );
        points.push(bytes as f64);
    }
    let slope = (points[1] - points[0]) / (MANY - FEW) as f64;
    println!("\n{:.1} KB for each session (goal: 12)\n", slope / 1e3);
}

/// Attaches more sessions, until there are so many.
async fn attach(
    address: SocketAddr,
    attached: &mut Vec<(Connections, Vec<Attached>)>,
    wanted: usize,
) {
    let begun = |attached: &[(Connections, Vec<Attached>)]| -> usize {
        attached.iter().map(|(_, sessions)| sessions.len()).sum()
    };
    while begun(attached) < wanted {
        let first = begun(attached);
        let connections = Connections::open(address, 1).await;
        let mut sessions = Vec::new();
        let mut starting = JoinSet::new();
        for at in first..wanted.min(first + STREAMS_EACH - 1) {
            if AT_ONCE <= starting.len() {
                sessions.push(starting.join_next().await.unwrap().unwrap());
            }
            starting.spawn(begin(connections.sender(), address.to_string(), at));
        }
        sessions.extend(starting.join_all().await);
        attached.push((connections, sessions));
    }
}

/// Spawns a session, attaches to it, and says one thing, so that its instance holds it too.
async fn begin(sender: SendRequest<Bytes>, authority: String, at: usize) -> Attached {
    let session_id = format!("session-{at}");
    let spawn = Call::new(
        "/openclaw.orchestrator.v1.OrchestratorService/SessionSpawn",
        &SessionSpawnRequest {
            session_id: session_id.clone(),
            ..SessionSpawnRequest::default()
        },
    );
    one(
        sender.clone(),
        spawn.request(&authority),
        spawn.message.clone(),
    )
    .await;
    let hello = frame(session_send_request::Frame::Hello(SessionHello {
        session_id: session_id.clone(),
        last_received_seq: None,
    }));
    let send = Call::without_timeout(
        "/openclaw.orchestrator.v1.OrchestratorService/SessionSend",
        &hello,
    );
    let mut sender = sender.ready().await.unwrap();
    let (response, mut to) = sender
        .send_request(send.request(&authority), false)
        .unwrap();
    to.send_data(send.message.clone(), false).unwrap();
    let message = frame(session_send_request::Frame::Data(SessionClientData {
        seq: 1,
        payload: None,
        in_reply_to: 0,
    }));
    to.send_data(framed(&message), false).unwrap();
    let mut from = response.await.unwrap().into_body();
    let mut unread = BytesMut::new();
    // Ready, then the acknowledgement of the message.
    loop {
        let data = from.data().await.expect("an open stream").unwrap();
        from.flow_control().release_capacity(data.len()).unwrap();
        unread.extend_from_slice(&data);
        while let Some(frame) = next(&mut unread) {
            if let Some(session_send_response::Frame::Ack(SessionAck { seq: 1 })) = frame.frame {
                return Attached {
                    _to: to,
                    _from: from,
                };
            }
        }
    }
}

fn frame(frame: session_send_request::Frame) -> SessionSendRequest {
    SessionSendRequest { frame: Some(frame) }
}

/// Takes one whole message off the front.
fn next(unread: &mut BytesMut) -> Option<SessionSendResponse> {
    let length = u32::from_be_bytes(unread.get(1..5)?.try_into().unwrap()) as usize;
    let frame = SessionSendResponse::decode(unread.get(5..5 + length)?).unwrap();
    unread.advance(5 + length);
    Some(frame)
}

/// As an instance: takes a session and keeps it, whatever is said in it.
pub(crate) async fn converse(
    mut body: RecvStream,
    mut respond: server::SendResponse<Bytes>,
) -> Result<(), h2::Error> {
    let mut head = Response::new(());
    head.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/grpc"),
    );
    let mut to = respond.send_response(head, false)?;
    let opened = SessionResponse {
        frame: Some(session_response::Frame::Opened(SessionOpened {
            received_through: 0,
        })),
    };
    to.send_data(framed(&opened), false)?;
    while let Some(data) = body.data().await {
        let data = data?;
        body.flow_control().release_capacity(data.len())?;
    }
    Ok(())
}
