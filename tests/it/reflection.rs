//! Reflection lists what is served and describes the whole contract, comments included, in both versions.

use prost::Message as _;
use prost_types::FileDescriptorProto;
use tokio_stream::StreamExt as _;
use tonic::Request;
use tonic_reflection::pb::{v1, v1alpha};

use crate::stage::{KEY, channel, embedded, start};

fn with_key<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request
        .metadata_mut()
        .insert("authorization", format!("Bearer {KEY}").parse().unwrap());
    request
}

#[tokio::test]
async fn v1_lists_every_service_and_describes_with_comments() {
    use v1::server_reflection_request::MessageRequest;
    use v1::server_reflection_response::MessageResponse;
    let app = start(embedded()).await;
    let mut client =
        v1::server_reflection_client::ServerReflectionClient::new(channel(app.address()).await);
    let ask = |message| v1::ServerReflectionRequest {
        host: String::new(),
        message_request: Some(message),
    };
    let asked = tokio_stream::iter([
        ask(MessageRequest::ListServices(String::new())),
        ask(MessageRequest::FileContainingSymbol(
            "openclaw.orchestrator.v1.OrchestratorService".into(),
        )),
        ask(MessageRequest::FileContainingSymbol(
            "google.rpc.ErrorInfo".into(),
        )),
        ask(MessageRequest::FileContainingSymbol(
            "grpc.health.v1.Health".into(),
        )),
        ask(MessageRequest::FileContainingSymbol(
            "openclaw.instance.v1.InstanceService".into(),
        )),
    ]);
    let answers: Vec<_> = client
        .server_reflection_info(with_key(asked))
        .await
        .unwrap()
        .into_inner()
        .map(|answer| answer.unwrap().message_response.unwrap())
        .collect()
        .await;
    let MessageResponse::ListServicesResponse(list) = &answers[0] else {
        panic!("{answers:?}")
    };
    let services: Vec<_> = list
        .service
        .iter()
        .map(|service| service.name.as_str())
        .collect();
    // InstanceService can be described and is not served here, so it is not listed.
    assert_eq!(
        services,
        [
            "openclaw.orchestrator.v1.OrchestratorService",
            "openclaw.orchestrator.v1.ClusterService",
            "grpc.health.v1.Health",
            "grpc.reflection.v1.ServerReflection",
        ]
    );
    let MessageResponse::FileDescriptorResponse(file) = &answers[1] else {
        panic!("{answers:?}")
    };
    let file = FileDescriptorProto::decode(&file.file_descriptor_proto[0][..]).unwrap();
    assert_eq!(file.name(), "openclaw/orchestrator/v1/orchestrator.proto");
    let comments = file.source_code_info.unwrap().location;
    assert!(comments.iter().any(|location| {
        location
            .leading_comments()
            .contains("Hands one task to the one instance")
    }));
    for answer in &answers[2..] {
        assert!(
            matches!(answer, MessageResponse::FileDescriptorResponse(_)),
            "{answer:?}"
        );
    }
}

#[tokio::test]
async fn v1alpha_answers_older_clients() {
    use v1alpha::server_reflection_request::MessageRequest;
    use v1alpha::server_reflection_response::MessageResponse;
    let app = start(embedded()).await;
    let mut client = v1alpha::server_reflection_client::ServerReflectionClient::new(
        channel(app.address()).await,
    );
    let message = Some(MessageRequest::ListServices(String::new()));
    let asked = tokio_stream::iter([v1alpha::ServerReflectionRequest {
        host: String::new(),
        message_request: message,
    }]);
    let mut answers = client
        .server_reflection_info(with_key(asked))
        .await
        .unwrap()
        .into_inner();
    let answer = answers
        .message()
        .await
        .unwrap()
        .unwrap()
        .message_response
        .unwrap();
    let MessageResponse::ListServicesResponse(list) = answer else {
        panic!("{answer:?}")
    };
    let services: Vec<_> = list
        .service
        .iter()
        .map(|service| service.name.as_str())
        .collect();
    assert_eq!(
        services,
        [
            "openclaw.orchestrator.v1.OrchestratorService",
            "openclaw.orchestrator.v1.ClusterService",
            "grpc.health.v1.Health",
            "grpc.reflection.v1alpha.ServerReflection",
        ]
    );
}
