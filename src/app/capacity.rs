//! How much this machine can hold, whatever the config would like.
//!
//! Of the memory, half is for connections, each at its most; a quarter for messages, unless the config says
//! otherwise; the last quarter is for the program itself: calls, legs, and the windows of instances.

use std::fs;

use crate::config::Admission;
use crate::domain::admission;
use crate::domain::limit::BUFFERED_BYTES_DEFAULT;
use crate::ingress::listener::Limits;

/// What a call and a leg are taken to weigh besides their messages: their futures, streams and buffers.
const CALL_BYTES: u64 = 32 * 1024;
const LEG_BYTES: u64 = 8 * 1024;

/// What is taken, once the machine was looked at.
pub(super) struct Means {
    pub(super) calls: admission::Limits,
    pub(super) instance_calls_max: u32,
    pub(super) buffered_bytes: usize,
}

/// Limits that the process can keep: no more connections than half its file descriptors (the other half is
/// for instances).
pub(super) fn within_means(limits: Limits, admission: Admission) -> (Limits, Means) {
    fit(limits, admission, descriptors(), memory())
}

fn fit(
    limits: Limits,
    admission: Admission,
    descriptors: Option<u64>,
    memory: Option<u64>,
) -> (Limits, Means) {
    let fitting = memory.map(|memory| memory / 2 / limits.connection_bytes_max());
    let most = [descriptors.map(|limit| limit / 2), fitting]
        .into_iter()
        .flatten()
        .min()
        .unwrap_or(u64::MAX);
    let connections = limits
        .connections
        .min(usize::try_from(most).unwrap_or(usize::MAX))
        .max(1);
    if connections < limits.connections {
        tracing::info!(
            connections,
            asked = limits.connections,
            "fewer connections than set: descriptors or memory"
        );
    }
    let share = |bytes_each: u64, asked: u32| {
        let most = memory.map_or(u64::MAX, |memory| memory / 16 / bytes_each);
        asked.min(u32::try_from(most).unwrap_or(u32::MAX)).max(1)
    };
    let calls = admission::Limits {
        all: admission::Quota {
            in_flight_max: share(CALL_BYTES, admission.calls.all.in_flight_max),
            ..admission.calls.all
        },
        legs_max: share(LEG_BYTES, admission.calls.legs_max),
        ..admission.calls
    };
    if calls != admission.calls {
        tracing::info!(
            calls = calls.all.in_flight_max,
            legs = calls.legs_max,
            "fewer calls or legs than set: memory"
        );
    }
    let quarter = memory.map(|memory| usize::try_from(memory / 4).unwrap_or(usize::MAX));
    let means = Means {
        calls,
        instance_calls_max: admission.instance_calls_max,
        buffered_bytes: admission
            .buffered_bytes
            .or(quarter)
            .unwrap_or(BUFFERED_BYTES_DEFAULT),
    };
    let limits = Limits {
        connections,
        ..limits
    };
    (limits, means)
}

/// The soft limit on open files; `None` where it cannot be read.
fn descriptors() -> Option<u64> {
    read_descriptors(&fs::read_to_string("/proc/self/limits").ok()?)
}

fn read_descriptors(limits: &str) -> Option<u64> {
    let line = limits
        .lines()
        .find(|line| line.starts_with("Max open files"))?;
    line.split_whitespace().nth(3)?.parse().ok()
}

/// The memory limit of the control group, or the machine's memory.
fn memory() -> Option<u64> {
    let group = fs::read_to_string("/sys/fs/cgroup/memory.max")
        .ok()
        .and_then(|text| text.trim().parse().ok());
    group.or_else(|| read_memory(&fs::read_to_string("/proc/meminfo").ok()?))
}

fn read_memory(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find(|line| line.starts_with("MemTotal:"))?;
    Some(line.split_whitespace().nth(1)?.parse::<u64>().ok()? * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_is_asked_for_all_of_it_together_fits_the_memory() {
        for memory in [128 << 20, 1 << 30, 64 << 30] {
            for trusted in [Vec::new(), vec!["10.0.0.0/8".parse().unwrap()]] {
                let limits = Limits {
                    connections: 1_000_000,
                    streams: 1000,
                    trusted,
                    ..Limits::default()
                };
                let mut admission = Admission::default();
                admission.calls.all.in_flight_max = 10_000_000;
                admission.calls.legs_max = 10_000_000;
                let (limits, means) = fit(limits, admission, None, Some(memory));
                let connections = limits.connections as u64 * limits.connection_bytes_max();
                let calls = u64::from(means.calls.all.in_flight_max) * CALL_BYTES;
                let legs = u64::from(means.calls.legs_max) * LEG_BYTES;
                assert!(connections + means.buffered_bytes as u64 + calls + legs <= memory);
                assert!(memory / 3 < connections, "what there is is used");
            }
        }
    }

    #[test]
    fn where_there_is_enough_the_config_is_as_it_was() {
        let (limits, means) = fit(Limits::default(), Admission::default(), None, None);
        assert_eq!(limits, Limits::default());
        assert_eq!(means.calls, Admission::default().calls);
        assert_eq!(means.buffered_bytes, BUFFERED_BYTES_DEFAULT);
        let admission = Admission {
            buffered_bytes: Some(7),
            ..Admission::default()
        };
        let (limits, means) = fit(Limits::default(), admission, Some(100), Some(1 << 40));
        assert_eq!((limits.connections, means.buffered_bytes), (50, 7));
    }

    #[test]
    fn the_system_s_own_words_are_read() {
        let limits = "Limit                     Soft Limit           Hard Limit           Units\n\
                      Max open files            1024                 524288               files\n";
        assert_eq!(read_descriptors(limits), Some(1024));
        assert_eq!(
            read_descriptors("Max open files unlimited unlimited files"),
            None
        );
        assert_eq!(
            read_memory("MemTotal:       25000000 kB\nMemFree: 1 kB"),
            Some(25_600_000_000)
        );
    }
}
