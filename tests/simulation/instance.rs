//! An instance of the simulation: HTTP/2 by hand, so that it can misbehave in every way that the protocol has.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::net::Ipv4Addr;
use std::rc::Rc;
use std::time::Duration;

use bytes::{BufMut as _, Bytes, BytesMut};
use h2::server::SendResponse;
use h2::{Reason, RecvStream};
use http::{HeaderMap, HeaderValue, Request, Response};
use orchestrator::domain::deadline::from_grpc_timeout;
use orchestrator::proto::health::HealthCheckResponse;
use orchestrator::proto::health::health_check_response::ServingStatus;
use orchestrator::proto::instance::{ExecuteRequest, ExecuteResponse};
use prost::Message as _;
use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio::sync::mpsc;
use tokio::task::spawn_local;
use tokio::time::sleep;
use turmoil::net::{TcpListener, TcpStream};

use crate::history::{Arrival, Begun, History, Left, Said, What};
use crate::lie::Lie;
use crate::mood::{Act, Mood, Says};
use crate::payload;
use crate::plan;
use crate::watch::{self, Watched};

/// Where instances listen.
pub(crate) const PORT: u16 = 9000;

/// One life of an instance.
pub(crate) struct Instance {
    plan: plan::Instance,
    history: History,
    lie: Option<Lie>,
    dice: RefCell<SmallRng>,
    /// The next number of an execution or a watch; unique over all instances and lives.
    numbers: Rc<Cell<u32>>,
}

/// What concerns a whole connection.
enum Order {
    GoAway,
    GoAwayAtOnce,
    Hangup,
}

impl Instance {
    pub(crate) fn new(
        plan: plan::Instance,
        seed: u64,
        numbers: Rc<Cell<u32>>,
        history: History,
        lie: Option<Lie>,
    ) -> Self {
        Self {
            plan,
            history,
            lie,
            dice: RefCell::new(SmallRng::seed_from_u64(seed)),
            numbers,
        }
    }

    pub(crate) fn id(&self) -> &str {
        &self.plan.id
    }

    pub(crate) fn watched(&self) -> Watched {
        self.plan.watched
    }

    pub(crate) fn lies(&self, lie: Lie) -> bool {
        self.lie == Some(lie)
    }

    pub(crate) fn note(&self, what: What) {
        self.history.note(what);
    }

    pub(crate) fn next_number(&self) -> u32 {
        self.numbers.replace(self.numbers.get() + 1)
    }

    pub(crate) fn flips_a_coin(&self) -> bool {
        self.dice.borrow_mut().random()
    }

    /// What it says of itself now.
    pub(crate) fn says(&self) -> Says {
        self.mood().says
    }

    /// How long until it may feel otherwise.
    pub(crate) fn next_change(&self, now: Duration) -> Duration {
        let mut moods = self.plan.moods.iter();
        let next = moods.find(|(from, _)| now < *from);
        next.map_or(Duration::MAX, |(from, _)| *from - now)
    }

    /// Serves until it crashes.
    pub(crate) async fn serve(self: Rc<Self>) -> turmoil::Result {
        let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, PORT)).await?;
        loop {
            let (stream, _) = listener.accept().await?;
            spawn_local(Rc::clone(&self).connection(stream));
        }
    }

    fn mood(&self) -> Mood {
        let now = turmoil::sim_elapsed().unwrap_or_default();
        let begun = |(from, _): &&(Duration, Mood)| *from <= now;
        let (_, mood) = self.plan.moods.iter().rev().find(begun).unwrap();
        *mood
    }

    async fn connection(self: Rc<Self>, stream: TcpStream) {
        let Ok(mut connection) = h2::server::handshake(stream).await else {
            return;
        };
        let (orders, mut given) = mpsc::channel(16);
        loop {
            let accepted = tokio::select! {
                biased;
                order = given.recv() => match order {
                    Some(Order::GoAway) => {
                        connection.graceful_shutdown();
                        continue;
                    }
                    Some(Order::GoAwayAtOnce) => {
                        connection.abrupt_shutdown(Reason::NO_ERROR);
                        continue;
                    }
                    Some(Order::Hangup) | None => return,
                },
                accepted = connection.accept() => accepted,
            };
            let Some(Ok((request, respond))) = accepted else {
                return;
            };
            let this = Rc::clone(&self);
            if request.uri().path() == "/grpc.health.v1.Health/Check" {
                spawn_local(async move { this.check(respond).await });
            } else if request.uri().path() == "/grpc.health.v1.Health/Watch" {
                spawn_local(watch::serve(this, respond));
            } else if request.uri().path() == "/openclaw.instance.v1.InstanceService/Execute" {
                let orders = orders.clone();
                spawn_local(async move { this.execute(request, respond, orders).await });
            } else {
                spawn_local(async move { status(respond, 12, None) });
            }
        }
    }

    async fn check(&self, mut respond: SendResponse<Bytes>) {
        let says = self.mood().says;
        let said = match says {
            Says::Serving => Said::Serving,
            _ if self.plan.watched == Watched::HasNoHealth => Said::Serving,
            Says::NotServing => Said::NotServing,
            Says::Either if self.dice.borrow_mut().random() => Said::Serving,
            Says::Either => Said::NotServing,
            Says::Nothing => Said::Nothing,
        };
        let has_health = self.plan.watched != Watched::HasNoHealth;
        let noted = if self.lie == Some(Lie::TakesWorkWhileOut) {
            Said::NotServing
        } else {
            said
        };
        self.history.note(What::Probed {
            instance: self.plan.id.clone(),
            said: noted,
        });
        match said {
            _ if !has_health => status(respond, 12, None),
            Said::Nothing => drop(reset(&mut respond).await),
            Said::Serving | Said::NotServing => answer(respond, &frame(&health_message(said))),
        }
    }

    async fn execute(
        &self,
        request: Request<RecvStream>,
        mut respond: SendResponse<Bytes>,
        orders: mpsc::Sender<Order>,
    ) {
        let (head, mut body) = request.into_parts();
        let mut message = BytesMut::new();
        while let Some(data) = body.data().await {
            let Ok(data) = data else { return };
            let _ = body.flow_control().release_capacity(data.len());
            message.extend_from_slice(&data);
        }
        let message = message.freeze();
        let task = ExecuteRequest::decode(message.slice(5..)).expect("an ExecuteRequest");
        let task = payload::task(task.payload.as_deref());
        let act = self.mood().act(&mut self.dice.borrow_mut());
        let refuses = act == Act::Refuse && self.lie != Some(Lie::ExecutesWhatItRefuses);
        let execution = self.next_number();
        self.history.note(What::Arrived(Arrival {
            execution,
            instance: self.plan.id.clone(),
            task,
            word: head
                .headers
                .get("idempotency-key")
                .and_then(|word| word.to_str().ok().map(str::to_owned)),
            attempt: number(&head.headers, "x-orchestrator-attempt"),
            budget: head
                .headers
                .get("grpc-timeout")
                .and_then(|value| from_grpc_timeout(value.as_bytes())),
            begun: if refuses { Begun::No } else { Begun::Yes },
        }));
        let answered = ExecuteResponse {
            payload: Some(payload::write(&payload::answered(
                task,
                &self.plan.id,
                execution,
            ))),
        };
        let how = self.play(act, &mut respond, &answered, orders).await;
        if let (Act::PushBack(millis), Left::Failed) = (act, how) {
            let more = self.lie == Some(Lie::AsksForMorePatience) && 0 <= millis;
            let millis = if more { millis + 1000 } else { millis };
            // At the time at which it leaves.
            self.history.note(What::PushedBack { execution, millis });
        }
        if self.lie != Some(Lie::HidesResets) || how != Left::Reset {
            self.history.note(What::Left { execution, how });
        }
    }

    async fn play(
        &self,
        act: Act,
        respond: &mut SendResponse<Bytes>,
        answered: &ExecuteResponse,
        orders: mpsc::Sender<Order>,
    ) -> Left {
        let delay = match act {
            Act::Answer(most) | Act::Fail(_, most) => self.dice.borrow_mut().random_range(0..=most),
            Act::Stall
            | Act::PushBack(_)
            | Act::Refuse
            | Act::HalfAnswer
            | Act::CutMessage
            | Act::NoTrailers
            | Act::EmptyAnswer
            | Act::Hangup
            | Act::GoAway
            | Act::GoAwayAtOnce => self.dice.borrow_mut().random_range(0..=5),
        };
        if 0 < delay {
            tokio::select! {
                biased;
                left = reset(respond) => return left,
                () = sleep(Duration::from_millis(delay)) => {}
            }
        }
        let whole = frame(&answered.encode_to_vec());
        match act {
            Act::Answer(_) => return answer_on(respond, &whole),
            Act::Stall => return reset(respond).await,
            Act::Fail(code, _) => return status_on(respond, code, None),
            Act::PushBack(millis) => return status_on(respond, 14, Some(millis)),
            Act::Refuse => {
                respond.send_reset(Reason::REFUSED_STREAM);
                return Left::Refused;
            }
            Act::GoAway => {
                let _ = orders.send(Order::GoAway).await;
                return answer_on(respond, &whole);
            }
            Act::GoAwayAtOnce => {
                self.history.note(What::HungUp(self.plan.id.clone()));
                let _ = orders.send(Order::GoAwayAtOnce).await;
            }
            Act::Hangup => {
                self.history.note(What::HungUp(self.plan.id.clone()));
                let _ = orders.send(Order::Hangup).await;
            }
            Act::HalfAnswer | Act::CutMessage | Act::NoTrailers | Act::EmptyAnswer => {
                half(act, respond, &whole);
            }
        }
        Left::Failed
    }
}

/// Waits until the orchestrator has reset the call, or is gone.
async fn reset(respond: &mut SendResponse<Bytes>) -> Left {
    match poll_fn(|context| respond.poll_reset(context)).await {
        Ok(_) => Left::Reset,
        Err(_) => Left::Lost,
    }
}

fn half(act: Act, respond: &mut SendResponse<Bytes>, whole: &Bytes) {
    let Ok(mut stream) = respond.send_response(head(), false) else {
        return;
    };
    // Whoever is gone by now does not see it.
    if act == Act::HalfAnswer {
        let _ = stream.send_data(whole.slice(..whole.len() / 2), false);
        stream.send_reset(Reason::INTERNAL_ERROR);
    } else if act == Act::NoTrailers {
        let _ = stream.send_data(whole.clone(), true);
    } else {
        let cut = if act == Act::CutMessage {
            whole.slice(..whole.len() - 1)
        } else {
            Bytes::new()
        };
        let _ = stream.send_data(cut, false);
        let _ = stream.send_trailers(trailers(0));
    }
}

/// The message that says so.
pub(crate) fn health_message(said: Said) -> Vec<u8> {
    let serving = match said {
        Said::Serving => ServingStatus::Serving,
        Said::NotServing | Said::Nothing => ServingStatus::NotServing,
    };
    let message = HealthCheckResponse {
        status: serving.into(),
    };
    message.encode_to_vec()
}

fn answer(mut respond: SendResponse<Bytes>, whole: &Bytes) {
    answer_on(&mut respond, whole);
}

fn answer_on(respond: &mut SendResponse<Bytes>, whole: &Bytes) -> Left {
    let Ok(mut stream) = respond.send_response(head(), false) else {
        return Left::Lost;
    };
    let sent = stream.send_data(whole.clone(), false);
    if sent
        .and_then(|()| stream.send_trailers(trailers(0)))
        .is_err()
    {
        return Left::Lost;
    }
    Left::Answered
}

pub(crate) fn status(mut respond: SendResponse<Bytes>, code: u16, pushback: Option<i64>) {
    status_on(&mut respond, code, pushback);
}

fn status_on(respond: &mut SendResponse<Bytes>, code: u16, pushback: Option<i64>) -> Left {
    let mut response = head();
    response.headers_mut().extend(trailers(code));
    if let Some(millis) = pushback {
        let millis = HeaderValue::from_str(&millis.to_string()).unwrap();
        response
            .headers_mut()
            .insert("grpc-retry-pushback-ms", millis);
    }
    match respond.send_response(response, true) {
        Ok(_) => Left::Failed,
        Err(_) => Left::Lost,
    }
}

pub(crate) fn head() -> Response<()> {
    let head = Response::builder().header("content-type", "application/grpc");
    head.body(()).unwrap()
}

pub(crate) fn trailers(code: u16) -> HeaderMap {
    [("grpc-status", code)]
        .into_iter()
        .map(|(name, code)| (name.parse().unwrap(), HeaderValue::from(code)))
        .collect()
}

pub(crate) fn frame(message: &[u8]) -> Bytes {
    let mut framed = BytesMut::with_capacity(5 + message.len());
    framed.put_u8(0);
    framed.put_u32(message.len() as u32);
    framed.extend_from_slice(message);
    framed.freeze()
}

fn number(headers: &HeaderMap, name: &str) -> u32 {
    let value = headers.get(name).and_then(|value| value.to_str().ok());
    value.and_then(|text| text.parse().ok()).unwrap_or_default()
}
