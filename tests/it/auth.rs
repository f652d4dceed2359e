//! Every method of every service that is served needs its key, whether or not anybody remembered it here.

use http::Request;
use orchestrator::ingress::caller::{Key, METHODS, Reflection};
use orchestrator::proto;
use prost::Message as _;
use prost_types::FileDescriptorSet;
use tonic::body::Body;
use tonic::transport::Channel;
use tonic::{Code, Status};
use tower::{Service as _, ServiceExt as _};

use crate::stage::{self, KEY, channel, embedded, reason, start};

/// Every method of the contract, and those of reflection, as paths.
fn methods() -> Vec<String> {
    let set = FileDescriptorSet::decode(proto::DESCRIPTORS).unwrap();
    let contract = set.file.iter().flat_map(|file| {
        file.service.iter().flat_map(move |service| {
            service.method.iter().map(move |method| {
                format!("/{}.{}/{}", file.package(), service.name(), method.name())
            })
        })
    });
    let reflection = ["v1", "v1alpha"]
        .map(|version| format!("/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo"));
    contract
        .filter(|path| !path.starts_with("/openclaw.instance."))
        .chain(reflection)
        .collect()
}

/// What a call with these `authorization` values and an empty message is answered with.
async fn ask(channel: &mut Channel, path: &str, authorization: &[&str]) -> Option<Status> {
    let mut request = Request::post(format!("http://orchestrator{path}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers");
    for value in authorization {
        request = request.header("authorization", *value);
    }
    let empty = http_body_util::Full::from(bytes::Bytes::from_static(&[0; 5]));
    let request = request.body(Body::new(empty)).unwrap();
    let response = channel.ready().await.unwrap().call(request).await.unwrap();
    // Trailers-Only: refused before anything was done. Anything else was let in.
    Status::from_header_map(response.headers())
}

fn code(status: &Option<Status>) -> Code {
    status.as_ref().map_or(Code::Ok, Status::code)
}

#[tokio::test]
async fn every_method_needs_a_key_but_health() {
    let app = start(embedded()).await;
    let mut channel = channel(app.address()).await;
    let (right, wrong) = (format!("Bearer {KEY}"), "Bearer wrong".to_owned());
    let methods = methods();
    assert!(12 <= methods.len(), "{methods:?}");
    for path in methods
        .iter()
        .map(String::as_str)
        .chain(["/no.such.Service/Method", "/"])
    {
        let public = path.starts_with("/grpc.health.v1.Health/");
        for values in [
            &[][..],
            &[wrong.as_str()],
            &["Basic x"],
            &[right.as_str(), right.as_str()],
        ] {
            let status = ask(&mut channel, path, values).await;
            let refused = code(&status) == Code::Unauthenticated;
            assert_eq!(refused, !public, "{path} {}: {status:?}", values.len());
            if let Some(status) = status.filter(|_| refused) {
                assert!(
                    ["KEY_MISSING", "KEY_INVALID"].contains(&reason(&status).as_str()),
                    "{status:?}"
                );
            }
        }
        let status = ask(&mut channel, path, &[&right]).await;
        assert!(
            ![Code::Unauthenticated, Code::PermissionDenied].contains(&code(&status)),
            "{path}: {status:?}"
        );
    }
}

#[tokio::test]
async fn every_method_of_the_contract_has_a_scope_and_a_key_without_it_is_denied() {
    let mut config = embedded();
    config.keys.keys.push(Key {
        scopes: Vec::new(),
        ..Key::with_all_rights("narrow", "narrow-key")
    });
    let app = start(config).await;
    let mut channel = channel(app.address()).await;
    for path in methods()
        .into_iter()
        .filter(|path| path.starts_with("/openclaw."))
    {
        assert!(
            METHODS.iter().any(|(method, _)| *method == path),
            "{path} has a scope of its own"
        );
        let status = ask(&mut channel, &path, &["Bearer narrow-key"]).await;
        assert_eq!(code(&status), Code::PermissionDenied, "{path}");
        assert_eq!(reason(&status.unwrap()), "SCOPE_MISSING");
    }
}

#[tokio::test]
async fn an_expired_key_is_refused_and_reflection_can_be_opened() {
    let mut config = embedded();
    let past = std::time::SystemTime::now() - std::time::Duration::from_secs(1);
    config.keys.keys.push(Key {
        expires: Some(past),
        ..Key::with_all_rights("old", "old-key")
    });
    config.keys.reflection = Reflection::Public;
    let app = start(config).await;
    let mut channel = channel(app.address()).await;
    let status = ask(&mut channel, METHODS[0].0, &["Bearer old-key"]).await;
    assert_eq!(reason(&status.unwrap()), "KEY_INVALID");
    let path = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo";
    assert_eq!(code(&ask(&mut channel, path, &[]).await), Code::Ok);
    assert_eq!(
        code(&ask(&mut channel, METHODS[0].0, &[]).await),
        Code::Unauthenticated
    );
}

#[tokio::test]
async fn an_unknown_method_is_unimplemented_by_name() {
    let app = start(stage::config()).await;
    let mut channel = channel(app.address()).await;
    let right = format!("Bearer {KEY}");
    for path in [
        "/openclaw.orchestrator.v1.OrchestratorService/Nothing",
        "/no.such.Service/Method",
    ] {
        let status = ask(&mut channel, path, &[&right]).await.unwrap();
        assert_eq!(
            (status.code(), reason(&status).as_str()),
            (Code::Unimplemented, "METHOD_UNKNOWN"),
            "{path}"
        );
    }
}
