//! The way to the server: connect, send the key with every call, give up in time, stop on Ctrl-C.

use std::future::Future;
use std::time::Duration;

use tonic::Request;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::Channel;

use super::destination::Destination;
use super::exit::Error;
use crate::domain::deadline::to_grpc_timeout;
use crate::domain::limit::{ANSWER_BYTES_MAX, TIMEOUT_MAX};
use crate::proto::health::health_client::HealthClient;
use crate::proto::orchestrator::cluster_service_client::ClusterServiceClient;
use crate::proto::orchestrator::orchestrator_service_client::OrchestratorServiceClient;

const KEY_VARIABLE: &str = "ORCHESTRATOR_API_KEY";
/// Within it the server has to say its first word, too.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long after its own deadline the server may still speak.
const SERVER_SLACK: Duration = Duration::from_secs(1);
/// Finds out within a minute that the server is gone while a stream is silent.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(45);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(15);

/// Runs a command's calls; Ctrl-C drops them, and with them the connection, which cancels them at the server.
pub(super) fn block_on<T>(calls: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    // Two threads, so that a reader of our output who pauses does not keep the connection from its pings.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .map_err(Error::System)?;
    let done = runtime.block_on(async {
        tokio::select! {
            // Listened for before anything is sent: from then on Ctrl-C is a cancel, with the exit code of one.
            biased;
            interrupt = tokio::signal::ctrl_c() => Err(interrupt.map_or_else(Error::System, |()| Error::Interrupted)),
            done = calls => done,
        }
    });
    // A name that is still being looked up would be waited for otherwise.
    runtime.shutdown_background();
    done
}

/// Waits for a call, or for all of a stream, a little longer than the server should need.
pub(super) async fn guard<T>(
    timeout: Option<Duration>,
    call: impl Future<Output = Result<T, Error>>,
) -> Result<T, Error> {
    let longest = timeout.unwrap_or(TIMEOUT_MAX).saturating_add(SERVER_SLACK);
    match tokio::time::timeout(longest, call).await {
        Ok(done) => done,
        Err(_elapsed) => Err(Error::Overdue),
    }
}

/// A connection to the server.
pub(super) struct Connection {
    channel: Channel,
    /// None where a certificate stands for the key, or none is needed.
    authorization: Option<MetadataValue<Ascii>>,
}

impl Connection {
    /// Connects, in no more time than the call itself has.
    pub(super) async fn open(to: &Destination, timeout: Option<Duration>) -> Result<Self, Error> {
        Self::open_with(environment(KEY_VARIABLE), to, timeout).await
    }

    /// Connects with a key that does not come from the environment.
    pub(super) async fn open_with(
        key: Option<String>,
        to: &Destination,
        timeout: Option<Duration>,
    ) -> Result<Self, Error> {
        let authorization = match key {
            None if to.shows_certificate() => None,
            key => Some(authorization(key)?),
        };
        Self::with(authorization, to, timeout).await
    }

    /// Connects without a key, for what is public.
    pub(super) async fn without_key(
        to: &Destination,
        timeout: Option<Duration>,
    ) -> Result<Self, Error> {
        Self::with(None, to, timeout).await
    }

    async fn with(
        authorization: Option<MetadataValue<Ascii>>,
        to: &Destination,
        timeout: Option<Duration>,
    ) -> Result<Self, Error> {
        let within = timeout.map_or(CONNECT_TIMEOUT, |timeout| timeout.min(CONNECT_TIMEOUT));
        let channel = to.connect(within, |endpoint| {
            endpoint
                .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
                .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        });
        let channel = channel.await?;
        Ok(Self {
            channel,
            authorization,
        })
    }

    pub(super) fn orchestrator(&self) -> OrchestratorServiceClient<Channel> {
        OrchestratorServiceClient::new(self.channel.clone())
            .max_decoding_message_size(ANSWER_BYTES_MAX)
    }

    pub(super) fn cluster(&self) -> ClusterServiceClient<Channel> {
        ClusterServiceClient::new(self.channel.clone()).max_decoding_message_size(ANSWER_BYTES_MAX)
    }

    pub(super) fn health(&self) -> HealthClient<Channel> {
        HealthClient::new(self.channel.clone())
    }

    /// A request with the key and the deadline.
    pub(super) fn request<M>(&self, message: M, timeout: Option<Duration>) -> Request<M> {
        let mut request = Request::new(message);
        let metadata = request.metadata_mut();
        if let Some(authorization) = &self.authorization {
            metadata.insert("authorization", authorization.clone());
        }
        if let Some(Ok(value)) = timeout.map(|timeout| to_grpc_timeout(timeout).parse()) {
            metadata.insert("grpc-timeout", value);
        }
        request
    }
}

/// The timeout as the request's own field.
pub(super) fn timeout_field(
    timeout: Option<Duration>,
) -> Result<Option<prost_types::Duration>, Error> {
    let field = timeout.map(prost_types::Duration::try_from).transpose();
    field.map_err(|_| Error::usage("the timeout is longer than can be written", ""))
}

#[allow(
    clippy::disallowed_methods,
    reason = "the command line is where the environment is read"
)]
fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

fn authorization(key: Option<String>) -> Result<MetadataValue<Ascii>, Error> {
    let key = key.unwrap_or_default();
    if key.trim().is_empty() {
        return Err(Error::Key(format!("{KEY_VARIABLE} is not set")));
    }
    let mut authorization: MetadataValue<Ascii> = format!("Bearer {}", key.trim())
        .parse()
        .map_err(|_| Error::Key(format!("{KEY_VARIABLE} holds characters that no key has")))?;
    authorization.set_sensitive(true);
    Ok(authorization)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::exit::Exit;

    #[test]
    fn a_key_is_needed_and_kept_out_of_debug_output() {
        let check = |key: Option<&str>| authorization(key.map(str::to_owned));
        for missing in [None, Some(""), Some(" \n"), Some("a\nb")] {
            assert!(
                check(missing).is_err_and(|error| error.exit() == Exit::Denied),
                "{missing:?}"
            );
        }
        let authorization = check(Some("ok_123\n")).unwrap();
        assert_eq!(authorization, "Bearer ok_123");
        assert!(!format!("{authorization:?}").contains("ok_123"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_server_is_given_up_a_second_after_the_deadline() {
        let started = tokio::time::Instant::now();
        let never = std::future::pending::<Result<(), Error>>();
        let done = guard(Some(Duration::from_secs(2)), never).await;
        assert!(matches!(done, Err(Error::Overdue)));
        assert_eq!(started.elapsed(), Duration::from_secs(3));
    }
}
