//! Messages that a client sends without a stream, each as often as it takes.

use std::time::Duration;

use orchestrator::proto::orchestrator::SessionPostRequest;
use tokio::time::{sleep, timeout};

use super::client::{Client, Phase, authorized};
use super::plan::Post;
use crate::sessions::history::Event;
use crate::sessions::instance::{payload, words};

/// How long later tries may take.
const PATIENCE: Duration = Duration::from_secs(4);
/// Pause between two tries.
const PAUSE: Duration = Duration::from_millis(60);

impl Client {
    pub(super) async fn post(self, at: usize, post: Post) {
        sleep(
            post.at
                .saturating_sub(turmoil::sim_elapsed().unwrap_or_default()),
        )
        .await;
        let text = format!("p{at}");
        let request = SessionPostRequest {
            in_reply_to: 0,
            session_id: self.plan.id.clone(),
            payload: Some(payload(&text)),
            idempotency_key: text.clone(),
            no_wait: !post.waits,
            timeout: Some(Duration::from_secs(3).try_into().unwrap()),
        };
        let mut patience = post.patience;
        while !self.may_stop_posting() {
            if self.post_once(&text, request.clone(), patience).await {
                self.told.count("posted");
                break;
            }
            patience = PATIENCE;
            sleep(PAUSE).await;
        }
        // Nobody says what comes of a message that is not waited for: it has to arrive all the same.
        while !post.waits && !self.may_stop_posting() && !self.told.is_applied(&self.plan.id, &text)
        {
            sleep(PAUSE).await;
        }
        self.knows.borrow_mut().posts_open -= 1;
    }

    fn may_stop_posting(&self) -> bool {
        let knows = self.knows.borrow();
        knows.is_over || knows.has_left || Phase::Over <= self.phase()
    }

    /// Whether there is no more to do.
    async fn post_once(&self, text: &str, request: SessionPostRequest, patience: Duration) -> bool {
        let Some((mut stub, driver, _)) = self.connect().await else {
            return false;
        };
        self.tell(Event::Posting(text.to_owned()));
        let waits = !request.no_wait;
        let answer = timeout(patience, stub.session_post(authorized(request))).await;
        driver.abort();
        match answer {
            Ok(Ok(answer)) => {
                let answer = answer.into_inner();
                let reply = words(answer.payload.as_deref());
                self.tell(Event::Posted {
                    text: text.to_owned(),
                    position: answer.position,
                    reply: waits.then_some((answer.reply_seq, reply)),
                });
                true
            }
            Ok(Err(status)) => !self.goes_on_after(&status),
            Err(_elapsed) => {
                self.told.count("post given up");
                false
            }
        }
    }
}
