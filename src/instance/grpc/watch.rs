//! Reads a stream of grpc.health.v1.Health/Watch for as long as it lasts.

use bytes::{Buf as _, Bytes, BytesMut};
use http::Request;

use super::answer::{self, PREFIX_BYTES};
use super::frame::Frame;
use super::link::{End, Sender};
use super::serving;
use crate::domain::failure::{Failure, Progress, Reason};
use crate::domain::id::InstanceId;
use crate::instance::Told;
use crate::instance::reset::within_answer;

/// A HealthCheckResponse is one small number; anything longer is something else.
const MESSAGE_BYTES_MAX: usize = 1024;

/// Tells what comes; returns how the stream ended.
pub(super) async fn follow(
    id: &InstanceId,
    sender: Sender,
    request: Request<()>,
    told: Told,
) -> Failure {
    match read(id, sender, request, told).await {
        Ok(()) => {
            let detail = "the instance ended its health watch";
            Failure::at(id, Reason::InstanceLost, Progress::Answered, detail)
        }
        Err(failure) => failure,
    }
}

async fn read(
    id: &InstanceId,
    sender: Sender,
    request: Request<()>,
    mut told: Told,
) -> Result<(), Failure> {
    // The other parts are held as long as it is read.
    let begun = sender.begin(request, Frame::empty(), End::AfterThis)?;
    let mut body = answer::begin(id, begun.response).await?;
    let mut gathered = BytesMut::new();
    while let Some(data) = body.data().await {
        let data = data.map_err(|error| within_answer(id, &error))?;
        // The window belongs to the peer again once its bytes are taken; it cannot be given back twice.
        let _ = body.flow_control().release_capacity(data.len());
        for piece in data.chunks(MESSAGE_BYTES_MAX) {
            gathered.extend_from_slice(piece);
            while let Some(message) = message(id, &mut gathered)? {
                told(serving(id, message)?);
            }
        }
    }
    let trailers = body.trailers().await;
    let trailers = trailers.map_err(|error| within_answer(id, &error))?;
    match trailers
        .as_ref()
        .and_then(|all| Some((all, all.get("grpc-status")?)))
    {
        Some((all, number)) if number.as_bytes() != b"0" => Err(answer::failed(id, number, all)),
        Some(_) | None => Ok(()),
    }
}

/// The next whole message, once it is there.
fn message(id: &InstanceId, gathered: &mut BytesMut) -> Result<Option<Bytes>, Failure> {
    let Some(&[flag, a, b, c, d]) = gathered.first_chunk::<PREFIX_BYTES>() else {
        return Ok(None);
    };
    let length = u32::from_be_bytes([a, b, c, d]) as usize;
    if flag != 0 || MESSAGE_BYTES_MAX < length {
        return Err(answer::malformed(id, "the health watch cannot be read"));
    }
    if gathered.len() < PREFIX_BYTES + length {
        return Ok(None);
    }
    gathered.advance(PREFIX_BYTES);
    Ok(Some(gathered.split_to(length).freeze()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_taken_whole_and_what_is_none_is_refused() {
        let id = InstanceId::parse("A").unwrap();
        let mut gathered = BytesMut::from(&b"\0\0\0\0\x02\x08\x01\0\0\0\0\x02\x08"[..]);
        let first = message(&id, &mut gathered).unwrap();
        assert_eq!(first.as_deref(), Some(&b"\x08\x01"[..]));
        assert_eq!(message(&id, &mut gathered).unwrap(), None);
        gathered.extend_from_slice(b"\x02");
        let second = message(&id, &mut gathered).unwrap();
        assert_eq!(second.as_deref(), Some(&b"\x08\x02"[..]));
        assert!(gathered.is_empty());
        for bad in [&b"\x01\0\0\0\0"[..], b"\0\xff\xff\xff\xff"] {
            assert!(message(&id, &mut BytesMut::from(bad)).is_err());
        }
    }
}
