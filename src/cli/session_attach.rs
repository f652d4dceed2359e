//! A conversation on standard input and output that outlives connections and servers.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use tokio::fs::File;
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};

use super::connection::{Connection, guard};
use super::destination::Destination;
use super::exit::{Error, Exit};
use super::output::Output;
use super::{failure_text, json_output, payload_source, plain, session_leave};
use crate::payload_json;
use crate::proto::orchestrator as proto;
use crate::proto::orchestrator::session_send_request::Frame as Out;
use crate::proto::orchestrator::session_send_response::Frame as In;

/// How long between two tries to come back.
const RETRY_DELAY: Duration = Duration::from_millis(500);
/// How long the server may take to begin an attachment.
const ATTACH_TIMEOUT: Duration = Duration::from_secs(10);
/// Once standard input has ended: how long without one more reply the replies that are missing are waited for. An
/// instance need not reply to everything.
const LAST_REPLIES_MAX: Duration = Duration::from_secs(10);
/// Once standard input has ended: how long it is tried to bring over what was not acknowledged, with all its
/// reconnections.
const LAST_MESSAGES_MAX: Duration = Duration::from_secs(60);
/// The metadata that names the session of a stream.
const SESSION_METADATA: &str = "x-orchestrator-session";
/// Frames that wait to be sent.
const FRAMES_QUEUED_MAX: usize = 16;
/// Messages that the server has not acknowledged: no more lines are read then. Fewer than the server allows.
const UNACKNOWLEDGED_MAX: usize = 256;
/// Bytes of these; one message always fits.
const UNACKNOWLEDGED_BYTES_MAX: usize = 512 * 1024;

/// What has to survive a connection.
struct Conversation {
    lines: Lines<BufReader<File>>,
    input: Input,
    /// Messages that the server has not acknowledged.
    unacknowledged: VecDeque<(u64, Bytes)>,
    unacknowledged_bytes: usize,
    /// The last number that was given to a message; none until the server has said where it stands.
    last_seq: Option<u64>,
    /// The last message that was sent over the connection of now.
    sent: u64,
    /// The last message of the server.
    received: Option<u64>,
    /// The last message of the server that was acknowledged over the connection of now.
    acked: u64,
    /// Through which of our messages replies have come.
    replied: u64,
    refused: Refused,
}

/// Whether lines were left out because they cannot be meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Refused {
    Nothing,
    Lines,
}

/// How it stands with standard input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Input {
    /// There may be more.
    Open,
    /// It has ended then, or the last reply has come then.
    Ended {
        /// When it ended.
        at: Instant,
        /// When the last message of the server came since.
        last_word: Instant,
    },
}

/// How one attachment ends.
enum Ended {
    /// The conversation is over.
    Over(Exit),
    /// The stream is, and may be opened again.
    Lost(String),
}

/// Converses until the input or the session ends.
pub(super) async fn converse(id: &str, to: &Destination) -> Result<Exit, Error> {
    let mut conversation = Conversation {
        lines: BufReader::new(stdin()?).lines(),
        input: Input::Open,
        unacknowledged: VecDeque::new(),
        unacknowledged_bytes: 0,
        last_seq: None,
        sent: 0,
        received: None,
        acked: 0,
        replied: 0,
        refused: Refused::Nothing,
    };
    let mut was_attached = false;
    loop {
        let attached = attach(id, to, conversation.received).await;
        let lost = match attached {
            Ok(mut attached) => {
                was_attached = true;
                match conversation.hold(&mut attached).await? {
                    Ended::Over(exit) => {
                        let received = conversation.received;
                        session_leave::leave(id, attached, received).await;
                        return Ok(exit);
                    }
                    Ended::Lost(why) => why,
                }
            }
            // Nobody is there, or not yet again.
            Err(error) if was_attached && may_pass(&error) => failure_text::lines(&error),
            Err(error) => return Err(error),
        };
        let why = lost.lines().next().unwrap_or_default();
        let why = why.trim_start_matches("error: ");
        if let Some(exit) = conversation.given_up() {
            return Ok(exit);
        }
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
        Error::Connect { .. } | Error::Overdue => true,
        Error::Call(status) => is_passing(status),
        Error::Usage { .. }
        | Error::Config(_)
        | Error::BadConfig(_)
        | Error::Journal(_)
        | Error::Start(_)
        | Error::Key(_)
        | Error::ServerKey(_)
        | Error::Answer(_)
        | Error::System(_)
        | Error::ReaderGone
        | Error::Interrupted => false,
    }
}

fn is_passing(status: &Status) -> bool {
    use std::error::Error as _;
    // Only a status that this side made up, because the connection broke, has a cause.
    status.source().is_some()
        || matches!(
            status.code(),
            // The last one: there is no room just now, in memory or in the journal.
            Code::Unavailable | Code::Cancelled | Code::ResourceExhausted
        )
}

/// What an attachment consists of.
pub(super) struct Attached {
    pub(super) connection: Connection,
    pub(super) frames: mpsc::Sender<proto::SessionSendRequest>,
    pub(super) answers: Streaming<proto::SessionSendResponse>,
}

async fn attach(id: &str, to: &Destination, received: Option<u64>) -> Result<Attached, Error> {
    let connection = Connection::open(to, None).await?;
    let (frames, outgoing) = mpsc::channel(FRAMES_QUEUED_MAX);
    let hello = proto::SessionHello {
        session_id: id.to_owned(),
        last_received_seq: received,
    };
    // The channel was just made: there is room.
    let _ = frames.try_send(frame(Out::Hello(hello)));
    let mut request = connection.request(ReceiverStream::new(outgoing), None);
    // So that whatever stands between can tell sessions apart. What cannot be named so is refused for its hello.
    if let Ok(id) = id.parse() {
        request.metadata_mut().insert(SESSION_METADATA, id);
    }
    let mut client = connection.orchestrator();
    let call = async { Ok(client.session_send(request).await?.into_inner()) };
    let answers = guard(Some(ATTACH_TIMEOUT), call).await?;
    Ok(Attached {
        connection,
        frames,
        answers,
    })
}

pub(super) fn frame(frame: Out) -> proto::SessionSendRequest {
    proto::SessionSendRequest { frame: Some(frame) }
}

impl Conversation {
    /// Reads and sends side by side: neither waits for the other.
    async fn hold(&mut self, attached: &mut Attached) -> Result<Ended, Error> {
        let Attached {
            frames, answers, ..
        } = attached;
        let mut output = Output::stdout();
        let mut is_ready = false;
        self.acked = self.received.unwrap_or(0);
        loop {
            if self.input != Input::Open && self.unacknowledged.is_empty() && self.is_answered() {
                return Ok(Ended::Over(self.success()));
            }
            let next = if is_ready { self.to_say() } else { None };
            let reads_on = is_ready && self.input == Input::Open && self.has_room();
            let gives_up = self.gives_up_at();
            tokio::select! {
                biased;
                answer = answers.message() => match answer {
                    Ok(Some(answer)) => {
                        is_ready |= matches!(answer.frame, Some(In::Ready(_)));
                        if let Some(ended) = self.take(answer, &mut output)? {
                            return Ok(ended);
                        }
                    }
                    Ok(None) => return Ok(Ended::Lost("the server has ended the stream".to_owned())),
                    Err(status) if is_passing(&status) => {
                        return Ok(Ended::Lost(failure_text::lines(&status.into())));
                    }
                    Err(status) => return Err(status.into()),
                },
                // When the stream is over, the answers say why; what was not taken is sent again over the next one.
                Ok(place) = frames.reserve(), if next.is_some() => {
                    if let Some(next) = next {
                        self.said(&next);
                        place.send(frame(next));
                    }
                }
                line = self.lines.next_line(), if reads_on => match line? {
                    Some(line) => self.keep(&line),
                    None => {
                        let at = Instant::now();
                        self.input = Input::Ended { at, last_word: at };
                    }
                },
                () = sleep_until(gives_up.unwrap_or_else(Instant::now)), if gives_up.is_some() => {
                    if let Some(exit) = self.given_up() {
                        return Ok(Ended::Over(exit));
                    }
                }
            }
        }
    }

    fn is_answered(&self) -> bool {
        self.last_seq.is_some_and(|last| last <= self.replied)
    }

    fn has_room(&self) -> bool {
        let bytes = self.unacknowledged_bytes;
        self.unacknowledged.is_empty()
            || (self.unacknowledged.len() < UNACKNOWLEDGED_MAX && bytes < UNACKNOWLEDGED_BYTES_MAX)
    }

    /// When waiting is over, once the input is.
    fn gives_up_at(&self) -> Option<Instant> {
        match self.input {
            Input::Open => None,
            Input::Ended { last_word, .. } if self.unacknowledged.is_empty() => {
                Some(last_word + LAST_REPLIES_MAX)
            }
            Input::Ended { at, .. } => Some(at + LAST_MESSAGES_MAX),
        }
    }

    /// How it ends when waiting is over. What was not acknowledged is nowhere but here: that is no success.
    fn given_up(&self) -> Option<Exit> {
        if self.gives_up_at().is_none_or(|at| Instant::now() < at) {
            return None;
        }
        if self.unacknowledged.is_empty() {
            failure_text::warn("the input has ended, and not every message was replied to");
            return Some(match self.refused {
                Refused::Nothing => Exit::Partial,
                Refused::Lines => self.success(),
            });
        }
        failure_text::warn(&self.not_taken());
        Some(Exit::Deadline)
    }

    /// The end of a conversation of which nothing is lost. A line that was left out is none of it.
    fn success(&self) -> Exit {
        match self.refused {
            Refused::Nothing => Exit::Done,
            Refused::Lines => Exit::Usage,
        }
    }

    fn not_taken(&self) -> String {
        let count = self.unacknowledged.len();
        format!("{count} messages were not acknowledged: they may be lost")
    }

    /// The next frame that is to be sent: an acknowledgement before messages.
    fn to_say(&self) -> Option<Out> {
        let received = self.received.unwrap_or(0);
        if self.acked < received {
            return Some(Out::Ack(proto::SessionAck { seq: received }));
        }
        let at = self
            .unacknowledged
            .partition_point(|(seq, _)| *seq <= self.sent);
        let (seq, payload) = self.unacknowledged.get(at)?;
        Some(Out::Data(proto::SessionClientData {
            seq: *seq,
            payload: Some(payload.clone()),
            in_reply_to: 0,
        }))
    }

    fn said(&mut self, frame: &Out) {
        match frame {
            Out::Ack(ack) => self.acked = ack.seq,
            Out::Data(data) => self.sent = data.seq,
            Out::Hello(_) | Out::Close(_) => {}
        }
    }

    /// Numbers a line and keeps it until it is acknowledged.
    fn keep(&mut self, line: &str) {
        if line.trim().is_empty() {
            return;
        }
        let payload = match payload_source::encode(line, "standard input") {
            Ok(payload) => payload,
            Err(error) => {
                self.refused = Refused::Lines;
                return failure_text::report(&error);
            }
        };
        let seq = self.last_seq.unwrap_or(0) + 1;
        self.last_seq = Some(seq);
        self.unacknowledged_bytes += payload.len();
        self.unacknowledged.push_back((seq, payload));
    }

    fn take(
        &mut self,
        answer: proto::SessionSendResponse,
        output: &mut Output,
    ) -> Result<Option<Ended>, Error> {
        match answer.frame {
            Some(In::Ready(ready)) => {
                self.acknowledged(ready.last_received_seq);
                if self.last_seq.is_none() {
                    self.last_seq = Some(ready.last_received_seq);
                    self.replied = ready.last_received_seq;
                }
                // What is left is sent again.
                self.sent = ready.last_received_seq;
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
                if let Input::Ended { last_word, .. } = &mut self.input {
                    *last_word = Instant::now();
                }
            }
            Some(In::Ack(ack)) => self.acknowledged(ack.seq),
            Some(In::Moved(moved)) => failure_text::warn(&format!(
                "instance {} goes on, in epoch {}",
                moved.instance, moved.epoch
            )),
            Some(In::Lost(lost)) if lost.first_position != 0 => failure_text::warn(&format!(
                "messages that were posted to positions {} to {} are lost",
                lost.first_position, lost.last_position
            )),
            Some(In::Lost(lost)) => failure_text::warn(&format!(
                "messages {} to {} are lost ({})",
                lost.first_seq,
                lost.last_seq,
                plain::word(lost.direction, proto::Direction::as_str_name, "DIRECTION_")
            )),
            Some(In::GoAway(_)) => {
                return Ok(Some(Ended::Lost("the server is about to stop".to_owned())));
            }
            Some(In::Closed(closed)) => {
                let name = proto::CloseReason::as_str_name;
                let reason = plain::word(closed.reason, name, "CLOSE_REASON_");
                failure_text::warn(&format!("the session has ended: {reason}"));
                if self.unacknowledged.is_empty() {
                    return Ok(Some(Ended::Over(self.success())));
                }
                failure_text::warn(&self.not_taken());
                return Ok(Some(Ended::Over(Exit::Failed)));
            }
            // A frame that a newer server knows.
            None => {}
        }
        Ok(None)
    }

    fn acknowledged(&mut self, through: u64) {
        while let Some((seq, payload)) = self.unacknowledged.front()
            && *seq <= through
        {
            self.unacknowledged_bytes -= payload.len();
            self.unacknowledged.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn conversation() -> Conversation {
        let nothing = File::from_std(std::fs::File::open("/dev/null").unwrap());
        Conversation {
            lines: BufReader::new(nothing).lines(),
            input: Input::Open,
            unacknowledged: VecDeque::new(),
            unacknowledged_bytes: 0,
            last_seq: Some(0),
            sent: 0,
            received: None,
            acked: 0,
            replied: 0,
            refused: Refused::Nothing,
        }
    }

    #[tokio::test]
    async fn no_more_lines_are_read_than_the_server_allows_and_acknowledgements_come_first() {
        let mut attached = conversation();
        while attached.has_room() {
            attached.keep("1");
        }
        assert_eq!(attached.unacknowledged.len(), UNACKNOWLEDGED_MAX);
        for seq in 1..=3 {
            let next = attached.to_say().unwrap();
            assert!(matches!(&next, Out::Data(data) if data.seq == seq));
            attached.said(&next);
        }
        attached.received = Some(7);
        let next = attached.to_say().unwrap();
        assert!(matches!(&next, Out::Ack(ack) if ack.seq == 7));
        attached.said(&next);
        assert!(matches!(attached.to_say(), Some(Out::Data(data)) if data.seq == 4));
        attached.acknowledged(2);
        assert!(attached.has_room());
        // Over the next connection what was not acknowledged comes again.
        attached.sent = 2;
        assert!(matches!(attached.to_say(), Some(Out::Data(data)) if data.seq == 3));
        let mut large = conversation();
        large.keep(&format!("\"{}\"", "x".repeat(2 * UNACKNOWLEDGED_BYTES_MAX)));
        assert!(!large.has_room());
        large.acknowledged(1);
        assert!(large.has_room() && large.unacknowledged_bytes == 0);
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_not_acknowledged_is_never_an_end_as_wanted() {
        let mut attached = conversation();
        attached.keep("1");
        assert_eq!(attached.given_up(), None);
        let at = Instant::now();
        attached.input = Input::Ended { at, last_word: at };
        tokio::time::sleep(LAST_REPLIES_MAX * 2).await;
        assert_eq!(attached.given_up(), None, "it is still tried");
        tokio::time::sleep(LAST_MESSAGES_MAX).await;
        assert_eq!(attached.given_up(), Some(Exit::Deadline));
        attached.acknowledged(1);
        assert_eq!(attached.given_up(), Some(Exit::Partial), "no reply came");
        attached.keep("no JSON");
        assert_eq!(attached.given_up(), Some(Exit::Usage));
    }
}
