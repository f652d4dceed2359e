//! How old a connection may grow: so old as the limits say, ten percent more or less, so that callers who came at one
//! moment, as all of them do after a restart, do not come again at one.

use tokio::time;

use crate::chance::Chance;
use crate::ingress::settings::SettingsNow;

/// The share of the age that a connection may reach: from 0.9 to 1.1, any of them as likely.
pub(super) fn share(chance: &Chance) -> f64 {
    0.9 + 0.2 * chance.draw::<f64>()
}

/// Ends once a connection that begins now has reached so much of the age that it may have, as the settings are then.
pub(super) async fn until_old(settings: &SettingsNow, share: f64) {
    let began = time::Instant::now();
    let mut changes = settings.changes();
    loop {
        let age = settings.load().limits.age.mul_f64(share);
        tokio::select! {
            biased;
            () = time::sleep_until(began + age) => return,
            Ok(()) = changes.changed() => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures_util::future::join_all;

    use super::*;
    use crate::ingress::settings::tests::settings;

    #[test]
    fn connections_of_one_moment_end_within_ten_percent_of_their_age_and_spread_over_all_of_it() {
        let chance = Chance::seeded(7);
        let mut tenths = [0; 10];
        for _ in 0..10_000 {
            let share = share(&chance);
            assert!((0.9..1.1).contains(&share), "{share}");
            tenths[((share - 0.9) * 50.0) as usize] += 1;
        }
        assert!(
            tenths.iter().all(|count| (800..1200).contains(count)),
            "{tenths:?}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn two_connections_of_one_moment_do_not_end_at_one_and_a_new_age_holds_for_both() {
        let mut first = settings(&[]);
        first.limits.age = Duration::from_secs(1000);
        let now = SettingsNow::new(first.clone());
        let chance = Chance::seeded(7);
        let ended = async || {
            let (began, shares) = (time::Instant::now(), [share(&chance), share(&chance)]);
            let ends = shares.map(async |share| {
                until_old(&now, share).await;
                began.elapsed().as_secs_f64()
            });
            (shares, join_all(ends).await)
        };
        let (shares, ages) = ended().await;
        assert_ne!(shares[0], shares[1]);
        for (age, share) in ages.iter().zip(shares) {
            // The clock of the runtime has whole milliseconds.
            assert!((age - 1000.0 * share).abs() < 0.01, "{age} {share}");
        }
        let shorter = async {
            time::sleep(Duration::from_secs(100)).await;
            first.limits.age = Duration::from_secs(200);
            now.replace(first.clone());
        };
        let ((shares, ages), ()) = tokio::join!(ended(), shorter);
        for (age, share) in ages.iter().zip(shares) {
            assert!((age - 200.0 * share).abs() < 0.01, "{age} {share}");
        }
    }
}
