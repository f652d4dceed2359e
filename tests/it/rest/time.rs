//! Time at the REST door: the least of the headers, the body and the server's maximum.

use std::time::Duration;

use super::ask::{Ask, WAYS};
use super::house;
use crate::stage::instance::Act;

const ROUTE: &str = "/api/orchestrator/route";

#[tokio::test]
async fn time_runs_out_as_deadline_exceeded_whoever_has_set_it() {
    let (app, instance) = house(Act::Silent).await;
    let plain = r#"{"instances": ["A"]}"#;
    let short = |timeout: &str| {
        let body = format!(r#"{{"instances": ["A"], "timeout": {timeout}}}"#);
        Ask::post(ROUTE, body)
    };
    for way in WAYS {
        for ask in [
            Ask::post(ROUTE, plain).with("request-timeout", "0.06"),
            Ask::post(ROUTE, plain).with("request-timeout", "60ms"),
            Ask::post(ROUTE, plain).with("grpc-timeout", "60m"),
            short("0.06"),
            short("\"0.06s\""),
            short("\"60ms\""),
            short("600").with("request-timeout", "0.06"),
            short("0.06").with("request-timeout", "600"),
            short("600")
                .with("request-timeout", "600")
                .with("grpc-timeout", "60m"),
        ] {
            let answer = ask.send(way, app.address()).await;
            assert_eq!(
                answer.failure(),
                (504, "deadline_exceeded".to_owned()),
                "{way:?} {ask:?}"
            );
        }
    }
    // Nobody was given more than there was.
    for metadata in instance.seen.lock().unwrap().iter() {
        let given = metadata.get("grpc-timeout").unwrap().as_bytes();
        let given = orchestrator::domain::deadline::from_grpc_timeout(given).unwrap();
        assert!(given <= Duration::from_millis(60), "{given:?}");
    }
}
