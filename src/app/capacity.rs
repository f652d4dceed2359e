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

/// The machine's memory, or the least that a control group grants which this process is in.
fn memory() -> Option<u64> {
    least_memory(|path| fs::read_to_string(path).ok())
}

fn least_memory(read: impl Fn(&str) -> Option<String>) -> Option<u64> {
    let groups = read("/proc/self/cgroup").unwrap_or_default();
    let granted = limit_files(&groups);
    let granted = granted
        .iter()
        .filter_map(|file| read(file)?.trim().parse().ok());
    let machine = read("/proc/meminfo").and_then(|text| read_memory(&text));
    granted.chain(machine).min()
}

/// Where the limits of these groups may stand, and those of all groups above, which hold as well: cgroup-v2 in the
/// kernel's documentation, and its memory controller of version 1. In a namespace of its own a process is told of
/// groups that it does not see; the topmost that it does see is then its own, or above it.
fn limit_files(groups: &str) -> Vec<String> {
    let mut files = Vec::new();
    // hierarchy:controllers:path
    for group in groups.lines() {
        let mut parts = group.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else {
            continue;
        };
        let (folders, file): (&[_], _) = if controllers.is_empty() {
            (&["/sys/fs/cgroup", "/sys/fs/cgroup/unified"], "memory.max")
        } else if controllers.split(',').any(|name| name == "memory") {
            (&["/sys/fs/cgroup/memory"], "memory.limit_in_bytes")
        } else {
            continue;
        };
        let mut above = path.trim_end_matches('/');
        // Above its own namespace: it does not see that.
        if path.split('/').any(|part| part == "..") {
            above = "";
        }
        loop {
            files.extend(folders.iter().map(|at| format!("{at}{above}/{file}")));
            let Some((parent, _)) = above.rsplit_once('/') else {
                break;
            };
            above = parent;
        }
    }
    files
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

    fn check_memory(groups: &str, files: &[(&str, &str)], expected_mib: u64) {
        let read = |path: &str| match path {
            "/proc/self/cgroup" => Some(groups.to_owned()),
            "/proc/meminfo" => Some("MemTotal:       65536 kB\n".to_owned()),
            other => {
                let file = files.iter().find(|(path, _)| *path == other);
                file.map(|(_, text)| (*text).to_owned())
            }
        };
        let found = least_memory(read);
        assert_eq!(found, Some(expected_mib << 20), "{groups} {files:?}");
    }

    #[test]
    fn the_least_that_any_group_above_grants_is_the_memory_there_is() {
        let unit = "0::/system.slice/orchestrator.service\n";
        let (own, slice, root) = (
            "/sys/fs/cgroup/system.slice/orchestrator.service/memory.max",
            "/sys/fs/cgroup/system.slice/memory.max",
            "/sys/fs/cgroup/memory.max",
        );
        // As under systemd, where the root has no such file.
        check_memory(unit, &[(own, "33554432\n"), (slice, "max\n")], 32);
        check_memory(unit, &[(own, "max\n"), (slice, "16777216\n")], 16);
        check_memory(unit, &[(own, "33554432\n"), (slice, "16777216\n")], 16);
        check_memory(unit, &[(own, "max\n")], 64);
        // More than there is is no more.
        check_memory(unit, &[(own, "1099511627776\n")], 64);
        // As in a container with a namespace of its own, and in one without, which sees its own group at the top.
        check_memory("0::/\n", &[(root, "33554432\n")], 32);
        check_memory("0::/kubepods/pod1/c1\n", &[(root, "33554432\n")], 32);
        check_memory("0::/../other\n", &[(root, "33554432\n")], 32);
    }

    #[test]
    fn the_first_version_of_control_groups_is_read_too() {
        let groups = "9:name=systemd:/\n4:cpu,memory:/jobs/one\n3:cpuset:/jobs\n0::/\n";
        let (own, above, root) = (
            "/sys/fs/cgroup/memory/jobs/one/memory.limit_in_bytes",
            "/sys/fs/cgroup/memory/jobs/memory.limit_in_bytes",
            "/sys/fs/cgroup/memory/memory.limit_in_bytes",
        );
        let unlimited = (root, "9223372036854771712\n");
        check_memory(groups, &[(own, "33554432\n"), unlimited], 32);
        check_memory(groups, &[(above, "16777216\n"), unlimited], 16);
        check_memory(groups, &[unlimited], 64);
        check_memory("", &[(own, "1\n")], 64);
        check_memory("nonsense\n::\n", &[], 64);
    }
}
