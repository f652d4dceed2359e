//! How many connections this machine can hold, whatever the config would like.

use std::fs;

use crate::ingress::listener::Limits;

/// Limits that the process can keep: no more connections than half its file descriptors (the other half is
/// for instances), and than half its memory at a full window each.
pub(super) fn within_means(limits: Limits) -> Limits {
    let descriptors = descriptors().map(|limit| limit / 2);
    let memory = memory().map(|limit| limit / 2 / u64::from(limits.connection_window.max(1)));
    let most = [descriptors, memory]
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
    Limits {
        connections,
        ..limits
    }
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
