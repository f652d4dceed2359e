//! Traces on their way to a collector: the exporter of OpenTelemetry, over a connection of the house.

use std::io;

use hyper_util::rt::TokioIo;
use opentelemetry_otlp::{
    ExporterBuildError, RetryPolicy, SpanExporter, WithExportConfig as _, WithTonicConfig as _,
};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{self, SpanData};
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::time::timeout;
use tokio_util::context::TokioContext;
use tonic::metadata::MetadataMap;
use tonic::transport::{Channel, Endpoint};
use tower::service_fn;

use crate::config::{Collector, Config};
use crate::domain::limit::{
    TRACE_BACKOFF_MAX, TRACE_BACKOFF_MIN, TRACE_SENDS_MAX, TRACE_SENDS_WITHIN,
};
use crate::instance::endpoint::{Connected, Dial, Transport};
use crate::instance::tls::{self, BadTls, Connector, Offer};
use crate::tasks::Tasks;
use crate::telemetry::trace::{Export, Last, Reach, Tracer};

/// How what was recorded is sent before the end.
#[derive(Default)]
pub(super) struct Traces(Option<(Export, Tasks)>);

/// A collector of traces that cannot be.
#[derive(Debug, thiserror::Error)]
pub enum BadCollector {
    /// It cannot be trusted, or has no name.
    #[error("{0}")]
    Tls(#[from] BadTls),
    /// The exporter takes what stands in its own variables, and cannot use that.
    #[error("{0}")]
    Exporter(#[from] ExporterBuildError),
}

/// Records calls from now on, if the config says so. A collector that cannot be reached is no reason not to start.
pub(super) fn start(
    config: &Config,
    dial: &Dial,
    tasks: &Tasks,
) -> Result<(Tracer, Traces), BadCollector> {
    let Some(traces) = &config.traces else {
        return Ok((Tracer::off(), Traces::default()));
    };
    let reach = Reach::default();
    let exporter = Exporter {
        otlp: exporter(&traces.collector, dial, &reach)?,
        runtime: Handle::current(),
    };
    let (tracer, export) = Tracer::new(&traces.settings, exporter, reach);
    Ok((tracer, Traces(Some((export, tasks.clone())))))
}

impl Traces {
    /// Sends what was recorded until now; a collector that does not answer holds up nobody for long.
    pub(super) async fn flush(self) {
        let Some((export, tasks)) = self.0 else {
            return;
        };
        let (over, last) = oneshot::channel();
        // The SDK waits for its thread, and that for this runtime.
        let finishing = tasks.spawn_thread("last-spans", move || {
            // Nobody listens any more: then it does not matter.
            let _ = over.send(export.finish());
        });
        if finishing.is_err() || last.await != Ok(Last::Sent) {
            tracing::warn!("stopping: the last spans were not taken in time");
        }
    }
}

/// Sends a batch again as OTLP has it, and is connected when there is something to send.
fn exporter(place: &Collector, dial: &Dial, reach: &Reach) -> Result<SpanExporter, BadCollector> {
    let backoff = RetryPolicy::recommended()
        .with_max_retries(TRACE_SENDS_MAX - 1)
        .with_initial_delay(TRACE_BACKOFF_MIN)
        .with_max_delay(TRACE_BACKOFF_MAX);
    let headers = place.headers.iter().cloned().collect();
    let exporter = SpanExporter::builder()
        .with_tonic()
        .with_channel(channel(place, dial, reach)?)
        .with_metadata(MetadataMap::from_headers(headers))
        .with_retry_policy(backoff)
        // Over a channel of ours this ends the sending again alone: each time has the channel's.
        .with_timeout(TRACE_SENDS_WITHIN);
    Ok(exporter.build()?)
}

fn channel(place: &Collector, dial: &Dial, reach: &Reach) -> Result<Channel, BadTls> {
    let Collector {
        endpoint, timeout, ..
    } = place;
    let (secure, scheme) = match endpoint.transport {
        Transport::Plain | Transport::Unix => (None, "http"),
        Transport::Tls => {
            let secure = tls::connector(&place.tls, &endpoint.host, Offer::Http2)?;
            (Some(secure), "https")
        }
    };
    let authority = endpoint.authority();
    let named = Endpoint::from_shared(format!("{scheme}://{authority}"));
    let named = named.map_err(|_| BadTls::Name(authority))?;
    let way = Way {
        place: place.clone(),
        dial: Dial::clone(dial),
        secure,
    };
    let reach = reach.clone();
    let connect = service_fn(move |_| {
        let (way, reach) = (way.clone(), reach.clone());
        async move {
            let opened = way.open().await;
            opened
                .inspect_err(|error| reach.lose(error))
                .map(TokioIo::new)
        }
    });
    Ok(named.timeout(*timeout).connect_with_connector_lazy(connect))
}

/// How connections are made.
#[derive(Clone)]
struct Way {
    place: Collector,
    dial: Dial,
    secure: Option<Connector>,
}

impl Way {
    async fn open(self) -> io::Result<Box<dyn Connected>> {
        let endpoint = &self.place.endpoint;
        let opened = async {
            let stream = endpoint.connect(&self.dial).await?;
            let Some(secure) = self.secure else {
                return Ok(stream);
            };
            let secure = secure.current().await;
            let stream = secure.connector.connect(secure.name, stream).await?;
            Ok(Box::new(stream) as Box<dyn Connected>)
        };
        let opened: io::Result<_> = timeout(self.place.timeout, opened)
            .await
            .unwrap_or_else(|_late| Err(io::Error::other("no answer in time")));
        opened.map_err(|error| io::Error::other(format!("connect to {endpoint}: {error}")))
    }
}

/// The exporter, in a thread that is none of the runtime's: it waits by its clock, and stops waiting when it is told to.
#[derive(Debug)]
struct Exporter {
    otlp: SpanExporter,
    runtime: Handle,
}

impl trace::SpanExporter for Exporter {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        TokioContext::new(self.otlp.export(batch), self.runtime.clone()).await
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.otlp.set_resource(resource);
    }
}
