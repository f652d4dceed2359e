//! What cannot be told from outside is looked at after every step, inside the orchestrator.

use std::sync::Arc;
use std::time::Duration;

use orchestrator::domain::health::Admin;
use orchestrator::domain::health::observed::Standing;
use orchestrator::fleet::load::Load;
use orchestrator::fleet::view::{Member, View};

use crate::history::{History, Looks, What};
use crate::house::{EJECTED_PERCENT_MAX, Inside};
use crate::plan::Plan;

/// What was seen at the step before. Most steps change nothing but how many calls are where.
#[derive(Default)]
pub(crate) struct Looked {
    view: Option<Arc<View>>,
    members: Vec<Seen>,
    /// Which of them the view has, in its order.
    present: Vec<usize>,
}

struct Seen {
    id: String,
    looks: Looks,
    load: Arc<Load>,
    outstanding: u32,
    outstanding_max: u32,
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
        let mut found = Vec::new();
        found.extend(memory(inside));
        found.extend(admitted(inside, plan));
        let view = inside.fleet.view();
        let is_new = !matches!(&self.view, Some(last) if Arc::ptr_eq(last, &view));
        if is_new {
            found.extend(ejected(&view));
            self.present.clear();
            for member in view.members().iter() {
                let at = self.take_in(member, plan, now, history);
                self.present.push(at);
            }
            self.view = Some(view);
        }
        for at in &self.present {
            found.extend(self.members[*at].look());
        }
        for what in &mut found {
            *what = format!("{what} at {now:?}");
        }
        found
    }

    /// How a member looks in a new view, and where it is kept.
    fn take_in(&mut self, member: &Member, plan: &Plan, now: Duration, history: &History) -> usize {
        let id = member.id().as_str();
        let looks = Looks {
            admin: member.health.admin,
            probed: member.health.probed,
            ejected: member.health.observed != Standing::Trusted,
        };
        let before = self.members.iter().position(|seen| seen.id == id);
        let same = before.filter(|at| Arc::ptr_eq(&self.members[*at].load, &member.load));
        let is_changed = same.is_none_or(|at| self.members[at].looks != looks);
        if is_changed && !history.has_stopped() {
            let instance = id.to_owned();
            history.note_at(now, What::Seen { instance, looks });
        }
        let outstanding = member.load.outstanding();
        let stays_aside = |seen: &Seen| {
            let aside = [seen.looks.admin, looks.admin];
            aside.iter().all(|admin| *admin != Admin::Active)
        };
        let seen = Seen {
            id: id.to_owned(),
            looks,
            load: Arc::clone(&member.load),
            // Whoever stays out of work is held against what it had; anybody else begins with what it has.
            outstanding: same
                .map(|at| &self.members[at])
                .filter(|seen| stays_aside(seen))
                .map_or(outstanding, |seen| seen.outstanding),
            outstanding_max: calls_max(plan, id),
        };
        match before {
            Some(at) => {
                self.members[at] = seen;
                at
            }
            None => {
                self.members.push(seen);
                self.members.len() - 1
            }
        }
    }
}

impl Seen {
    /// 15: whoever gets nothing new never has more than a step ago. No instance has more than it may have.
    fn look(&mut self) -> Option<String> {
        let (id, outstanding) = (&self.id, self.load.outstanding());
        let before = std::mem::replace(&mut self.outstanding, outstanding);
        if self.outstanding_max < outstanding {
            let most = self.outstanding_max;
            return Some(format!("{id} has {outstanding} calls, {most} may be"));
        }
        let is_set_aside = self.looks.admin != Admin::Active;
        (is_set_aside && before < outstanding)
            .then(|| format!("{id} gets work, which is set aside,"))
    }
}

/// Calls that an instance may have at once.
pub(crate) fn calls_max(plan: &Plan, id: &str) -> u32 {
    let planned = plan.instances.iter().find(|one| one.id == id);
    let own = planned.and_then(|one| one.calls_max);
    own.unwrap_or(plan.allowance.admission.instance_calls_max)
}

/// 20: the account of messages stays within its limit.
fn memory(inside: &Inside) -> Option<String> {
    let (held, limit) = (inside.memory.held(), inside.memory.limit());
    (limit < held).then(|| format!("{held} bytes are held, {limit} may be"))
}

/// 15: no more are ejected than may be.
fn ejected(view: &View) -> Option<String> {
    let is_ejected = |member: &&Arc<Member>| member.health.observed != Standing::Trusted;
    let ejected = view.members().iter().filter(is_ejected).count();
    let max = (view.members().len() * EJECTED_PERCENT_MAX / 100).max(1);
    (max < ejected).then(|| format!("{ejected} are ejected, {max} may be"))
}

/// No more calls and legs are let in, and no more wait, than may.
fn admitted(inside: &Inside, plan: &Plan) -> Option<String> {
    let limits = plan.allowance.calls();
    let (running, waiting, legs) = inside.gate.load();
    let compared = [
        ("calls run", running, limits.all.in_flight_max),
        ("calls wait", waiting, limits.waiting_max),
        ("legs are under way", legs, limits.legs_max),
    ];
    let over = compared.into_iter().find(|(_, now, max)| max < now);
    over.map(|(what, now, max)| format!("{now} {what} at once, {max} may"))
}
