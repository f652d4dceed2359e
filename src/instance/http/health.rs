//! Reads how an instance says it is: by the status of the answer, and by a word where it has one for us.
//!
//! | answer | it is asked for work |
//! |---|---|
//! | 2xx | yes, unless `{"status": "…"}` says `down`, `draining` or the like |
//! | 404, 405, 501 | yes: it has no health check |
//! | 503 with such a word | no |
//! | anything else | no: the probe has failed, and says how |

use serde_json::Value;

use super::answer::idle_for;
use super::connections::Answer;
use super::failed::{self, Words};
use crate::domain::failure::{Failure, Progress, Reason, Status};
use crate::domain::id::InstanceId;
use crate::instance::Serving;

/// Words of health checks in use, `draft-inadarei-api-health-check` and frameworks among them.
const WELL: [&str; 10] = [
    "healthy", "ok", "up", "pass", "serving", "ready", "busy", "warn", "degraded", "running",
];
const NOT_WELL: [&str; 11] = [
    "down",
    "draining",
    "unhealthy",
    "fail",
    "error",
    "not_serving",
    "unavailable",
    "disabled",
    "starting",
    "stopping",
    "out_of_service",
];

/// Waits for the whole answer to a probe.
pub(super) async fn read(id: &InstanceId, answer: Answer) -> Result<Serving, Failure> {
    let Answer { head, body, used } = answer;
    let words = match failed::words(body).await {
        Words::Whole(words) => {
            used.finish(idle_for(&head.headers));
            words
        }
        Words::Cut(_) => Vec::new(),
    };
    judge(head.status.as_u16(), &words).map_err(|detail| {
        let reason = Reason::InstanceFailed(Status::Unavailable);
        Failure::at(id, reason, Progress::MayHaveBegun, detail)
    })
}

fn judge(http: u16, words: &[u8]) -> Result<Serving, String> {
    let document = serde_json::from_slice(words).unwrap_or(Value::Null);
    let word = document.get("status").and_then(Value::as_str);
    let word = word.map(|word| word.to_ascii_lowercase().replace(['-', ' '], "_"));
    let word = word.as_deref().unwrap_or_default();
    match http {
        200..=299 if NOT_WELL.contains(&word) => Err(format!("its health check says {word}")),
        200..=299 => Ok(Serving::Yes),
        404 | 405 | 501 => Ok(Serving::NotSaid),
        300..=399 => Err(format!(
            "its health check answers with a redirect (HTTP {http}), which is never followed"
        )),
        // Only words that are known are repeated.
        _ if NOT_WELL.contains(&word) || WELL.contains(&word) => Err(format!(
            "its health check answers HTTP {http} and says {word}"
        )),
        _ => Err(format!("its health check answers HTTP {http}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_decides_and_a_word_that_is_known_says_more() {
        let check = |http, words: &str, expected: Result<Serving, &str>| {
            let expected = expected.map_err(str::to_owned);
            assert_eq!(judge(http, words.as_bytes()), expected, "{http} {words}");
        };
        check(200, "", Ok(Serving::Yes));
        check(204, "", Ok(Serving::Yes));
        check(200, "fine", Ok(Serving::Yes));
        check(200, r#"{"status": "OK", "uptime": 5}"#, Ok(Serving::Yes));
        check(200, r#"{"status": "busy"}"#, Ok(Serving::Yes));
        check(200, r#"{"status": "so-so"}"#, Ok(Serving::Yes));
        check(200, r#"{"status": 7}"#, Ok(Serving::Yes));
        let draining = "its health check says draining";
        check(200, r#"{"status": "Draining"}"#, Err(draining));
        check(
            200,
            r#"{"status": "NOT SERVING"}"#,
            Err("its health check says not_serving"),
        );
        for http in [404, 405, 501] {
            check(http, "", Ok(Serving::NotSaid));
        }
        check(503, "", Err("its health check answers HTTP 503"));
        let says = "its health check answers HTTP 503 and says starting";
        check(503, r#"{"status": "starting"}"#, Err(says));
        check(
            500,
            r#"{"status": "CANARY"}"#,
            Err("its health check answers HTTP 500"),
        );
        check(401, "", Err("its health check answers HTTP 401"));
        let redirect =
            "its health check answers with a redirect (HTTP 302), which is never followed";
        check(302, "", Err(redirect));
    }
}
