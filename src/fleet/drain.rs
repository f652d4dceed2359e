//! What operators want of instances. It holds by name: a new start of an instance does not undo it, nor does a
//! lease that ended in between. It does not outlive the orchestrator.

use super::{Fleet, Roll};
use crate::domain::health::Admin;
use crate::domain::id::InstanceId;
use crate::domain::limit::FLEET_MAX;

impl Fleet {
    /// Sets what is wanted of instances; `by` is who asks, for the log. What is not there is left out.
    pub fn set_admin<'i>(
        &self,
        ids: impl IntoIterator<Item = &'i InstanceId>,
        admin: Admin,
        by: &str,
    ) {
        let mut roll = self.roll();
        for id in ids {
            let Some(entry) = roll.entries.get(id) else {
                continue;
            };
            let (member, was) = (&entry.member, entry.member.health.admin);
            // Whoever drains an instance that is out of use does not want it back in use.
            let admin = match (was, admin) {
                (Admin::Disabled, Admin::Draining) => Admin::Disabled,
                (Admin::Active | Admin::Draining | Admin::Disabled, wanted) => wanted,
            };
            if was == admin {
                continue;
            }
            let serial = member.serial;
            // The gate first: from here on nothing new is sent, whatever a view still shows.
            member.load.gate.set_admin(admin);
            roll.repaint(id, serial, |member| member.health.after_operator(admin));
            roll.mark(id, admin);
            tracing::info!(instance = %id, state = admin.word(), by, "instance set by its operator");
        }
        self.publish(&roll);
    }

    /// A member that gets nothing new has nothing left: whoever watches should see it.
    pub(super) fn note_drained(&self, id: &InstanceId, serial: u64) {
        let mut roll = self.roll();
        if roll.repaint(id, serial, |member| member.health.clone()) {
            tracing::info!(instance = %id, "instance drained");
            self.publish(&roll);
        }
    }
}

impl Roll {
    pub(super) fn mark(&mut self, id: &InstanceId, admin: Admin) {
        if admin == Admin::Active {
            self.marks.remove(id);
            return;
        }
        if FLEET_MAX <= self.marks.len() {
            // Those that have left and did not come back make room.
            let entries = &self.entries;
            self.marks.retain(|id, _| entries.contains_key(id));
        }
        self.marks.insert(id.clone(), admin);
    }
}
