//! How single values are written: words, counts, durations, networks.

use std::ops::RangeInclusive;
use std::time::Duration;

use ipnet::IpNet;

use super::place::Place;
use crate::config::raw::Value;
use crate::domain::nearest::nearest;

impl Place<'_> {
    /// One of several words.
    pub(super) fn word<T: Copy>(&self, words: &[(&'static str, T)]) -> Option<T> {
        let names: Vec<_> = words.iter().map(|(word, _)| *word).collect();
        let expected = format!("one of {}", names.join(", "));
        let text = self.text(&expected)?;
        if let Some((_, meant)) = words.iter().find(|(word, _)| *word == text) {
            return Some(*meant);
        }
        let Some(near) = nearest(text, &names) else {
            return self.expected(expected);
        };
        self.note(format!("unknown word, did you mean {near}?"));
        None
    }

    pub(super) fn count<T: TryFrom<u64>>(&self, range: RangeInclusive<u64>) -> Option<T> {
        if let Value::Number(number) = self.value()
            && let Ok(count) = number.parse()
            && range.contains(&count)
            && let Ok(count) = T::try_from(count)
        {
            return Some(count);
        }
        let (min, max) = range.into_inner();
        self.expected(format!("a whole number from {min} to {max}"))
    }

    /// `"10s"`, or a number of seconds.
    pub(super) fn duration(&self, range: &RangeInclusive<Duration>) -> Option<Duration> {
        let read = match self.value() {
            Value::Text(text) => humantime::parse_duration(text).ok(),
            Value::Number(number) => number
                .parse()
                .ok()
                .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok()),
            Value::Truth(_) | Value::Null | Value::List(_) | Value::Object(_) => None,
        };
        let form = "a duration such as \"10s\", or a number of seconds";
        match read {
            Some(duration) if range.contains(&duration) => Some(duration),
            Some(_) => {
                let [min, max] =
                    [range.start(), range.end()].map(|end| humantime::format_duration(*end));
                self.expected(format!("{form}, from {min} to {max}"))
            }
            None => self.expected(form),
        }
    }

    /// Networks, as in `["10.0.0.0/8"]`.
    pub(super) fn networks(&self, len_max: usize) -> Option<Vec<IpNet>> {
        let list = self.list(len_max)?;
        Some(list.iter().filter_map(Self::network).collect())
    }

    pub(super) fn network(&self) -> Option<IpNet> {
        let form = "a network such as \"10.0.0.0/8\", or \"10.0.0.5/32\" for one address";
        let Ok(network) = self.text(form)?.parse::<IpNet>() else {
            return self.expected(form);
        };
        let whole = network.trunc();
        if whole != network {
            // It would allow far more than the one address that stands there.
            let one = IpNet::from(network.addr());
            return self.expected(format!(
                "{whole} for all of it, or {one} for the one address"
            ));
        }
        Some(network)
    }
}
