//! What browsers are told: which pages may call, before a key is asked for and after.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, Method};
use orchestrator::ingress::cors::{Cors, Origin, Origins};

use super::ask::{Web, every_way};
use super::{path, route};
use crate::auth::methods;
use crate::rest::ask::{Answer, Ask, WAYS, Way};
use crate::stage::{App, Config, embedded, reason, start};

const PAGE: &str = "https://console.example.com";

fn listed(origins: &[&str]) -> Option<Arc<Cors>> {
    let origins = origins.iter().map(|text| Origin::parse(text).unwrap());
    let more = [HeaderName::from_static("x-tenant")];
    let cors = Cors::new(
        Origins::Listed(origins.collect()),
        &more,
        Duration::from_secs(60),
    );
    Some(Arc::new(cors))
}

fn with(cors: Option<Arc<Cors>>) -> Config {
    Config { cors, ..embedded() }
}

/// What a browser asks before it sends.
fn preflight(path: &str, origin: &str) -> Ask {
    Ask::bare(Method::OPTIONS, path)
        .with("origin", origin)
        .with("access-control-request-method", "POST")
        .with(
            "access-control-request-headers",
            "authorization,content-type,grpc-timeout,x-grpc-web,x-user-agent",
        )
}

fn is_allowed(answer: &Answer) -> bool {
    answer.headers.contains_key("access-control-allow-origin")
}

/// Every path there is, and some that are not.
fn paths() -> Vec<String> {
    let rest = ["/api/orchestrator/route", "/openapi.json", "/nothing", "/"];
    let rest = rest.into_iter().map(str::to_owned);
    methods().into_iter().chain(rest).collect()
}

#[tokio::test]
async fn a_browser_is_answered_before_it_has_a_key_and_nobody_else_is() {
    let app = start(with(listed(&[PAGE]))).await;
    let off = start(embedded()).await;
    for way in WAYS {
        for path in paths() {
            let answer = preflight(&path, PAGE).send(way, app.address()).await;
            assert_eq!(answer.status, 204, "{path} {answer:?}");
            assert_eq!(answer.header("access-control-allow-origin"), PAGE);
            assert_eq!(answer.header("access-control-max-age"), "60");
            assert_eq!(answer.header("vary"), "origin");
            let allowed = answer.header("access-control-allow-headers");
            for name in ["authorization", "grpc-timeout", "x-grpc-web", "x-tenant"] {
                assert!(allowed.split(',').any(|one| one == name), "{allowed}");
            }
            assert!(answer.body.is_empty());
            let is_public = path == "/openapi.json" || path.contains(".Health/");
            let bare = Ask::bare(Method::OPTIONS, &path);
            let wants = ("access-control-request-method", "POST");
            for other in [
                preflight(&path, "https://evil.example"),
                preflight(&path, "null"),
                preflight(&path, PAGE).with("origin", PAGE),
                bare.clone(),
                bare.clone().with("origin", PAGE),
                bare.with(wants.0, wants.1),
                Ask {
                    verb: Method::GET,
                    ..preflight(&path, PAGE)
                },
                Ask {
                    verb: Method::POST,
                    ..preflight(&path, PAGE)
                },
            ] {
                let answer = other.send(way, app.address()).await;
                let told = format!("{way:?} {path} {other:?}: {answer:?}");
                assert_eq!(answer.status == 401, !is_public, "{told}");
                assert!(
                    !answer.headers.contains_key("access-control-allow-methods"),
                    "{told}"
                );
            }
            let answer = preflight(&path, PAGE).send(way, off.address()).await;
            assert_eq!(answer.status == 401, !is_public, "{path} {answer:?}");
            assert!(!is_allowed(&answer));
        }
    }
}

async fn ask_all(app: &App, origin: &str) -> Vec<Answer> {
    let mut answers = Vec::new();
    for way in WAYS {
        let body = r#"{"instances": ["A"]}"#;
        for ask in [
            Ask::post("/api/orchestrator/route", body),
            Ask::post("/api/orchestrator/route", body).without("authorization"),
            Ask::post("/api/orchestrator/route", "{"),
            Ask::get("/api/orchestrator/health"),
            Ask::get("/nothing"),
            Ask::bare(Method::GET, "/openapi.json"),
        ] {
            answers.push(ask.with("origin", origin).send(way, app.address()).await);
        }
    }
    for (way, form) in every_way() {
        let good = Web::new(form, &path("Route"), &route("A", None));
        let unknown = Web::new(form, &path("Route"), &route("Z", None));
        for call in [good.clone(), good.without_key(), unknown] {
            let Web(ask) = call.with("origin", origin);
            answers.push(ask.send(way, app.address()).await);
        }
    }
    answers
}

#[tokio::test]
async fn a_page_may_read_every_answer_refusals_included_or_none() {
    let app = start(with(listed(&["http://localhost:5173", PAGE]))).await;
    for answer in ask_all(&app, PAGE).await {
        assert_eq!(
            answer.header("access-control-allow-origin"),
            PAGE,
            "{answer:?}"
        );
        assert_eq!(answer.header("vary"), "origin", "{answer:?}");
        let exposed = answer.header("access-control-expose-headers");
        for (name, _) in &answer.headers {
            // What a page may always read (Fetch, "CORS-safelisted response-header name"), and what is not its business.
            let name = name.as_str();
            let usual = [
                "content-type",
                "content-length",
                "date",
                "transfer-encoding",
            ];
            let of_http = ["vary", "connection"];
            let is_free = usual.contains(&name) || of_http.contains(&name);
            let is_cors = name.starts_with("access-control-");
            let is_exposed = exposed.split(',').any(|one| one == name);
            assert!(is_free || is_cors || is_exposed, "{name}: {exposed}");
        }
        assert!(
            !answer
                .headers
                .contains_key("access-control-allow-credentials")
        );
    }
    for answer in ask_all(&app, "https://evil.example").await {
        assert!(!is_allowed(&answer), "{answer:?}");
        assert_eq!(answer.header("vary"), "origin", "{answer:?}");
    }
    let any = Cors::new(Origins::Any, &[], Duration::ZERO);
    let app = start(with(Some(Arc::new(any)))).await;
    for answer in ask_all(&app, "https://evil.example").await {
        assert_eq!(answer.header("access-control-allow-origin"), "*");
        assert!(!answer.headers.contains_key("vary"), "{answer:?}");
    }
}

#[tokio::test]
async fn what_a_cache_may_keep_says_that_it_differs_whoever_asks() {
    let app = start(with(listed(&[PAGE]))).await;
    let document = Ask::bare(Method::GET, "/openapi.json");
    let answer = document.send(Way::Http1, app.address()).await;
    assert_eq!((answer.status, answer.header("vary")), (200, "origin"));
    assert!(!is_allowed(&answer));
}

#[tokio::test]
async fn a_config_that_is_taken_later_holds_from_the_next_request_on() {
    let app = start(embedded()).await;
    let check = async |origin: &str, expected: bool| {
        let ask = preflight("/api/orchestrator/route", origin);
        let answer = ask.send(Way::Http2, app.address()).await;
        assert_eq!(answer.status == 204, expected, "{origin} {answer:?}");
    };
    let take = async |cors: Option<Arc<Cors>>| {
        let taken = app.reload().take(with(cors)).await.unwrap().unwrap();
        assert_eq!(taken.changes.settings, ["cors"]);
        assert!(taken.changes.after_restart.is_empty());
    };
    check(PAGE, false).await;
    take(listed(&[PAGE])).await;
    check(PAGE, true).await;
    take(listed(&["https://other.example"])).await;
    check(PAGE, false).await;
    check("https://other.example", true).await;
    take(None).await;
    check("https://other.example", false).await;
}

#[tokio::test]
async fn a_refusal_over_grpc_web_is_one_that_a_page_can_read() {
    let app = start(with(listed(&[PAGE]))).await;
    for (way, form) in every_way() {
        let call = Web::new(form, &path("Route"), &route("A", None));
        let call = call.without_key().with("origin", PAGE);
        let answer = call.send(way, app.address()).await;
        assert_eq!(
            (answer.http, &*reason(&answer.status)),
            (200, "KEY_MISSING")
        );
        assert_eq!(answer.header("access-control-allow-origin"), PAGE);
        let exposed = answer.header("access-control-expose-headers");
        for name in ["grpc-status", "grpc-message", "grpc-status-details-bin"] {
            assert!(exposed.split(',').any(|one| one == name), "{exposed}");
        }
    }
}
