//! Reflection: the contract as the server tells it, in both versions of that service. Each is made when somebody asks
//! it for the first time: most servers are never asked, and a start has no time to lose.

use std::convert::Infallible;
use std::future::ready;
use std::sync::LazyLock;

use http::{Request, Response};
use tonic::body::Body;
use tonic_reflection::server::{Builder, Error};
use tower::Service as _;
use tower::util::BoxCloneSyncService;

use super::super::failure_table;
use super::super::layer::Answering;
use crate::domain::failure::{Failure, Reason};
use crate::proto;
use crate::proto::health::health_server;
use crate::proto::orchestrator::{cluster_service_server, orchestrator_service_server};

pub(super) const V1: &str = "grpc.reflection.v1.ServerReflection";
pub(super) const V1_ALPHA: &str = "grpc.reflection.v1alpha.ServerReflection";

/// The library does not name the types of its services.
type Boxed = BoxCloneSyncService<Request<Body>, Response<Body>, Infallible>;

/// One version of the service.
pub(super) struct Reflection(LazyLock<Result<Boxed, Error>>);

impl Reflection {
    pub(super) fn v1() -> Self {
        let make = || Ok(Boxed::new(builder(V1).build_v1()?));
        Self(LazyLock::new(make))
    }

    pub(super) fn v1_alpha() -> Self {
        let make = || Ok(Boxed::new(builder(V1_ALPHA).build_v1alpha()?));
        Self(LazyLock::new(make))
    }

    pub(super) fn call(&self, request: Request<Body>) -> Answering {
        match &*self.0 {
            Ok(service) => Box::pin(service.clone().call(request)),
            // Only when the descriptors that were built in are broken.
            Err(error) => {
                let broken = Failure::new(Reason::Internal, format!("reflection: {error}"));
                Box::pin(ready(Ok(failure_table::status(&broken).into_http())))
            }
        }
    }
}

/// Only what is served here is listed; what an instance implements can be described all the same.
fn builder(own_name: &'static str) -> Builder<'static> {
    Builder::configure()
        .with_service_name(orchestrator_service_server::SERVICE_NAME)
        .with_service_name(cluster_service_server::SERVICE_NAME)
        .with_service_name(health_server::SERVICE_NAME)
        .with_service_name(own_name)
        .register_encoded_file_descriptor_set(proto::DESCRIPTORS)
        // What the details of a failure are made of, so that clients can show them.
        .register_encoded_file_descriptor_set(tonic_types::pb::FILE_DESCRIPTOR_SET)
}
