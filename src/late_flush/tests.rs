//! What leaves when, and that nothing is lost or let out twice, however the peer reads.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::task::Waker;

use bytes::Bytes;
use proptest::prelude::*;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};
use tokio::task::JoinSet;
use tokio::time::{Duration, timeout};

use super::*;

/// A peer that takes as many bytes with each write as it is told to, all of them when it is not; it never says
/// anything.
#[derive(Default)]
struct Peer {
    /// Each write, as it came.
    got: Vec<Vec<u8>>,
    /// How much the next writes may take; at nothing the writer has to wait.
    takes: VecDeque<usize>,
    breaks: bool,
    is_shut: bool,
}

impl AsyncRead for Peer {
    fn poll_read(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        _: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Poll::Pending
    }
}

impl AsyncWrite for Peer {
    fn poll_write(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.breaks {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let takes = self.takes.pop_front().unwrap_or(usize::MAX);
        if takes == 0 {
            return Poll::Pending;
        }
        let taken = takes.min(bytes.len());
        self.got.push(bytes[..taken].to_vec());
        Poll::Ready(Ok(taken))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.is_shut = true;
        Poll::Ready(Ok(()))
    }
}

fn context() -> Context<'static> {
    Context::from_waker(Waker::noop())
}

fn write(late: &mut LateFlush<Peer>, bytes: &[u8]) -> Poll<io::Result<usize>> {
    Pin::new(late).poll_write(&mut context(), bytes)
}

fn flush(late: &mut LateFlush<Peer>) -> Poll<io::Result<()>> {
    Pin::new(late).poll_flush(&mut context())
}

/// What a task does first when it is woken.
fn read(late: &mut LateFlush<Peer>) -> Poll<io::Result<()>> {
    let mut room = [0; 8];
    Pin::new(late).poll_read(&mut context(), &mut ReadBuf::new(&mut room))
}

#[test]
fn what_is_flushed_in_one_turn_leaves_in_one_write_of_the_next() {
    let mut late = LateFlush::new(Peer::default());
    for word in [b"one", b"two", b"six"] {
        assert!(write(&mut late, word).is_ready());
        assert!(flush(&mut late).is_ready());
    }
    assert!(late.stream.got.is_empty());
    assert!(read(&mut late).is_pending());
    assert_eq!(late.stream.got, [b"onetwosix"]);
    assert_eq!(
        late.waiting.capacity(),
        0,
        "an idle connection holds no buffer"
    );
}

#[test]
fn a_flush_wakes_its_task_once_and_an_empty_one_does_not() {
    struct Count(Mutex<u32>);
    impl std::task::Wake for Count {
        fn wake(self: Arc<Self>) {
            *self.0.lock().unwrap() += 1;
        }
    }
    let count = Arc::new(Count(Mutex::new(0)));
    let waker = Waker::from(Arc::clone(&count));
    let mut late = LateFlush::new(Peer::default());
    let flush = |late: &mut LateFlush<Peer>| {
        assert!(
            Pin::new(late)
                .poll_flush(&mut Context::from_waker(&waker))
                .is_ready()
        );
        *count.0.lock().unwrap()
    };
    assert_eq!(flush(&mut late), 0);
    assert!(write(&mut late, b"word").is_ready());
    assert_eq!(flush(&mut late), 1);
    assert_eq!(flush(&mut late), 1);
}

#[test]
fn where_waiting_gathers_nothing_flushes_are_not_put_off_but_tried_again() {
    let mut late = LateFlush::new(Peer::default());
    let mut put_off = 0;
    for _ in 0..100 {
        let before = late.stream.got.len();
        assert!(write(&mut late, b"alone").is_ready());
        assert!(flush(&mut late).is_ready());
        put_off += usize::from(late.stream.got.len() == before);
        assert!(read(&mut late).is_pending());
    }
    assert_eq!(put_off, 4 + 96 / 8);
    assert_eq!(late.stream.got.len(), 100);
    // A second flush in the same turn shows that there is something to gather again.
    for word in [b"first", b"other", b"third"] {
        assert!(write(&mut late, word).is_ready());
        assert!(flush(&mut late).is_ready());
    }
    assert!(read(&mut late).is_pending());
    assert_eq!(late.stream.got[100..], [&b"first"[..], b"otherthird"]);
    assert_eq!(late.in_vain, 0);
}

#[test]
fn a_peer_that_does_not_read_holds_up_the_writer_at_a_bound() {
    let mut late = LateFlush::new(Peer::default());
    late.stream.takes = [0; 1000].into();
    let mut taken = 0;
    while let Poll::Ready(written) = write(&mut late, &[7; 1000]) {
        taken += written.unwrap();
        assert!(flush(&mut late).is_ready() || taken <= WAITING_BYTES_MAX);
        assert!(read(&mut late).is_pending());
    }
    assert!(taken <= WAITING_BYTES_MAX, "{taken}");
    late.stream.takes = [10, 0, 100].into();
    assert!(read(&mut late).is_pending());
    assert!(read(&mut late).is_pending());
    assert_eq!(late.stream.got.concat().len(), taken);
}

#[test]
fn shutdown_lets_out_what_waits_first() {
    let mut late = LateFlush::new(Peer::default());
    assert!(write(&mut late, b"goodbye").is_ready());
    late.stream.takes = [3, 0].into();
    let mut shut = || Pin::new(&mut late).poll_shutdown(&mut context());
    assert!(shut().is_pending());
    assert!(shut().is_ready());
    assert_eq!(late.stream.got, [&b"goo"[..], b"dbye"]);
    assert!(late.stream.is_shut);
}

#[test]
fn a_broken_stream_is_told_once_the_peer_s_last_words_are_read() {
    let mut late = LateFlush::new(Peer::default());
    late.stream.breaks = true;
    assert!(write(&mut late, b"word").is_ready());
    assert!(flush(&mut late).is_ready());
    let Poll::Ready(Err(error)) = read(&mut late) else {
        panic!("nothing is told");
    };
    assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
}

#[test]
fn before_it_begins_everything_passes_through() {
    let mut late = LateFlush::at_once(Peer::default());
    assert!(write(&mut late, b"one").is_ready());
    assert_eq!(late.stream.got, [b"one"]);
    late.begin();
    assert!(write(&mut late, b"two").is_ready());
    assert_eq!(late.stream.got.len(), 1);
}

proptest! {
    #[test]
    fn bytes_leave_in_order_and_once_whatever_the_peer_takes(
        writes in proptest::collection::vec((1_usize..70_000, any::<bool>()), 1..30),
        takes in proptest::collection::vec(0_usize..50_000, 0..100),
    ) {
        let mut late = LateFlush::new(Peer { takes: takes.into(), ..Peer::default() });
        let mut sent: Vec<u8> = Vec::new();
        for (length, flushed) in writes {
            let bytes: Vec<u8> = (0..length).map(|at| (sent.len() + at) as u8).collect();
            let mut rest = &bytes[..];
            while !rest.is_empty() {
                match write(&mut late, rest) {
                    Poll::Ready(written) => rest = &rest[written.unwrap()..],
                    Poll::Pending => prop_assert!(read(&mut late).is_pending()),
                }
            }
            sent.extend_from_slice(&bytes);
            if flushed {
                while flush(&mut late).is_pending() {}
                prop_assert!(read(&mut late).is_pending());
            }
            prop_assert!(late.waiting.len() - late.out <= WAITING_BYTES_MAX + 70_000);
        }
        while Pin::new(&mut late).poll_shutdown(&mut context()).is_pending() {}
        prop_assert_eq!(late.stream.got.concat(), sent);
    }
}

const CALLS: usize = 200;

async fn echo(stream: DuplexStream) {
    let mut connection = h2::server::handshake(LateFlush::new(stream)).await.unwrap();
    let mut calls = JoinSet::new();
    while let Some(Ok((request, mut respond))) = connection.accept().await {
        calls.spawn(async move {
            let mut body = request.into_body();
            let mut answer = respond.send_response(http::Response::new(()), false).ok()?;
            while let Some(data) = body.data().await {
                let data = data.ok()?;
                body.flow_control().release_capacity(data.len()).ok()?;
                answer.send_data(data, false).ok()?;
            }
            answer.send_data(Bytes::new(), true).ok()
        });
    }
}

/// Real HTTP/2 on both sides of a pipe that holds few bytes; every third call is dropped under way, and at the
/// end the connection is shut down.
#[tokio::test]
async fn calls_cancels_and_a_shutdown_go_through_a_narrow_pipe() {
    let (ours, theirs) = duplex(300);
    let mut house = JoinSet::new();
    house.spawn(echo(theirs));
    let (sender, connection) = h2::client::handshake(LateFlush::new(ours)).await.unwrap();
    house.spawn(async move { connection.await.unwrap() });
    let mut calls = JoinSet::new();
    for at in 0..CALLS {
        let sender = sender.clone();
        calls.spawn(async move {
            let bytes = Bytes::from(vec![at as u8; at * 37]);
            let mut sender = sender.ready().await.unwrap();
            let (answer, mut body) = sender
                .send_request(http::Request::post("http://h/").body(()).unwrap(), false)
                .unwrap();
            body.send_data(bytes.clone(), true).unwrap();
            if at % 3 == 0 {
                tokio::task::yield_now().await;
                return;
            }
            let mut answer = answer.await.unwrap().into_body();
            let mut got = Vec::new();
            while let Some(data) = answer.data().await {
                let data = data.unwrap();
                answer.flow_control().release_capacity(data.len()).unwrap();
                got.extend_from_slice(&data);
            }
            assert_eq!(got, bytes);
        });
    }
    drop(sender);
    let all = async {
        while let Some(ended) = calls.join_next().await {
            ended.unwrap();
        }
        while let Some(ended) = house.join_next().await {
            ended.unwrap();
        }
    };
    timeout(Duration::from_secs(30), all).await.unwrap();
}

#[tokio::test]
async fn the_other_side_gets_what_was_flushed_while_this_one_only_reads() {
    let (ours, mut theirs) = duplex(64);
    let mut late = LateFlush::new(ours);
    late.write_all(b"ping").await.unwrap();
    late.flush().await.unwrap();
    let both = async {
        let (mut ping, mut pong) = ([0; 4], [0; 4]);
        let answer = async {
            theirs.read_exact(&mut ping).await.unwrap();
            theirs.write_all(&ping).await.unwrap();
        };
        tokio::join!(answer, async { late.read_exact(&mut pong).await.unwrap() });
        assert_eq!(&pong, b"ping");
    };
    timeout(Duration::from_secs(30), both).await.unwrap();
}
