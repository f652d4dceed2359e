//! The streams of one connection: each begins with an exchange of its own, and is reset once its reader has
//! stopped reading.
//!
//! A peer that answers PINGs and never opens its window would otherwise keep its answer here until the
//! connection is too old. HTTP/2 asks an answer for its next piece only when there is room for the one before,
//! so that a piece that stays in our hands is a reader that stands still. Such an answer does not hear either that its
//! caller's key is revoked: its stream is reset here.

use std::convert::Infallible;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::service::Service;
use tokio::time::{Instant, Sleep, sleep, sleep_until};

use crate::domain::limit::REVOKED_STREAM_END_MAX;
use crate::ingress::exchange::Exchange;
use crate::ingress::meter::Meter;
use crate::ingress::outgoing::Outgoing;
use crate::ingress::settings::SettingsNow;
use crate::ingress::visitor::Guest;
use crate::ingress::web::{self, Dress, Form, Leaving};
use crate::ingress::{Arriving, Door};
use crate::instance::Pending;
use crate::memory::Memory;
use crate::tasks::Tasks;
use crate::telemetry::trace::Tracer;

/// How the two sides of a connection meet: hyper calls the service for a request, and then, before the next
/// request, gives the future of that stream to the executor.
type Begun = Arc<Mutex<Option<Arc<Exchange>>>>;

/// The two sides of a connection.
pub(super) fn streams<D>(
    door: D,
    (guest, scheme): (Guest, &'static str),
    settings: SettingsNow,
    (memory, tracer): (Memory, Tracer),
    tasks: Tasks,
) -> (Calls<D>, Watched) {
    let begun = Begun::default();
    let watched = Watched {
        tasks,
        begun: Arc::clone(&begun),
        settings: settings.clone(),
    };
    let calls = Calls {
        door,
        guest,
        scheme,
        settings,
        memory,
        tracer,
        begun,
    };
    (calls, watched)
}

/// Begins an exchange for each request.
pub(super) struct Calls<D> {
    door: D,
    guest: Guest,
    /// What requests are made with here, as URLs name it.
    scheme: &'static str,
    settings: SettingsNow,
    memory: Memory,
    tracer: Tracer,
    begun: Begun,
}

impl<D: Door<Arriving<Incoming>>> Service<Request<Incoming>> for Calls<D> {
    type Response = Response<Leaving<Outgoing>>;
    type Error = Infallible;
    type Future = Answer<D::Future>;

    /// The exchange must be there when this returns: a future that began it when it is first asked would be
    /// asked by the executor, which needs it before.
    fn call(&self, request: Request<Incoming>) -> Self::Future {
        // Before anything else, and its answer after everything else: in between there is one gRPC.
        let (mut request, form) = web::undress(request);
        let meter = Meter::begin(&request, &self.tracer, self.scheme);
        let exchange = Exchange::recorded(&self.memory, meter.within());
        request.extensions_mut().insert(Arc::clone(&exchange));
        // Asked for each request: whoever may no longer speak for others is not believed on an open connection either.
        if let Some(visitor) = self.guest.now(&self.settings.load().forwarders) {
            request.extensions_mut().insert(Arc::clone(visitor));
        }
        let mut begun = self.begun.lock().unwrap_or_else(PoisonError::into_inner);
        *begun = Some(Arc::clone(&exchange));
        drop(begun);
        Answer {
            answering: self.door.clone().call(request),
            parts: Some((exchange, self.memory.clone(), meter, form)),
        }
    }
}

/// The answer to a request, on its way.
pub(super) struct Answer<F> {
    answering: F,
    parts: Option<(Arc<Exchange>, Memory, Meter, Option<Form>)>,
}

impl<F, B> Future for Answer<F>
where
    F: Future<Output = Result<Response<B>, Infallible>> + Unpin,
    B: Into<tonic::body::Body>,
{
    type Output = Result<Response<Leaving<Outgoing>>, Infallible>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let response = ready!(Pin::new(&mut self.answering).poll(context))?;
        match self.parts.take() {
            Some((exchange, memory, mut meter, form)) => {
                meter.answer(&response);
                let response = response.map(Into::into);
                let dress = form.map(|form| Dress {
                    form,
                    memory: memory.clone(),
                    exchange: Arc::clone(&exchange),
                });
                let response = Outgoing::wrap(response, exchange, memory, meter);
                Poll::Ready(Ok(Leaving::wrap(response, dress)))
            }
            // A future that is over is not asked again.
            None => Poll::Pending,
        }
    }
}

/// Runs the streams of a connection, and ends those whose readers stand still.
#[derive(Clone)]
pub(super) struct Watched {
    tasks: Tasks,
    begun: Begun,
    settings: SettingsNow,
}

/// hyper spawns one future for each HTTP/2 stream.
impl<F> hyper::rt::Executor<F> for Watched
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    fn execute(&self, stream: F) {
        let mut begun = self.begun.lock().unwrap_or_else(PoisonError::into_inner);
        let exchange = begun.take();
        drop(begun);
        let idle_max = self.settings.load().limits.stream_idle;
        self.tasks.spawn(async move {
            let mut stream = pin!(stream);
            let mut idle = Idle::new(idle_max);
            let mut revoked = None;
            // A stream that is dropped before its end is reset, and what it had to send is dropped with it.
            std::future::poll_fn(|context| {
                if stream.as_mut().poll(context).is_ready() {
                    return Poll::Ready(());
                }
                let Some(exchange) = &exchange else {
                    return Poll::Pending;
                };
                let waiting = exchange.waiting();
                if waiting.is_some() && poll_revoked(exchange, &mut revoked, context).is_ready() {
                    return Poll::Ready(());
                }
                idle.poll_over(waiting, context)
            })
            .await;
        });
    }
}

/// Ready once the key by which the call came is accepted no more, and its answer has had time to say so.
fn poll_revoked(
    exchange: &Exchange,
    revoked: &mut Option<Pending<()>>,
    context: &mut Context<'_>,
) -> Poll<()> {
    let Some(key) = exchange.key() else {
        return Poll::Pending;
    };
    let over = || -> Pending<()> {
        let over = key.wait();
        Box::pin(async move {
            over.await;
            sleep(REVOKED_STREAM_END_MAX).await;
        })
    };
    revoked.get_or_insert_with(over).as_mut().poll(context)
}

/// How long the same piece has waited.
struct Idle {
    limit: Duration,
    piece: Option<(u32, Pin<Box<Sleep>>)>,
}

impl Idle {
    fn new(limit: Duration) -> Self {
        Self { limit, piece: None }
    }

    /// Ready once the piece that waits now has waited for too long.
    fn poll_over(&mut self, waiting: Option<u32>, context: &mut Context<'_>) -> Poll<()> {
        let Some(waiting) = waiting else {
            self.piece = None;
            return Poll::Pending;
        };
        let limit = self.limit;
        let timer = || Box::pin(sleep_until(Instant::now() + limit));
        let (piece, timer) = self.piece.get_or_insert_with(|| (waiting, timer()));
        if *piece != waiting {
            *piece = waiting;
            timer.as_mut().reset(Instant::now() + limit);
        }
        ready!(timer.as_mut().poll(context));
        tracing::debug!("stream reset: its reader stands still");
        Poll::Ready(())
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn only_a_piece_that_waits_by_itself_for_too_long_ends_its_stream() {
        let second = Duration::from_secs(1);
        let mut idle = Idle::new(10 * second);
        let start = Instant::now();
        // A reader who moves, however slowly, and one who has nothing to read.
        for (seconds, piece) in [
            (0, Some(1)),
            (9, Some(1)),
            (10, Some(3)),
            (19, Some(3)),
            (20, None),
            (40, Some(5)),
        ] {
            tokio::time::advance((start + seconds * second).duration_since(Instant::now())).await;
            let over = poll_fn(|context| Poll::Ready(idle.poll_over(piece, context))).await;
            assert!(over.is_pending(), "{seconds} s");
        }
        poll_fn(|context| idle.poll_over(Some(5), context)).await;
        assert_eq!(start.elapsed(), 50 * second);
    }
}
