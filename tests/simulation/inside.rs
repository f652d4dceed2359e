//! What cannot be told from outside is looked at after every step, inside the orchestrator.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use orchestrator::domain::health::Admin;
use orchestrator::domain::health::observed::Standing;
use orchestrator::fleet::load::Load;
use orchestrator::fleet::view::{Member, View};

use crate::history::{History, Looks, What};
use crate::house::{EJECTED_PERCENT_MAX, Inside};
use crate::plan::Plan;

/// What was seen at the step before.
#[derive(Default)]
pub(crate) struct Looked {
    members: BTreeMap<String, Seen>,
}

struct Seen {
    looks: Looks,
    load: Arc<Load>,
    outstanding: u32,
}

impl Looked {
    /// What is wrong after this step. How instances look is noted when it has changed.
    pub(crate) fn look(
        &mut self,
        inside: &Inside,
        plan: &Plan,
        now: Duration,
        history: &History,
    ) -> Vec<String> {
        let view = inside.fleet.view();
        let mut found = [memory(inside), ejected(&view), admitted(inside, plan)].concat();
        for member in view.members().iter() {
            found.extend(self.member(member, plan, now, history));
        }
        found
            .iter()
            .map(|what| format!("{what} at {now:?}"))
            .collect()
    }

    /// 15: whoever gets nothing new never has more than a step ago. No instance has more than it may have.
    fn member(
        &mut self,
        member: &Member,
        plan: &Plan,
        now: Duration,
        history: &History,
    ) -> Vec<String> {
        let (id, outstanding) = (member.id().as_str(), member.load.outstanding());
        let looks = Looks {
            admin: member.health.admin,
            probed: member.health.probed,
            ejected: member.health.observed != Standing::Trusted,
        };
        let mut found = Vec::new();
        let most = calls_max(plan, id);
        if most < outstanding {
            found.push(format!("{id} has {outstanding} calls, {most} may be"));
        }
        let before = self.members.get_mut(id);
        if let Some(before) = before.filter(|before| Arc::ptr_eq(&before.load, &member.load)) {
            let is_set_aside = looks.admin != Admin::Active && before.looks.admin != Admin::Active;
            if is_set_aside && before.outstanding < outstanding {
                found.push(format!("{id} gets work, which is set aside,"));
            }
            before.outstanding = outstanding;
            if before.looks == looks {
                return found;
            }
        }
        if !history.has_stopped() {
            let instance = id.to_owned();
            history.note_at(now, What::Seen { instance, looks });
        }
        let load = Arc::clone(&member.load);
        let seen = Seen {
            looks,
            load,
            outstanding,
        };
        self.members.insert(id.to_owned(), seen);
        found
    }
}

/// Calls that an instance may have at once.
pub(crate) fn calls_max(plan: &Plan, id: &str) -> u32 {
    let planned = plan.instances.iter().find(|one| one.id == id);
    let own = planned.and_then(|one| one.calls_max);
    own.unwrap_or(plan.allowance.admission.instance_calls_max)
}

/// 20: the account of messages stays within its limit.
fn memory(inside: &Inside) -> Vec<String> {
    let (held, limit) = (inside.memory.held(), inside.memory.limit());
    let is_over = limit < held;
    Vec::from_iter(is_over.then(|| format!("{held} bytes are held, {limit} may be")))
}

/// 15: no more are ejected than may be.
fn ejected(view: &View) -> Vec<String> {
    let is_ejected = |member: &&Arc<Member>| member.health.observed != Standing::Trusted;
    let ejected = view.members().iter().filter(is_ejected).count();
    let max = (view.members().len() * EJECTED_PERCENT_MAX / 100).max(1);
    let is_over = max < ejected;
    Vec::from_iter(is_over.then(|| format!("{ejected} are ejected, {max} may be")))
}

/// No more calls and legs are let in, and no more wait, than may.
fn admitted(inside: &Inside, plan: &Plan) -> Vec<String> {
    let limits = plan.allowance.calls();
    let (running, waiting, legs) = inside.gate.load();
    let compared = [
        ("calls run", running, limits.all.in_flight_max),
        ("calls wait", waiting, limits.waiting_max),
        ("legs are under way", legs, limits.legs_max),
    ];
    let over = compared.into_iter().filter(|(_, now, max)| max < now);
    over.map(|(what, now, max)| format!("{now} {what} at once, {max} may"))
        .collect()
}
