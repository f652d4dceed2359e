//! Traces on their way to a collector: a task of its own takes them there, over a connection of the house.

use std::sync::Arc;

use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::chance::Chance;
use crate::config::Config;
use crate::domain::limit::TRACE_FLUSH_MAX;
use crate::instance::endpoint::Dial;
use crate::instance::grpc::collector::Collector;
use crate::instance::tls::BadTls;
use crate::tasks::Tasks;
use crate::telemetry::trace::{Taken, Tracer};

/// How what was recorded is sent before the end.
#[derive(Default)]
pub(super) struct Traces(Option<Sending>);

struct Sending {
    closing: CancellationToken,
    closed: CancellationToken,
}

/// Records calls from now on, if the config says so. A collector that cannot be reached is no reason not to start.
pub(super) fn start(
    config: &Config,
    dial: &Dial,
    tasks: &Tasks,
    chance: &Chance,
) -> Result<(Tracer, Traces), BadTls> {
    let Some(traces) = &config.traces else {
        return Ok((Tracer::off(), Traces::default()));
    };
    let collector = Arc::new(Collector::new(&traces.collector, dial, tasks)?);
    let seed = std::array::from_fn(|_| chance.draw());
    let (tracer, export) = Tracer::new(&traces.settings, seed);
    let sending = Sending {
        closing: CancellationToken::new(),
        closed: CancellationToken::new(),
    };
    let (closing, closed) = (sending.closing.clone(), sending.closed.clone().drop_guard());
    let exporting = async move {
        let _closed = closed;
        let send = |batch| {
            let collector = Arc::clone(&collector);
            async move {
                let rejected = collector.export(batch).await?;
                Ok(Taken { rejected })
            }
        };
        export.run(send, closing).await;
    };
    tasks.spawn(tasks.until_stop(exporting));
    Ok((tracer, Traces(Some(sending))))
}

impl Traces {
    /// Sends what was recorded until now; a collector that does not answer holds up nobody for long.
    pub(super) async fn flush(&self) {
        let Some(sending) = &self.0 else { return };
        sending.closing.cancel();
        if timeout(TRACE_FLUSH_MAX, sending.closed.cancelled())
            .await
            .is_err()
        {
            tracing::warn!("stopping: the last spans were not taken in time");
        }
    }
}
