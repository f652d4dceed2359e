//! SessionSend, with small buffers. Most sessions say nothing most of the time, and many are attached at once: with the
//! buffers of other calls, 8 KiB for each direction, these would be most of what such a stream holds.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use http::Request;
use tonic::body::Body;
use tonic::codec::{BufferSettings, Codec};
use tonic::server::{Grpc, StreamingService};
use tonic::{Response, Status, Streaming};
use tonic_prost::{ProstDecoder, ProstEncoder};

use super::super::layer::Answering;
use super::orchestrator::{Events, Orchestrator};
use crate::domain::limit::{MESSAGE_BYTES_MAX, SESSION_CODEC_BUFFER_BYTES};
use crate::proto::orchestrator::orchestrator_service_server::OrchestratorService as _;
use crate::proto::orchestrator::{SessionSendRequest, SessionSendResponse};

/// What is encoded at once of several messages that wait.
const ENCODED_TOGETHER_BYTES: usize = 32 * 1024;

/// Reads and writes the frames of a session.
struct Frames;

fn buffers() -> BufferSettings {
    BufferSettings::new(SESSION_CODEC_BUFFER_BYTES, ENCODED_TOGETHER_BYTES)
}

impl Codec for Frames {
    type Encode = SessionSendResponse;
    type Decode = SessionSendRequest;
    type Encoder = ProstEncoder<SessionSendResponse>;
    type Decoder = ProstDecoder<SessionSendRequest>;

    fn encoder(&mut self) -> Self::Encoder {
        ProstEncoder::new(buffers())
    }

    fn decoder(&mut self) -> Self::Decoder {
        ProstDecoder::new(buffers())
    }
}

struct SessionSend(Arc<Orchestrator>);

type Answered = Result<Response<Events<SessionSendResponse>>, Status>;

impl StreamingService<SessionSendRequest> for SessionSend {
    type Response = SessionSendResponse;
    type ResponseStream = Events<SessionSendResponse>;
    type Future = Pin<Box<dyn Future<Output = Answered> + Send>>;

    fn call(&mut self, request: tonic::Request<Streaming<SessionSendRequest>>) -> Self::Future {
        let orchestrator = Arc::clone(&self.0);
        Box::pin(async move { orchestrator.session_send(request).await })
    }
}

/// Serves one stream.
pub(super) fn serve(orchestrator: &Arc<Orchestrator>, request: Request<Body>) -> Answering {
    let service = SessionSend(Arc::clone(orchestrator));
    Box::pin(async move {
        let mut grpc = Grpc::new(Frames)
            .apply_max_message_size_config(Some(MESSAGE_BYTES_MAX), Some(MESSAGE_BYTES_MAX));
        Ok(grpc.streaming(service, request).await)
    })
}
