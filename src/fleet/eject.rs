//! Who is ejected: decided here, where the whole fleet is known, since only so many may be at once.

use std::sync::Arc;

use tokio::time::Instant;

use super::{Fleet, Roll};
use crate::domain::health::observed::{Cause, Standing};
use crate::domain::health::{ejected_max, may_eject};
use crate::domain::id::InstanceId;

impl Fleet {
    /// An instance's calls have said enough against it: ejects it, unless too many are ejected already.
    pub(super) fn judge(self: &Arc<Self>, id: &InstanceId, serial: u64, cause: Cause) {
        let mut roll = self.roll();
        let (ejected, size) = (roll.ejected.len(), roll.entries.len());
        let Some(member) = roll.member(id, serial) else {
            return;
        };
        if roll.ejected.contains(id) {
            return;
        }
        if !may_eject(ejected, size, self.health.load().ejected_percent_max) {
            member.load.gate.keep();
            tracing::warn!(instance = %id, %cause, ejected, "instance fails its calls and stays: enough are ejected");
            return;
        }
        let standing = member.load.gate.eject(cause, Instant::now());
        roll.ejected.insert(id.clone());
        roll.repaint(id, serial, |member| member.health.after_calls(standing));
        tracing::warn!(instance = %id, %cause, "instance ejected");
        // Its gate is closed already.
        self.publish_soon(&roll);
    }

    /// The trial of an instance is over.
    pub(super) fn note_standing(self: &Arc<Self>, id: &InstanceId, serial: u64) {
        let mut roll = self.roll();
        let Some(member) = roll.member(id, serial) else {
            return;
        };
        let standing = member.load.gate.standing();
        if standing == Standing::Trusted {
            roll.ejected.remove(id);
        }
        roll.repaint(id, serial, |member| member.health.after_calls(standing));
        let is_back = standing == Standing::Trusted;
        tracing::info!(instance = %id, is_back, "instance was tried again");
        self.publish_soon(&roll);
    }

    /// Shows on trial whose ejection is over: they get a call, when there is one for them.
    pub(super) fn end_ejections(&self, now: Instant) {
        let mut roll = self.roll();
        let over = roll.ejected.iter().filter_map(|id| {
            let member = &roll.entries.get(id)?.member;
            let outdated = member.health.is_outdated(now);
            outdated.then(|| (id.clone(), member.serial))
        });
        let over: Vec<_> = over.collect();
        for (id, serial) in &over {
            roll.repaint(id, *serial, |member| member.health.after_time());
            tracing::info!(instance = %id, "instance is on trial: its ejection is over");
        }
        if !over.is_empty() {
            self.publish(&roll);
        }
    }

    /// In a smaller fleet fewer may be ejected: those whose time is over first come back.
    pub(super) fn pardon_excess(&self, roll: &mut Roll) {
        let max = ejected_max(roll.entries.len(), self.health.load().ejected_percent_max);
        while max < roll.ejected.len() {
            let until = |id: &&InstanceId| match roll.entries.get(*id)?.member.health.observed {
                Standing::Trusted => None,
                Standing::Ejected { until, .. } => Some(until),
            };
            let Some(id) = roll.ejected.iter().min_by_key(until).cloned() else {
                return;
            };
            roll.ejected.remove(&id);
            let Some(entry) = roll.entries.get(&id) else {
                continue;
            };
            entry.member.load.gate.pardon(Instant::now());
            let serial = entry.member.serial;
            roll.repaint(&id, serial, |member| {
                member.health.after_calls(Standing::Trusted)
            });
            tracing::info!(instance = %id, "instance is back before its time: the fleet has become smaller");
        }
    }
}
