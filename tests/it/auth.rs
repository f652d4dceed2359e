//! Every method of every service that is served needs its key, whether or not anybody remembered it here.

use http::{Method, Request};
use orchestrator::ingress::access::{Access, METHODS, PATHS, Scope};
use orchestrator::ingress::caller::{Key, Reflection};
use orchestrator::proto;
use prost::Message as _;
use prost_types::FileDescriptorSet;
use tonic::body::Body;
use tonic::transport::Channel;
use tonic::{Code, Status};
use tower::{Service as _, ServiceExt as _};

use crate::rest::ask::{Ask, WAYS};
use crate::stage::{self, KEY, channel, embedded, reason, start};
use crate::web::ask::{Web, every_way};

/// Every method of the contract, and those of reflection, as paths.
pub(crate) fn methods() -> Vec<String> {
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
async fn every_method_needs_a_key_over_grpc_web_as_it_does_over_grpc() {
    let mut config = embedded();
    config.keys.keys.push(Key {
        scopes: Vec::new(),
        ..Key::with_all_rights("narrow", "narrow-key")
    });
    let app = start(config).await;
    let right = format!("Bearer {KEY}");
    let methods = methods();
    let paths = methods.iter().map(String::as_str);
    for path in paths.chain(["/no.such.Service/Method", "/"]) {
        let public = path.starts_with("/grpc.health.v1.Health/");
        for (way, form) in every_way() {
            // What has no end is not read to it.
            if public && path.ends_with("/Watch") {
                continue;
            }
            let ask = |values: &[&str]| {
                let bare = Web::new(form, path, &()).without_key();
                let ask = values.iter().fold(bare, |ask, value| ask.with_key(value));
                let address = app.address();
                async move { ask.send(way, address).await }
            };
            for values in [
                &[][..],
                &["Bearer wrong"],
                &["Basic x"],
                &[right.as_str(), right.as_str()],
            ] {
                let answer = ask(values).await;
                let told = format!("{way:?} {form:?} {path} {}: {answer:?}", values.len());
                assert_eq!(answer.http, 200, "{told}");
                let refused = answer.status.code() == Code::Unauthenticated;
                assert_eq!(refused, !public, "{told}");
                if refused {
                    let reason = reason(&answer.status);
                    assert!(["KEY_MISSING", "KEY_INVALID"].contains(&&*reason), "{told}");
                    assert!(answer.messages.is_empty(), "{told}");
                }
            }
            if path.starts_with("/openclaw.") {
                let denied = ask(&["Bearer narrow-key"]).await;
                assert_eq!(denied.status.code(), Code::PermissionDenied, "{denied:?}");
            }
            // What has no end, once it is let in, is another test's.
            if !path.ends_with("Watch") {
                let let_in = ask(&[&right]).await.status.code();
                let refusals = [Code::Unauthenticated, Code::PermissionDenied];
                assert!(!refusals.contains(&let_in), "{path}: {let_in:?}");
            }
        }
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

/// Every path of the REST door, with and without `/api`, and some that are not there.
fn paths() -> Vec<(String, Access)> {
    let known = PATHS.iter().flat_map(|(path, access)| {
        [String::new(), "/api".to_owned()]
            .map(|start| (format!("{start}{path}").replace("{id}", "s1"), *access))
    });
    let none = [
        "/",
        "/api",
        "/api/",
        "/nothing",
        "/api/nothing",
        "//openapi.json",
    ];
    let none = none.map(|path| (path.to_owned(), Access::AnyKey));
    let closed = [
        "/api/orchestrator/nothing",
        "/orchestrator/route/",
        "/cluster/instances/A",
        "/orchestrator/sessions/",
        "/api/orchestrator/sessions/s1/",
        "/orchestrator/sessions/s1/nothing",
        "/orchestrator/sessions/s1/events/",
        "/api/orchestrator/%72oute",
        "/openclaw.orchestrator.v1.OrchestratorService/Nothing",
    ];
    let closed = closed.map(|path| (path.to_owned(), Access::Scope(Scope::Admin)));
    known.chain(none).chain(closed).collect()
}

#[tokio::test]
async fn every_path_needs_a_key_with_its_scope_but_those_that_are_public() {
    let mut config = embedded();
    let key = |name: &str, scopes: &[Scope]| Key {
        scopes: scopes.to_vec(),
        ..Key::with_all_rights(name, name)
    };
    for scope in Scope::ALL {
        config.keys.keys.push(key(scope.word(), &[scope]));
    }
    let app = start(config).await;
    let right = format!("Bearer {KEY}");
    let address = app.address();
    for way in WAYS {
        for (path, access) in paths() {
            let ask = |verb: Method, authorization: &[&str]| {
                let mut ask = Ask::bare(verb, &path);
                for value in authorization {
                    ask = ask.with("authorization", value);
                }
                async move { ask.send(way, address).await }
            };
            for verb in [Method::GET, Method::POST, Method::OPTIONS, Method::DELETE] {
                for values in [
                    &[][..],
                    &["Bearer wrong"],
                    &["Basic x"],
                    &[right.as_str(), right.as_str()],
                ] {
                    let answer = ask(verb.clone(), values).await;
                    let told = format!("{way:?} {verb} {path} {}: {answer:?}", values.len());
                    let refused = answer.status == 401;
                    assert_eq!(refused, access != Access::Public, "{told}");
                    if refused {
                        assert_eq!(answer.header("www-authenticate"), "Bearer", "{told}");
                        let (_, code) = answer.failure();
                        let codes = ["key_missing", "key_invalid"];
                        assert!(codes.contains(&code.as_str()), "{told}");
                    }
                }
                // What has no end is asked for without its body.
                let is_stream = path.ends_with("/events") && verb == Method::GET;
                let verb = if is_stream { Method::HEAD } else { verb };
                let answer = ask(verb, &[&right]).await;
                assert!(![401, 403].contains(&answer.status), "{path}: {answer:?}");
            }
            for scope in Scope::ALL {
                let answer = ask(Method::PUT, &[&format!("Bearer {}", scope.word())]).await;
                let may = match access {
                    Access::Public | Access::AnyKey => true,
                    Access::Scope(needed) => [needed, Scope::Admin].contains(&scope),
                };
                assert_eq!(answer.status != 403, may, "{path} {scope:?}: {answer:?}");
                if !may {
                    assert_eq!(answer.failure().1, "scope_missing");
                }
            }
        }
    }
}

#[test]
fn a_path_needs_what_its_method_needs() {
    let (orchestrator, cluster) = (
        "/openclaw.orchestrator.v1.OrchestratorService/",
        "/openclaw.orchestrator.v1.ClusterService/",
    );
    let same = [
        ("/orchestrator/route", orchestrator, "Route"),
        ("/orchestrator/fanout", orchestrator, "Fanout"),
        ("/orchestrator/explain", orchestrator, "Explain"),
        ("/orchestrator/health", orchestrator, "Health"),
        ("/orchestrator/sessions/spawn", orchestrator, "SessionSpawn"),
        ("/orchestrator/sessions/send", orchestrator, "SessionPost"),
        ("/orchestrator/sessions", orchestrator, "SessionList"),
        ("/orchestrator/sessions/{id}", orchestrator, "SessionGet"),
        (
            "/orchestrator/sessions/{id}/events",
            orchestrator,
            "SessionSend",
        ),
        (
            "/orchestrator/sessions/{id}/ack",
            orchestrator,
            "SessionSend",
        ),
        ("/orchestrator/health/events", orchestrator, "HealthWatch"),
        ("/cluster/register", cluster, "Register"),
        ("/cluster/deregister", cluster, "Deregister"),
        ("/cluster/instances", cluster, "ListInstances"),
        ("/cluster/drain", cluster, "Drain"),
        ("/cluster/undrain", cluster, "Undrain"),
    ];
    for (path, service, method) in same {
        let of_path = PATHS.iter().find(|(known, _)| *known == path).unwrap().1;
        let method = format!("{service}{method}");
        let of_method = METHODS
            .iter()
            .find(|(known, _)| *known == method)
            .unwrap()
            .1;
        assert_eq!(of_path, Access::Scope(of_method), "{path}");
    }
    let public = PATHS.iter().filter(|(_, access)| *access == Access::Public);
    let public: Vec<_> = public.map(|(path, _)| *path).collect();
    assert_eq!(public, ["/health/check", "/openapi.json"]);
    assert_eq!(PATHS.len(), same.len() + public.len());
}
