//! What one connection may ask of the front door: calls at once, windows, resets and headers.

use h2::Reason;
use orchestrator::ingress::listener::Limits;

use super::{House, ROUTE, bearer, call, opened, route_fields, streams};
use crate::raw::frame::{self, Frame};
use crate::raw::{End, PREFACE, Peer, WINDOW_MAX, caller, rest};

const HEADER_LIST: u32 = 16 * 1024;

#[tokio::test]
async fn the_first_frames_announce_the_limits() {
    let (small, large) = ((64 * 1024, 1024 * 1024), (1024 * 1024, 4 * 1024 * 1024));
    for (limits, streams, (stream_window, connection_window)) in [
        (Limits::default(), 100, small),
        (
            Limits {
                streams: 7,
                ..Limits::default()
            },
            7,
            small,
        ),
        (
            Limits {
                trusted: vec!["127.0.0.0/8".parse().unwrap()],
                ..Limits::default()
            },
            100,
            large,
        ),
    ] {
        let house = House::with(limits).await;
        let mut peer = Peer::connect(house.address()).await;
        let settings = peer.until(|frame| frame.kind == frame::SETTINGS).await;
        let announced = [
            frame::MAX_CONCURRENT_STREAMS,
            frame::INITIAL_WINDOW_SIZE,
            frame::MAX_HEADER_LIST_SIZE,
        ]
        .map(|id| settings.setting(id));
        assert_eq!(
            announced,
            [Some(streams), Some(stream_window), Some(HEADER_LIST)]
        );
        // Every connection begins with 64 KiB less one; the rest is given at once (RFC 9113, 6.9.2).
        let more = peer.until(|frame| frame.kind == frame::WINDOW_UPDATE).await;
        assert_eq!(
            (more.stream, 65_535 + more.increment()),
            (0, connection_window)
        );
    }
}

#[tokio::test]
async fn the_101st_call_is_refused_and_the_hundred_before_it_are_not_harmed() {
    let house = House::new().await;
    let mut peer = Peer::connect(house.address()).await;
    for id in streams(100) {
        peer.send(&call(id, "held")).await;
    }
    house.held.until(|counts| counts.begun == 100).await;
    let (one_more, another) = (201, 203);
    peer.send(&call(one_more, "echo")).await;
    assert_eq!(
        peer.end_of(one_more).await,
        End::Reset(Reason::REFUSED_STREAM)
    );

    // A place that was left is free again.
    peer.send(&[frame::reset(1, Reason::CANCEL)]).await;
    house.held.until(|counts| counts.reset == 1).await;
    peer.send(&call(another, "echo")).await;
    assert_eq!(peer.end_of(another).await, End::Answered);

    house.let_go.send_replace(true);
    for _ in 1..100 {
        let ends =
            |frame: &Frame| frame.kind == frame::HEADERS && frame.flags & frame::END_STREAM != 0;
        peer.until(ends).await;
    }
    house.held.until(|counts| counts.answered == 99).await;
}

#[tokio::test]
async fn a_first_burst_beyond_a_low_limit_is_refused_and_who_goes_on_is_cut() {
    let house = House::with(Limits {
        streams: 1,
        ..Limits::default()
    })
    .await;
    let mut peer = Peer::connect(house.address()).await;
    peer.send(&call(1, "held")).await;
    house.held.until(|counts| counts.begun == 1).await;
    let bearer = bearer();
    // Without a body: each frame for a call that was refused would count once more.
    let bare = |id| frame::headers(id, &route_fields(&bearer), frame::END_STREAM);
    // A hundred errors are borne, and twice the 99 calls that a caller may begin before it knows the limit.
    for id in streams(299).skip(1) {
        peer.send(&[bare(id)]).await;
        assert_eq!(peer.end_of(id).await, End::Reset(Reason::REFUSED_STREAM));
    }
    peer.send(&[bare(599)]).await;
    assert_eq!(peer.last_words().await, Some(Reason::ENHANCE_YOUR_CALM));
    assert_eq!(house.echo.counts.borrow().begun, 0);
}

#[tokio::test]
async fn a_call_that_its_caller_resets_is_reset_at_the_instance() {
    let house = House::new().await;
    let mut peer = Peer::connect(house.address()).await;
    for id in streams(40) {
        peer.send(&call(id, "silent")).await;
    }
    house.silent.until(|counts| counts.begun == 40).await;
    for id in streams(40) {
        peer.send(&[frame::reset(id, Reason::CANCEL)]).await;
    }
    house.silent.until(|counts| counts.reset == 40).await;
    // They were all accepted, so none of this counts as a rapid reset.
    peer.pong().await;
}

#[tokio::test]
async fn calls_that_are_reset_before_they_are_accepted_end_the_connection() {
    let house = House::new().await;
    let rapid = |count| -> Vec<Frame> {
        streams(count)
            .flat_map(|id| [opened(id), frame::reset(id, Reason::CANCEL)])
            .collect()
    };
    let mut hasty = Peer::connect(house.address()).await;
    hasty.send(&rapid(20)).await;
    hasty.pong().await;

    // CVE-2023-44487.
    let mut flood = Peer::connect(house.address()).await;
    flood.send(&rapid(1000)).await;
    house.serves_others().await;
    assert_eq!(flood.last_words().await, Some(Reason::ENHANCE_YOUR_CALM));
    hasty.pong().await;
}

/// What a caller can do to a call so that we are the ones who reset it (CVE-2025-8671).
#[derive(Debug, Clone, Copy)]
enum Provocation {
    WindowOverflow,
    WrongLength,
    ForbiddenHeader,
}

fn provoking(id: u32, kind: Provocation) -> [Frame; 2] {
    let bearer = bearer();
    let fields = route_fields(&bearer);
    let with = |field| [&fields[..], &[field]].concat();
    match kind {
        Provocation::WindowOverflow => [opened(id), frame::window_update(id, WINDOW_MAX)],
        Provocation::WrongLength => [
            frame::headers(id, &with(("content-length", "3")), 0),
            frame::data(id, b"more than that", frame::END_STREAM),
        ],
        Provocation::ForbiddenHeader => [
            frame::headers(id, &with(("connection", "close")), 0),
            frame::data(id, b"", frame::END_STREAM),
        ],
    }
}

#[tokio::test]
async fn provoking_resets_of_ours_ends_the_connection() {
    let house = House::new().await;
    for kind in [
        Provocation::WindowOverflow,
        Provocation::WrongLength,
        Provocation::ForbiddenHeader,
    ] {
        let mut peer = Peer::connect(house.address()).await;
        for id in streams(50) {
            peer.send(&provoking(id, kind)).await;
            let End::Reset(_) = peer.end_of(id).await else {
                panic!("{kind:?} is answered with a reset");
            };
        }
        peer.pong().await;
        let rest: Vec<_> = streams(200)
            .skip(50)
            .flat_map(|id| provoking(id, kind))
            .collect();
        peer.send(&rest).await;
        house.serves_others().await;
        assert_eq!(
            peer.last_words().await,
            Some(Reason::ENHANCE_YOUR_CALM),
            "{kind:?}"
        );
    }
    assert_eq!(house.silent.counts.borrow().begun, 0);
}

#[tokio::test]
async fn a_header_list_over_the_limit_is_refused_and_one_below_it_is_not() {
    let house = House::new().await;
    // Each header counts for its name, its value and 32 bytes more (RFC 9113, 6.5.2).
    for (bytes, expected) in [(12 * 1024, 200), (HEADER_LIST as usize, 431)] {
        let request = caller::grpc(ROUTE, &[("x-long", &"x".repeat(bytes))]);
        let answer = caller::ask(
            house.address(),
            request,
            frame::message(&super::route("echo", None)),
            caller::Body::Whole,
        )
        .await;
        assert_eq!(answer.http, expected, "{bytes}");
    }
}

#[tokio::test]
async fn a_header_list_that_unpacks_over_the_limit_is_refused() {
    let house = House::new().await;
    let mut peer = Peer::connect(house.address()).await;
    let packed = |references| {
        let mut block = frame::block(&route_fields(&bearer()));
        block.extend(frame::remembered("x-long", &"x".repeat(4000)));
        // Each byte stands for the whole header.
        block.extend(vec![0xbe; references]);
        block
    };
    let headers = |id, references| Frame {
        payload: packed(references),
        ..frame::headers(id, &[], 0)
    };
    // 24 KB is refused, and the connection goes on.
    let [_, body] = call(1, "echo");
    peer.send(&[headers(1, 5), body]).await;
    assert_eq!(peer.end_of(1).await, End::Answered);
    peer.send(&call(3, "echo")).await;
    assert_eq!(peer.end_of(3).await, End::Answered);
    // 48 MB is an attack.
    peer.send(&[headers(5, 12_000)]).await;
    assert_eq!(peer.last_words().await, Some(Reason::ENHANCE_YOUR_CALM));
    assert_eq!(house.echo.counts.borrow().begun, 1);
}

#[tokio::test]
async fn headers_that_never_end_end_the_connection() {
    let house = House::new().await;
    // Parts that add up to nothing, parts that hold a header each, and parts as large as can be
    // (CVE-2024-27316).
    let large = frame::block(&[("x-part", &"x".repeat(16_000))]);
    for part in [&b""[..], &frame::block(&[("x-part", "x")]), &large] {
        let mut peer = Peer::connect(house.address()).await;
        let mut frames = vec![frame::headers_part(
            1,
            &frame::block(&route_fields(&bearer())),
        )];
        frames.extend((0..2000).map(|_| frame::continuation(1, part, 0)));
        peer.send(&frames).await;
        house.serves_others().await;
        let why = peer.last_words().await;
        assert_eq!(why, Some(Reason::ENHANCE_YOUR_CALM), "{}", part.len());
    }
}

#[tokio::test]
async fn more_than_the_window_of_a_call_is_not_taken() {
    let house = House::new().await;
    let mut peer = Peer::connect(house.address()).await;
    // Only the window of the call is too small, not that of the connection.
    peer.until(|frame| frame.kind == frame::WINDOW_UPDATE).await;
    // All at once, so that nobody has read of it and given window back.
    let mut frames = vec![opened(1)];
    frames.extend((0..5).map(|_| frame::data(1, &[0; 16 * 1024], 0)));
    peer.send(&frames).await;
    assert_eq!(peer.end_of(1).await, End::Reset(Reason::FLOW_CONTROL_ERROR));
    peer.send(&call(3, "echo")).await;
    assert_eq!(peer.end_of(3).await, End::Answered);
}

#[tokio::test]
async fn a_flood_of_frames_that_say_nothing_is_borne_or_ends_the_connection() {
    let house = House::new().await;
    for (flood, expected) in [
        (frame::ping([7; 8]), None),
        (frame::settings(&[]), None),
        (frame::data(1, b"", 0), Some(Reason::ENHANCE_YOUR_CALM)),
    ] {
        let mut peer = Peer::connect(house.address()).await;
        peer.send(&[opened(1)]).await;
        peer.send(&vec![flood; 20_000]).await;
        house.serves_others().await;
        peer.finish().await;
        assert_eq!(peer.last_words().await, expected);
    }
}

#[tokio::test]
async fn garbage_does_no_harm() {
    // One connection too many stays open, and the rest of them are refused: each must end.
    let house = House::with(Limits {
        connections: 2,
        ..Limits::default()
    })
    .await;
    let mut random = Random(0x0DD_BA11);
    for round in 0..200 {
        let mut stream = tokio::net::TcpStream::connect(house.address())
            .await
            .unwrap();
        let mut bytes = match round % 4 {
            0 => Vec::new(),
            1 => b"POST / HTTP/1.1\r\n".to_vec(),
            _ => [PREFACE, &frame::settings(&[]).encode()].concat(),
        };
        if round % 4 == 3 {
            for _ in 0..20 {
                bytes.extend(random.frame().encode());
            }
        } else {
            bytes.extend(random.bytes(512));
        }
        let _ = tokio::io::AsyncWriteExt::write_all(&mut stream, &bytes).await;
        let _ = tokio::io::AsyncWriteExt::shutdown(&mut stream).await;
        rest(&mut stream).await;
        if round % 20 == 0 {
            house.serves_others().await;
        }
    }
    house.serves_others().await;
}

/// SplitMix64: the same garbage each time.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn bytes(&mut self, max: u64) -> Vec<u8> {
        let length = self.next() % (max + 1);
        (0..length).map(|_| self.next() as u8).collect()
    }

    /// A frame of a kind and a length that can be, and everything else as it falls.
    fn frame(&mut self) -> Frame {
        Frame {
            kind: (self.next() % 10) as u8,
            flags: self.next() as u8,
            stream: (self.next() % 6) as u32,
            payload: self.bytes(64),
        }
    }
}
