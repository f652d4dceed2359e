//! Asks one instance, again and again, whether it is well, and listens to what it tells by itself.

use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::sync::{Notify, Semaphore};
use tokio::time::{self, Instant};

use super::Fleet;
use super::follow::{Event, Following};
use super::view::Member;
use crate::chance::Chance;
use crate::domain::failure::{Failure, Reason};
use crate::domain::health::Thresholds;
use crate::domain::health::probed::{Answer, Probed, State};
use crate::domain::limit::PROBE_PERMIT_HELD_MAX;
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
///
/// Check goes on beside a Watch stream: a peer that has fallen silent never says so by itself.
pub(super) async fn run(
    fleet: Weak<Fleet>,
    member: Arc<Member>,
    settings_changed: Arc<Notify>,
    probes: Arc<Semaphore>,
    chance: Chance,
) {
    let mut probed = Probed::default();
    let mut following = Following::default();
    loop {
        // Before they are read, so that no change is missed.
        let mut changed_since = std::pin::pin!(settings_changed.notified());
        let Some((mut settings, mut busy_probes_max)) = now(&fleet) else {
            return;
        };
        let (answer, reason) = {
            let mut asking = std::pin::pin!(ask(&member, settings.timeout, &probes));
            loop {
                // What it tells by itself holds at once: it may be silent to us as long as a probe lasts.
                let event = tokio::select! {
                    biased;
                    answered = asking.as_mut() => break answered,
                    event = following.next() => event,
                };
                // Whether it is still there when its stream breaks is being asked already.
                if let Event::Told(serving) = event {
                    let (answer, reason) = judge(Ok(serving), settings.timeout, Work::None);
                    if note(&fleet, &member, probed.told(answer), &reason).is_none() {
                        return;
                    }
                }
            }
        };
        let changed = probed.observe(answer, settings.thresholds, busy_probes_max);
        if note(&fleet, &member, changed, &reason).is_none() {
            return;
        }
        match answer {
            Answer::Serving => following.open(&member, Instant::now()),
            // It may be gone without a word, and its stream with it.
            Answer::NotServing => following.close(),
            Answer::Slow => {}
        }
        let mut next = Instant::now() + jittered(settings.interval, chance.draw());
        loop {
            let (changed, reason) = tokio::select! {
                biased;
                () = time::sleep_until(next) => break,
                () = changed_since.as_mut() => {
                    changed_since.set(settings_changed.notified());
                    let Some(changed) = now(&fleet) else { return };
                    (settings, busy_probes_max) = changed;
                    // A longer interval begins with the next probe, a shorter one at once.
                    next = next.min(Instant::now() + jittered(settings.interval, chance.draw()));
                    continue;
                }
                event = following.next() => match event {
                    Event::Told(serving) => {
                        let (answer, reason) = judge(Ok(serving), settings.timeout, Work::None);
                        (probed.told(answer), reason)
                    }
                    Event::Broken(failure) => {
                        // Whether it still is there is asked at once.
                        next = Instant::now();
                        let answer = Answer::NotServing;
                        let changed = probed.observe(answer, settings.thresholds, busy_probes_max);
                        (changed, format!("its health watch broke: {}", failure.detail))
                    }
                }
            };
            if note(&fleet, &member, changed, &reason).is_none() {
                return;
            }
        }
    }
}

/// How to probe now; `None` when there is no fleet any more.
fn now(fleet: &Weak<Fleet>) -> Option<(Settings, u32)> {
    Some(fleet.upgrade()?.probing())
}

/// Tells the fleet what has changed; `None` when there is no fleet any more.
fn note(fleet: &Weak<Fleet>, member: &Member, changed: Option<State>, reason: &str) -> Option<()> {
    let fleet = fleet.upgrade()?;
    if let Some(state) = changed {
        tracing::info!(instance = %member.id(), state = state.word(), reason, "instance changed state");
        fleet.note_probe(member.id(), member.serial, state, reason);
    }
    Some(())
}

async fn ask(member: &Member, timeout: Duration, probes: &Semaphore) -> (Answer, String) {
    let before = member.load.outstanding();
    // Never closed; if it were, probing on would still be right.
    let permit = probes.acquire().await.ok();
    let started = Instant::now();
    let mut asking = std::pin::pin!(time::timeout(timeout, member.client.probe()));
    // Many probes should not begin together. Waiting costs next to nothing: the silent do not hold up the others.
    let early = time::timeout(PROBE_PERMIT_HELD_MAX, &mut asking).await;
    drop(permit);
    let said = match early {
        Ok(said) => said,
        Err(_still_waiting) => asking.await,
    };
    if let Ok(Ok(_)) = said {
        member.load.note_probe(started.elapsed());
    }
    let work = match before.min(member.load.outstanding()) {
        0 => Work::None,
        calls => Work::Calls(calls),
    };
    match said {
        Ok(said) => judge(said, timeout, work),
        Err(_elapsed) => late(timeout, work),
    }
}

/// What an instance had to do for us while it was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Work {
    None,
    Calls(u32),
}

fn judge(said: Result<Serving, Failure>, timeout: Duration, work: Work) -> (Answer, String) {
    match said {
        Ok(Serving::Yes) => (Answer::Serving, "answers its probes".to_owned()),
        Ok(Serving::NotSaid) => (
            Answer::Serving,
            "answers, but has no health check".to_owned(),
        ),
        Ok(Serving::No) => (Answer::NotServing, "says that it does not serve".to_owned()),
        Err(failure) if failure.reason == Reason::DeadlineExceeded => late(timeout, work),
        Err(failure) => (Answer::NotServing, failure.detail.into_owned()),
    }
}

fn late(timeout: Duration, work: Work) -> (Answer, String) {
    let timeout = humantime::format_duration(timeout);
    match work {
        Work::None => (
            Answer::NotServing,
            format!("no answer to a probe within {timeout}"),
        ),
        Work::Calls(calls) => (
            Answer::Slow,
            format!("no answer to a probe within {timeout}, while it works on {calls} calls"),
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
        let check = |found: (Answer, String), answer, reason: &str| {
            assert_eq!(found, (answer, reason.to_owned()));
        };
        let none = "no answer to a probe within 2s";
        check(late(timeout, Work::None), Answer::NotServing, none);
        check(
            late(timeout, Work::Calls(2)),
            Answer::Slow,
            "no answer to a probe within 2s, while it works on 2 calls",
        );
        let said = |serving| judge(Ok(serving), timeout, Work::Calls(2)).0;
        assert_eq!(said(Serving::No), Answer::NotServing);
        assert_eq!(said(Serving::NotSaid), Answer::Serving);
    }
}
