//! Which instance serves a task.
//!
//! It sees only numbers: how loaded each candidate is and whether it may be used. It does not know why.

use std::cmp::{Ordering, Reverse};
/// Whether a candidate may be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fitness {
    /// Gets no work: excluded, or tried already.
    Unfit,
    /// Not known yet: gets work when nobody fit is left.
    Unknown,
    /// Gets work.
    Fit,
}

/// What BALANCED compares.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Load {
    /// Calls that are with the instance now.
    pub outstanding: u32,
    /// Its share of the work, at least 1.
    pub weight: u32,
    /// Peak-sensitive moving average of its latency, in nanoseconds; 0 while nothing is known.
    pub latency_ns: f64,
    /// The share of its usual work that it should get, up to 1: less while it is new (slow start).
    pub warmth: f64,
}

/// How an instance is chosen.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Policy {
    /// Power of two choices, each drawn by its weight: fewer outstanding calls for the weight, then lower latency;
    /// less for those that have just become healthy.
    #[default]
    Balanced,
    /// The first that may be used.
    Ordered,
    /// The same one for the same key, as long as it may be used; few keys move when the fleet changes.
    Hash(String),
}

/// Random draws before the candidates are counted through instead, where all have the same weight.
const DRAWS_MAX: usize = 8;
/// So many times more are made where weights differ: the light ones are drawn in vain.
const VAIN_DRAWS_MAX: u32 = 16;

/// Chooses one of `count` candidates, or none when all are unfit. None weighs more than `weight_max`; `random` gives
/// uniform 64-bit numbers.
pub fn choose<'n>(
    policy: &Policy,
    (count, weight_max): (usize, u32),
    name: impl Fn(usize) -> &'n str,
    fitness: impl Fn(usize) -> Fitness,
    load: impl Fn(usize) -> Load,
    mut random: impl FnMut() -> u64,
) -> Option<usize> {
    match policy {
        Policy::Ordered => {
            let first = |wanted| (0..count).find(|&at| fitness(at) == wanted);
            first(Fitness::Fit).or_else(|| first(Fitness::Unknown))
        }
        Policy::Hash(key) => {
            let best = (0..count)
                .map(&fitness)
                .max()
                .filter(|best| *best != Fitness::Unfit)?;
            // Rendezvous: each candidate draws a number from the key and its own name; the highest has it.
            (0..count)
                .filter(|&at| fitness(at) == best)
                .max_by_key(|&at| rendezvous(key, name(at)))
        }
        Policy::Balanced => {
            let weight = |at| {
                if weight_max <= 1 {
                    1
                } else {
                    load(at).weight.clamp(1, weight_max)
                }
            };
            let drawn = two_by_weight(count, weight_max, &weight, &fitness, &mut random);
            let (one, other) =
                drawn.or_else(|| two_counted(count, &weight, &fitness, &mut random))?;
            let (of_one, of_other) = (load(one), load(other));
            let (better, worse, colder) = if gives_way(of_one, of_other, &mut random) {
                (other, one, of_other.warmth / of_one.warmth)
            } else {
                (one, other, of_one.warmth / of_other.warmth)
            };
            // The better choice is passed over as often as it is colder than the other.
            let is_passed_over = colder < 1.0 && colder <= fraction(random());
            Some(if is_passed_over { worse } else { better })
        }
    }
}

/// In which order the candidates that are not unfit would be tried, one after the other. For BALANCED it is the
/// order of their load: two are drawn at random, so that it holds on the whole and not for one call.
pub fn order<'n>(
    policy: &Policy,
    count: usize,
    name: impl Fn(usize) -> &'n str,
    fitness: impl Fn(usize) -> Fitness,
    load: impl Fn(usize) -> Load,
) -> Vec<usize> {
    // Each is asked once: a fleet may have thousands.
    let found = (0..count).map(|at| (at, fitness(at)));
    let mut fit: Vec<_> = found
        .filter(|(_, fitness)| *fitness != Fitness::Unfit)
        .collect();
    match policy {
        Policy::Ordered => {}
        Policy::Hash(key) => fit.sort_by_cached_key(|(at, _)| Reverse(rendezvous(key, name(*at)))),
        Policy::Balanced => {
            let loads = fit.iter().map(|(at, _)| load(*at));
            let mut loaded: Vec<_> = loads.zip(fit.iter().copied()).collect();
            loaded.sort_by(|(one, _), (other, _)| compared(*one, *other));
            fit = loaded.into_iter().map(|(_, found)| found).collect();
        }
    }
    fit.sort_by_key(|(_, fitness)| Reverse(*fitness));
    fit.into_iter().map(|(at, _)| at).collect()
}

/// Two fit candidates, each drawn in proportion to its weight. In a healthy fleet of thousands a few draws find them.
fn two_by_weight(
    count: usize,
    weight_max: u32,
    weight: &impl Fn(usize) -> u32,
    fitness: &impl Fn(usize) -> Fitness,
    random: &mut impl FnMut() -> u64,
) -> Option<(usize, usize)> {
    if count < DRAWS_MAX {
        return None;
    }
    let draws = DRAWS_MAX * weight_max.clamp(1, VAIN_DRAWS_MAX) as usize;
    let mut drawn = None;
    for _ in 0..draws {
        // The place, and whether whoever stands there is heavy enough.
        let product = u128::from(random()) * count as u128;
        let (at, rest) = ((product >> 64) as usize, product as u64);
        let is_drawn = below(weight_max as usize, rest) < weight(at) as usize;
        match drawn {
            _ if !is_drawn || fitness(at) != Fitness::Fit => {}
            None => drawn = Some(at),
            Some(one) if one != at => return Some((one, at)),
            Some(_) => {}
        }
    }
    None
}

/// Two candidates of the best fitness there is, drawn likewise; the same one twice when there is only one.
fn two_counted(
    count: usize,
    weight: &impl Fn(usize) -> u32,
    fitness: &impl Fn(usize) -> Fitness,
    random: &mut impl FnMut() -> u64,
) -> Option<(usize, usize)> {
    let best = (0..count)
        .map(fitness)
        .max()
        .filter(|best| *best != Fitness::Unfit)?;
    let equals = || (0..count).filter(|&at| fitness(at) == best);
    let mut draw = |without: Option<usize>| {
        let others = || equals().filter(|at| Some(*at) != without);
        let total = others().map(|at| u64::from(weight(at))).sum::<u64>();
        let mut left = below(total as usize, random()) as u64;
        others().find(|&at| {
            let is_here = left < u64::from(weight(at));
            left = left.saturating_sub(u64::from(weight(at)));
            is_here
        })
    };
    let one = draw(None)?;
    Some((one, draw(Some(one)).unwrap_or(one)))
}

/// Whether the one that was drawn first, and has its share by that, gives way to the other: when it has more to do for
/// its weight, and when it has as much and is slower, the oftener the slower it is.
fn gives_way(one: Load, other: Load, random: &mut impl FnMut() -> u64) -> bool {
    match by_calls(one, other) {
        Ordering::Less => false,
        Ordering::Greater => true,
        Ordering::Equal => {
            other.latency_ns < one.latency_ns
                && fraction(random()) < 1.0 - other.latency_ns / one.latency_ns
        }
    }
}

/// Maps a uniform number to `0..count`; the bias is below 2^-50 for any fleet.
fn below(count: usize, random: u64) -> usize {
    ((u128::from(random) * count as u128) >> 64) as usize
}

/// Maps a uniform number to 0 up to, but without, 1.
fn fraction(random: u64) -> f64 {
    (random >> 11) as f64 / (1_u64 << 53) as f64
}

/// FNV-1a over both, mixed so that similar names spread. It must never change: keys would move.
fn rendezvous(key: &str, name: &str) -> u64 {
    let bytes = key.bytes().chain([0xff]).chain(name.bytes());
    let hash = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    let mixed = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    let mixed = (mixed ^ (mixed >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    mixed ^ (mixed >> 33)
}

/// Calls for the weight; the lighter is less.
fn by_calls(this: Load, that: Load) -> Ordering {
    let these = u64::from(this.outstanding) * u64::from(that.weight);
    let those = u64::from(that.outstanding) * u64::from(this.weight);
    these.cmp(&those)
}

/// In the order in which they get work on the whole.
fn compared(this: Load, that: Load) -> Ordering {
    by_calls(this, that)
        .then_with(|| that.weight.cmp(&this.weight))
        .then_with(|| this.latency_ns.total_cmp(&that.latency_ns))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn load(outstanding: u32, weight: u32, latency_ns: f64) -> Load {
        Load {
            outstanding,
            weight,
            latency_ns,
            warmth: 1.0,
        }
    }

    /// `f` fit, `?` unknown, `-` unfit.
    fn fitness(text: &str) -> Vec<Fitness> {
        text.chars()
            .map(|c| match c {
                'f' => Fitness::Fit,
                '?' => Fitness::Unknown,
                _ => Fitness::Unfit,
            })
            .collect()
    }

    fn numbers(mut seed: u64) -> impl FnMut() -> u64 {
        // SplitMix64: any fixed sequence of well spread numbers would do.
        move || {
            seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mixed = (seed ^ (seed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            mixed ^ (mixed >> 31)
        }
    }

    fn check(policy: Policy, fleet: &str, expected: Option<usize>) {
        let fleet = fitness(fleet);
        let found = choose(
            &policy,
            (fleet.len(), 1),
            |_| "",
            |at| fleet[at],
            |_| load(0, 1, 0.0),
            numbers(7),
        );
        assert_eq!(found, expected);
    }

    #[test]
    fn ordered_takes_the_first_that_may_be_used() {
        check(Policy::Ordered, "--f?f", Some(2));
        check(Policy::Ordered, "-?-?", Some(1));
        check(Policy::Ordered, "---", None);
        check(Policy::Ordered, "", None);
    }

    #[test]
    fn balanced_uses_unknown_ones_only_when_nobody_fit_is_left() {
        check(Policy::Balanced, "--f--", Some(2));
        check(Policy::Balanced, "-?---", Some(1));
        check(Policy::Balanced, "?f?", Some(1));
        check(Policy::Balanced, "---", None);
        check(Policy::Balanced, "", None);
    }

    #[test]
    fn a_key_keeps_its_instance_and_few_keys_move_when_the_fleet_changes() {
        let names: Vec<_> = (0..16).map(|at| format!("w{at:02}")).collect();
        let owner = |key: usize, without: Option<usize>| {
            let fitness = |at| {
                if Some(at) == without {
                    Fitness::Unfit
                } else {
                    Fitness::Fit
                }
            };
            let policy = Policy::Hash(format!("key-{key}"));
            choose(
                &policy,
                (16, 1),
                |at| names[at].as_str(),
                fitness,
                |_| load(0, 1, 0.0),
                numbers(7),
            )
            .unwrap()
        };
        let mut share = [0; 16];
        for key in 0..1600 {
            let at = owner(key, None);
            share[at] += 1;
            let after = owner(key, Some(3));
            assert!(
                after == at || at == 3,
                "only the keys of the one that left move"
            );
        }
        assert!(
            share.iter().all(|count| (50..=160).contains(count)),
            "{share:?}"
        );
    }

    #[test]
    fn fewer_calls_for_the_weight_win_and_then_lower_latency() {
        let gives_way = |one, other| gives_way(one, other, &mut || 0);
        assert!(gives_way(load(2, 1, 1.0), load(1, 1, 9.0)));
        assert!(gives_way(load(1, 1, 1.0), load(3, 4, 9.0)));
        assert!(gives_way(load(1, 1, 2.0), load(1, 1, 1.0)));
        assert!(!gives_way(load(1, 1, 9.0), load(2, 1, 1.0)));
        assert!(!gives_way(load(1, 1, 1.0), load(1, 1, 1.0)));
    }

    /// How often the first of `weights` is chosen where one call comes after the other.
    fn share(weights: &[u32], latency_ns: impl Fn(usize) -> f64) -> f64 {
        const CALLS: usize = 20_000;
        let mut random = numbers(7);
        let weight_max = *weights.iter().max().unwrap();
        let chosen = (0..CALLS).filter_map(|_| {
            choose(
                &Policy::Balanced,
                (weights.len(), weight_max),
                |_| "",
                |_| Fitness::Fit,
                |at| load(0, weights[at], latency_ns(at)),
                &mut random,
            )
        });
        chosen.filter(|at| *at == 0).count() as f64 / CALLS as f64
    }

    #[test]
    fn calls_that_come_one_after_the_other_are_shared_by_weight() {
        let check = |weights: &[u32]| {
            let expected = f64::from(weights[0]) / f64::from(weights.iter().sum::<u32>());
            let found = share(weights, |_| 1000.0);
            assert!(
                (0.95..1.05).contains(&(found / expected)),
                "{found} and not {expected} of {weights:?}"
            );
        };
        check(&[1, 9]);
        check(&[9, 1]);
        check(&[1, 1, 1]);
        check(&[9, 1, 1, 1, 1, 1, 1, 1]);
        // Most are too light to be drawn at random.
        check(&[1000, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1]);
        let mut many = [1; 100];
        many[0] = 15;
        check(&many);
    }

    #[test]
    fn of_those_that_rest_the_slower_ones_get_less_and_none_gets_nothing() {
        let first =
            |latency_ns: f64| share(&[1, 1], |at| if at == 0 { latency_ns } else { 1000.0 });
        assert!((0.49..0.51).contains(&first(1000.0)));
        assert!((0.74..0.76).contains(&first(500.0)));
        assert!((0.24..0.26).contains(&first(2000.0)));
        assert!((0.04..0.06).contains(&first(10_000.0)));
    }

    #[test]
    fn an_instance_that_has_just_become_healthy_gets_its_share_slowly() {
        let mut random = numbers(7);
        let mut share = |warmth: f64| {
            let warmth = |at| if at == 0 { warmth } else { 1.0 };
            let chosen = (0..4000).filter_map(|_| {
                // The new one is always the lighter one: nobody has given it work yet.
                let load = |at: usize| Load {
                    warmth: warmth(at),
                    ..load(at as u32, 1, 0.0)
                };
                choose(
                    &Policy::Balanced,
                    (8, 1),
                    |_| "",
                    |_| Fitness::Fit,
                    load,
                    &mut random,
                )
            });
            chosen.filter(|at| *at == 0).count()
        };
        let (cold, warm, full) = (share(0.1), share(0.5), share(1.0));
        // Two of eight are drawn: the lightest is among them a quarter of the time.
        assert!((60..=140).contains(&cold), "{cold}");
        assert!((430..=570).contains(&warm), "{warm}");
        assert!((930..=1070).contains(&full), "{full}");
    }

    proptest! {
        #[test]
        fn the_choice_is_always_of_the_best_fitness(text in "[f?-]{0,40}", seed in any::<u64>()) {
            let fleet = fitness(&text);
            let best = fleet.iter().copied().max().filter(|best| *best != Fitness::Unfit);
            for policy in [Policy::Balanced, Policy::Ordered] {
                let found = choose(&policy, (fleet.len(), 2), |_| "", |at| fleet[at], |at| load(at as u32, 1, 0.0), numbers(seed));
                prop_assert_eq!(found.map(|at| fleet[at]), best);
            }
        }

        #[test]
        fn the_order_names_whoever_may_be_used_once_and_begins_with_the_choice(text in "[f?-]{0,40}", seed in any::<u64>()) {
            let fleet = fitness(&text);
            let names: Vec<_> = (0..fleet.len()).map(|at| format!("w{at}")).collect();
            for policy in [Policy::Balanced, Policy::Ordered, Policy::Hash("key".to_owned())] {
                let load = |at: usize| load(at as u32 % 3, 1, 0.0);
                let order = order(&policy, fleet.len(), |at| names[at].as_str(), |at| fleet[at], load);
                let mut sorted = order.clone();
                sorted.sort_unstable();
                let usable: Vec<_> = (0..fleet.len()).filter(|&at| fleet[at] != Fitness::Unfit).collect();
                prop_assert_eq!(sorted, usable);
                let ranks: Vec<_> = order.iter().map(|&at| fleet[at]).collect();
                prop_assert!(ranks.windows(2).all(|pair| pair[1] <= pair[0]));
                if policy != Policy::Balanced {
                    let chosen = choose(&policy, (fleet.len(), 1), |at| names[at].as_str(), |at| fleet[at], load, numbers(seed));
                    prop_assert_eq!(chosen, order.first().copied());
                }
            }
        }

        #[test]
        fn balanced_spreads_over_everyone_and_keeps_the_worst_close_to_the_best(seed in any::<u64>()) {
            let mut outstanding = [0_u32; 16];
            let mut random = numbers(seed);
            for _ in 0..1600 {
                let at = choose(&Policy::Balanced, (16, 1), |_| "", |_| Fitness::Fit, |at| load(outstanding[at], 1, 0.0), &mut random);
                outstanding[at.unwrap()] += 1;
            }
            let (least, most) = (outstanding.iter().min().unwrap(), outstanding.iter().max().unwrap());
            prop_assert!(most - least <= 12, "{:?}", outstanding);
        }
    }
}
