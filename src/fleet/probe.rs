//! Asks one instance, again and again, whether it is well.

use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::{self, Instant};

use super::Fleet;
use super::view::Member;
use crate::chance::Chance;
use crate::domain::failure::Failure;
use crate::domain::health::{Answer, Probed, State, Thresholds};
use crate::instance::Serving;

/// How instances are probed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// Time between two probes of an instance, give or take a fifth.
    pub interval: Duration,
    /// How long one probe may take.
    pub timeout: Duration,
    /// How many probes change a state.
    pub thresholds: Thresholds,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(5),
            timeout: Duration::from_secs(2),
            thresholds: Thresholds {
                failures_down: 3,
                successes_up: 2,
            },
        }
    }
}

/// Probes until the fleet is gone; the fleet drops this future when the member leaves.
pub(super) async fn run(
    fleet: Weak<Fleet>,
    member: Arc<Member>,
    settings: Settings,
    probes: Arc<Semaphore>,
    chance: Chance,
) {
    let mut probed = Probed::default();
    loop {
        let answer = {
            // Never closed; if it were, probing on would still be right.
            let _permit = probes.acquire().await.ok();
            ask(&member, settings.timeout).await
        };
        let (answer, reason) = answer;
        if let Some(state) = probed.observe(answer, settings.thresholds) {
            let Some(fleet) = fleet.upgrade() else { return };
            report(&member, state, &reason);
            fleet.note_health(member.id(), member.serial, state, reason);
        }
        time::sleep(jittered(settings.interval, chance.draw())).await;
    }
}

fn report(member: &Member, state: State, reason: &str) {
    let (instance, state) = (member.id(), state.word());
    tracing::info!(%instance, state, reason, "instance changed state");
}

async fn ask(member: &Member, timeout: Duration) -> (Answer, String) {
    let started = Instant::now();
    let said = time::timeout(timeout, member.client.probe()).await;
    if let Ok(Ok(_)) = said {
        member.load.note_probe(started.elapsed());
    }
    judge(said.ok(), timeout)
}

fn judge(said: Option<Result<Serving, Failure>>, timeout: Duration) -> (Answer, String) {
    match said {
        Some(Ok(Serving::Yes)) => (Answer::Serving, "answers its probes".to_owned()),
        Some(Ok(Serving::NotSaid)) => (
            Answer::Serving,
            "answers, but has no grpc.health.v1 service".to_owned(),
        ),
        Some(Ok(Serving::No)) => (Answer::NotServing, "says that it does not serve".to_owned()),
        Some(Err(failure)) => (Answer::NotServing, failure.detail.into_owned()),
        None => (
            Answer::NotServing,
            format!(
                "no answer to a probe within {}",
                humantime::format_duration(timeout)
            ),
        ),
    }
}

/// `interval` ± 20 %, so that probes of a large fleet spread out. `random` is uniform.
fn jittered(interval: Duration, random: u32) -> Duration {
    let share = f64::from(random) / f64::from(u32::MAX);
    interval.mul_f64(0.8 + 0.4 * share)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probes_spread_around_their_interval() {
        let second = Duration::from_secs(1);
        assert_eq!(jittered(second, 0), Duration::from_millis(800));
        assert_eq!(jittered(second, u32::MAX), Duration::from_millis(1200));
    }

    #[test]
    fn a_probe_says_why() {
        let timeout = Duration::from_secs(2);
        assert_eq!(
            judge(None, timeout),
            (
                Answer::NotServing,
                "no answer to a probe within 2s".to_owned()
            )
        );
        assert_eq!(judge(Some(Ok(Serving::No)), timeout).0, Answer::NotServing);
        assert_eq!(
            judge(Some(Ok(Serving::NotSaid)), timeout).0,
            Answer::Serving
        );
    }
}
