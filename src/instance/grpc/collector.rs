//! A collector of traces: OTLP over gRPC, by the same kind of connection as an instance. One call carries a batch.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue, TE, USER_AGENT};
use http::{HeaderMap, Method, Request, Uri, Version};
use prost::Message as _;
use tokio::time::{self, Instant};

use super::frame::Frame;
use super::link::{Link, Sharing};
use super::{AGENT, put_timeout};
use crate::domain::failure::{Failure, Progress, Reason};
use crate::domain::id::InstanceId;
use crate::domain::limit::COLLECTOR_ANSWER_BYTES_MAX;
use crate::instance::Sent;
use crate::instance::collector::Place;
use crate::instance::endpoint::{Dial, Transport};
use crate::instance::tls::{self, BadTls, Offer};
use crate::memory::Memory;
use crate::tasks::Tasks;

const EXPORT: &str = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";

/// A collector of traces. It is connected to when there is something to send.
pub struct Collector {
    id: InstanceId,
    link: Arc<Link>,
    uri: Uri,
    headers: HeaderMap,
    timeout: Duration,
    memory: Memory,
}

/// What there is in `ExportTraceServiceResponse`.
#[derive(Clone, PartialEq, prost::Message)]
struct Answer {
    #[prost(message, optional, tag = "1")]
    partial_success: Option<PartialSuccess>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct PartialSuccess {
    #[prost(int64, tag = "1")]
    rejected_spans: i64,
}

impl Collector {
    /// Prepares a collector; nothing is connected yet.
    pub fn new(place: &Place, dial: &Dial, tasks: &Tasks) -> Result<Self, BadTls> {
        let authority = place.endpoint.authority();
        let bad = || BadTls::Name(authority.clone());
        let (secure, scheme) = match place.endpoint.transport {
            Transport::Plain | Transport::Unix => (None, "http"),
            Transport::Tls => {
                let host = &place.endpoint.host;
                let secure = tls::connector(&place.tls, host, Offer::Http2)?;
                (Some(secure), "https")
            }
        };
        let uri = Uri::builder().scheme(scheme).authority(&*authority);
        let mut headers: HeaderMap = place.headers.iter().cloned().collect();
        headers.insert(TE, HeaderValue::from_static("trailers"));
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        headers.insert(USER_AGENT, AGENT);
        let id = InstanceId::parse("collector").map_err(|_| bad())?;
        Ok(Self {
            link: Link::new(
                id.clone(),
                Sharing::CALLS,
                place.endpoint.clone(),
                Arc::clone(dial),
                secure,
                tasks.clone(),
            ),
            id,
            uri: uri.path_and_query(EXPORT).build().map_err(|_| bad())?,
            headers,
            timeout: place.timeout,
            memory: Memory::new(COLLECTOR_ANSWER_BYTES_MAX),
        })
    }

    /// Hands over one `ExportTraceServiceRequest`, and says how many of its spans were rejected.
    pub async fn export(&self, batch: Bytes) -> Result<u64, Failure> {
        let ends = Instant::now() + self.timeout;
        let mut request = Request::new(());
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.uri.clone();
        *request.version_mut() = Version::HTTP_2;
        *request.headers_mut() = self.headers.clone();
        let exported = async {
            let mut before_send = |now| put_timeout(request.headers_mut(), ends, now);
            let sender = self.link.ready(&Sent::default(), &mut before_send).await?;
            let frame = Frame::encoded(batch);
            sender.unary(request, frame, &self.memory).await
        };
        let answer = time::timeout_at(ends, exported)
            .await
            .unwrap_or_else(|_late| {
                let what = "no answer in time";
                let (reason, progress) = (Reason::DeadlineExceeded, Progress::MayHaveBegun);
                Err(Failure::at(&self.id, reason, progress, what))
            })?;
        let answer = Answer::decode(answer).map_err(|_| {
            let what = "the answer is not an ExportTraceServiceResponse";
            Failure::at(&self.id, Reason::AnswerMalformed, Progress::Answered, what)
        })?;
        let rejected = answer.partial_success.map(|partial| partial.rejected_spans);
        Ok(rejected.map_or(0, |count| u64::try_from(count).unwrap_or_default()))
    }
}
