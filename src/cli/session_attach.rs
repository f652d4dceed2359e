//! A conversation on standard input and output that outlives connections and servers.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use tokio::fs::File;
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};

use super::connection::Connection;
use super::exit::{Error, Exit};
use super::output::Output;
use super::{failure_text, json_output, payload_source};
use crate::payload_json;
use crate::proto::orchestrator as proto;
use crate::proto::orchestrator::session_send_request::Frame as Out;
use crate::proto::orchestrator::session_send_response::Frame as In;

/// How long between two tries to come back.
const RETRY_DELAY: Duration = Duration::from_millis(500);
/// How long replies are waited for once standard input has ended.
const LAST_REPLIES_MAX: Duration = Duration::from_secs(10);
/// Frames that wait to be sent.
const FRAMES_QUEUED_MAX: usize = 16;

/// What has to survive a connection.
struct Conversation {
    lines: Lines<BufReader<File>>,
    input_ended: bool,
    /// Messages that the server has not acknowledged.
    unacknowledged: VecDeque<(u64, Bytes)>,
    /// The last number that was given to a message; none until the server has said where it stands.
    last_seq: Option<u64>,
    /// The last message of the server.
    received: Option<u64>,
    /// Through which of our messages replies have come.
    replied: u64,
}

/// How one attachment ends.
enum Ended {
    /// The conversation is over.
    Over,
    /// The stream is, and may be opened again.
    Lost(String),
}

/// Converses until the input or the session ends.
pub(super) async fn converse(id: &str, server: &str) -> Result<Exit, Error> {
    let mut conversation = Conversation {
        lines: BufReader::new(stdin()?).lines(),
        input_ended: false,
        unacknowledged: VecDeque::new(),
        last_seq: None,
        received: None,
        replied: 0,
    };
    let mut was_attached = false;
    loop {
        let attached = attach(id, server, conversation.received).await;
        let lost = match attached {
            Ok((frames, answers)) => {
                was_attached = true;
                match conversation.hold(frames, answers).await? {
                    Ended::Over => return Ok(Exit::Done),
                    Ended::Lost(why) => why,
                }
            }
            // Nobody is there, or not yet again.
            Err(error) if was_attached && may_pass(&error) => failure_text::lines(&error),
            Err(error) => return Err(error),
        };
        let why = lost.lines().next().unwrap_or_default();
        let why = why.trim_start_matches("error: ");
        failure_text::warn(&format!("{why}; attaching again"));
        tokio::time::sleep(RETRY_DELAY).await;
    }
}

/// Standard input, read without holding up the conversation.
fn stdin() -> std::io::Result<File> {
    use std::os::fd::AsFd as _;
    let own = std::io::stdin().as_fd().try_clone_to_owned()?;
    Ok(File::from_std(std::fs::File::from(own)))
}

/// Whether trying again may help.
fn may_pass(error: &Error) -> bool {
    match error {
        Error::Connect { .. } => true,
        Error::Call(status) => is_passing(status),
        Error::Usage { .. }
        | Error::Config(_)
        | Error::BadConfig(_)
        | Error::Journal(_)
        | Error::Start(_)
        | Error::Key(_)
        | Error::Overdue
        | Error::Answer(_)
        | Error::System(_)
        | Error::ReaderGone
        | Error::Interrupted => false,
    }
}

fn is_passing(status: &Status) -> bool {
    use std::error::Error as _;
    // Only a status that this side made up, because the connection broke, has a cause.
    status.source().is_some() || matches!(status.code(), Code::Unavailable | Code::Cancelled)
}

type Attached = (
    mpsc::Sender<proto::SessionSendRequest>,
    Streaming<proto::SessionSendResponse>,
);

async fn attach(id: &str, server: &str, received: Option<u64>) -> Result<Attached, Error> {
    let connection = Connection::open(server, None).await?;
    let (frames, outgoing) = mpsc::channel(FRAMES_QUEUED_MAX);
    let hello = proto::SessionHello {
        session_id: id.to_owned(),
        last_received_seq: received,
    };
    // The channel was just made: there is room.
    let _ = frames.try_send(frame(Out::Hello(hello)));
    let request = connection.request(ReceiverStream::new(outgoing), None);
    let answers = connection.orchestrator().session_send(request).await?;
    Ok((frames, answers.into_inner()))
}

fn frame(frame: Out) -> proto::SessionSendRequest {
    proto::SessionSendRequest { frame: Some(frame) }
}

impl Conversation {
    async fn hold(
        &mut self,
        frames: mpsc::Sender<proto::SessionSendRequest>,
        mut answers: Streaming<proto::SessionSendResponse>,
    ) -> Result<Ended, Error> {
        let mut output = Output::stdout();
        loop {
            if self.input_ended && self.unacknowledged.is_empty() && self.is_answered() {
                return Ok(Ended::Over);
            }
            tokio::select! {
                answer = answers.message() => match answer {
                    Ok(Some(answer)) => {
                        if let Some(ended) = self.take(answer, &frames, &mut output).await? {
                            return Ok(ended);
                        }
                    }
                    Ok(None) => return Ok(Ended::Lost("the server has ended the stream".to_owned())),
                    Err(status) if is_passing(&status) => {
                        return Ok(Ended::Lost(failure_text::lines(&status.into())));
                    }
                    Err(status) => return Err(status.into()),
                },
                line = self.lines.next_line(), if self.last_seq.is_some() && !self.input_ended => {
                    match line? {
                        Some(line) => self.send(&line, &frames).await,
                        None => self.input_ended = true,
                    }
                }
                () = tokio::time::sleep(LAST_REPLIES_MAX), if self.input_ended => {
                    failure_text::warn("the input has ended, and not every message was replied to");
                    return Ok(Ended::Over);
                }
            }
        }
    }

    fn is_answered(&self) -> bool {
        self.last_seq.is_some_and(|last| last <= self.replied)
    }

    async fn send(&mut self, line: &str, frames: &mpsc::Sender<proto::SessionSendRequest>) {
        if line.trim().is_empty() {
            return;
        }
        let payload = match payload_source::encode(line, "standard input") {
            Ok(payload) => payload,
            Err(error) => return failure_text::report(&error),
        };
        let seq = self.last_seq.unwrap_or(0) + 1;
        self.last_seq = Some(seq);
        self.unacknowledged.push_back((seq, payload.clone()));
        // When the stream is over, it is sent again over the next one.
        let _ = frames.send(data(seq, payload)).await;
    }

    async fn take(
        &mut self,
        answer: proto::SessionSendResponse,
        frames: &mpsc::Sender<proto::SessionSendRequest>,
        output: &mut Output,
    ) -> Result<Option<Ended>, Error> {
        match answer.frame {
            Some(In::Ready(ready)) => {
                self.acknowledged(ready.last_received_seq);
                if self.last_seq.is_none() {
                    self.last_seq = Some(ready.last_received_seq);
                    self.replied = ready.last_received_seq;
                }
                for (seq, payload) in &self.unacknowledged {
                    let _ = frames.send(data(*seq, payload.clone())).await;
                }
            }
            Some(In::Data(message)) => {
                let payload = message.payload.as_deref().unwrap_or(json_output::NULL);
                let text = payload_json::to_json(payload);
                let text = text.map_err(|bad| Error::Answer(bad.to_string()))?;
                output.text(&format!("{text}\n"))?;
                self.received = Some(message.seq);
                if let Some(proto::session_server_data::Reply::InReplyTo(seq)) = message.reply {
                    self.replied = self.replied.max(seq);
                }
                let ack = proto::SessionAck { seq: message.seq };
                let _ = frames.send(frame(Out::Ack(ack))).await;
            }
            Some(In::Ack(ack)) => self.acknowledged(ack.seq),
            Some(In::Moved(moved)) => failure_text::warn(&format!(
                "instance {} goes on, in epoch {}",
                moved.instance, moved.epoch
            )),
            Some(In::Lost(lost)) => failure_text::warn(&format!(
                "messages {} to {} are lost ({})",
                lost.first_seq,
                lost.last_seq,
                lost.direction().as_str_name()
            )),
            Some(In::GoAway(_)) => {
                return Ok(Some(Ended::Lost("the server is about to stop".to_owned())));
            }
            Some(In::Closed(closed)) => {
                failure_text::warn(&format!(
                    "the session has ended: {}",
                    closed.reason().as_str_name()
                ));
                return Ok(Some(Ended::Over));
            }
            // A frame that a newer server knows.
            None => {}
        }
        Ok(None)
    }

    fn acknowledged(&mut self, through: u64) {
        while self
            .unacknowledged
            .front()
            .is_some_and(|(seq, _)| *seq <= through)
        {
            self.unacknowledged.pop_front();
        }
    }
}

fn data(seq: u64, payload: Bytes) -> proto::SessionSendRequest {
    frame(Out::Data(proto::SessionClientData {
        seq,
        payload: Some(payload),
        in_reply_to: 0,
    }))
}
