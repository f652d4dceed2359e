//! What the config says of the fleet, exchanged as a whole while calls run.
//!
//! An instance that is reached as before keeps its connections, its load and its health, whatever else is said of it.
//! One that is reached otherwise is replaced. Calls that have an instance which is gone or was replaced finish there.

use std::collections::BTreeSet;
use std::sync::Arc;

use tokio::time::Instant;

use super::view::{Member, Origin};
use super::{Entry, Fleet, ProbeSettings, Roll, registration};
use crate::domain::failure::{Failure, Reason};
use crate::domain::health::{self, Admin};
use crate::domain::id::InstanceId;
use crate::domain::limit::FLEET_MAX;
use crate::instance::{InstanceClient, Spec};

/// What the config says of the fleet.
#[derive(Debug, Clone)]
pub struct Configured {
    /// All instances that stay.
    pub instances: Vec<(Spec, Origin)>,
    /// Those of which the config wants something else than before. What an operator has said since stands otherwise.
    pub admin: Vec<(InstanceId, Admin)>,
    /// How instances are probed.
    pub probe: ProbeSettings,
    /// How their health is judged.
    pub health: health::Settings,
    /// What may register.
    pub registration: registration::Settings,
}

/// Instances that no call will find any more; those that have them finish.
pub type Left = Vec<Arc<Member>>;

impl Fleet {
    /// Takes over what the config says now. A failure has changed nothing.
    pub fn configure(self: &Arc<Self>, configured: Configured) -> Result<Left, Failure> {
        let instances = self.connected(configured.instances)?;
        let mut roll = self.roll();
        let named: BTreeSet<_> = instances.iter().map(|(spec, ..)| spec.id.clone()).collect();
        let stays =
            |(id, entry): &(&InstanceId, &Entry)| entry.lease.is_some() && !named.contains(*id);
        let registered = roll.entries.iter().filter(stays).count();
        if FLEET_MAX < registered + instances.len() {
            let detail = format!(
                "{registered} instances are registered, and with those of the config the fleet would have more than \
                 the {FLEET_MAX} that it may have"
            );
            return Err(Failure::new(Reason::FleetFull, detail));
        }
        self.health.store(Arc::new(configured.health));
        self.registration.store(Arc::new(configured.registration));
        let mut left = roll.leave_all_but(&named);
        left.extend(self.turn_out(&mut roll));
        for (id, admin) in configured.admin {
            roll.set_admin(&id, admin);
        }
        for (spec, origin, client) in instances {
            let Some(client) = client else {
                roll.respecify(spec);
                continue;
            };
            left.extend(
                roll.entries
                    .get(&spec.id)
                    .map(|entry| Arc::clone(&entry.member)),
            );
            self.seat(&mut roll, spec, origin, None, client);
        }
        let (rate, retries) = {
            let settings = self.registration.load();
            (settings.rate, settings.retries)
        };
        let now = Instant::now().into_std();
        for entry in roll.entries.values() {
            let (load, spec) = (&entry.member.load, &entry.member.spec);
            load.change(spec.weight, self.calls_in_flight_max(spec), rate);
            load.retries().change(retries, now);
        }
        self.pardon_excess(&mut roll);
        self.publish(&roll);
        drop(roll);
        if **self.probe.load() != configured.probe {
            self.probe.store(Arc::new(configured.probe));
        }
        // How often an instance may be busy is a setting too: those who probe look again in any case.
        self.probe_changed.notify_waiters();
        Ok(left)
    }

    /// A client for each instance that is reached otherwise than before, or was not there.
    #[allow(clippy::type_complexity, reason = "it has no meaning of its own")]
    fn connected(
        &self,
        instances: Vec<(Spec, Origin)>,
    ) -> Result<Vec<(Spec, Origin, Option<Arc<dyn InstanceClient>>)>, Failure> {
        let view = self.view();
        let connected = instances.into_iter().map(|(spec, origin)| {
            let client = match view.find(&spec.id) {
                Some(member) if is_reached_alike(member, &spec, origin) => None,
                Some(_) | None => Some((self.connect)(&spec)?),
            };
            Ok((spec, origin, client))
        });
        connected.collect()
    }

    /// Registered instances whose networks are no longer allowed.
    fn turn_out(&self, roll: &mut Roll) -> Left {
        let is_allowed = |entry: &Entry| {
            let pinned = &entry.member.spec.endpoint.pinned;
            let mut judged = pinned.iter().map(|address| self.judge_address(*address));
            judged.all(|judged| judged.is_ok())
        };
        let registered = roll.entries.values().filter(|entry| entry.lease.is_some());
        let out = registered.filter(|entry| !is_allowed(entry));
        let out: Left = out.map(|entry| Arc::clone(&entry.member)).collect();
        for member in &out {
            tracing::warn!(instance = %member.id(), "instance left: the config allows its address no longer");
            roll.remove(member.id());
        }
        out
    }
}

fn is_reached_alike(member: &Member, spec: &Spec, origin: Origin) -> bool {
    let known = &member.spec;
    member.origin == origin
        && known.endpoint == spec.endpoint
        && known.credential == spec.credential
        && known.tls == spec.tls
}

impl Roll {
    /// Takes those out that came with the config and are not named any more.
    fn leave_all_but(&mut self, named: &BTreeSet<InstanceId>) -> Left {
        let entries = self.entries.values();
        let gone =
            entries.filter(|entry| entry.lease.is_none() && !named.contains(entry.member.id()));
        let gone: Left = gone.map(|entry| Arc::clone(&entry.member)).collect();
        for member in &gone {
            self.remove(member.id());
        }
        gone
    }

    /// What the config wants, to the letter: it may also give back what was out of use.
    fn set_admin(&mut self, id: &InstanceId, admin: Admin) {
        self.mark(id, admin);
        let Some(entry) = self.entries.get(id) else {
            return;
        };
        entry.member.load.gate.set_admin(admin);
        let serial = entry.member.serial;
        self.repaint(id, serial, |member| member.health.after_operator(admin));
    }

    fn respecify(&mut self, spec: Spec) {
        if let Some(entry) = self.entries.get_mut(&spec.id) {
            let member = Member::clone(&entry.member);
            entry.member = Arc::new(Member { spec, ..member });
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Mutex;
    use std::time::Duration;

    use tokio::time;

    use super::*;
    use crate::chance::Chance;
    use crate::domain::budget::Share;
    use crate::domain::health::Panic;
    use crate::domain::health::observed::Standing;
    use crate::fleet::network;
    use crate::fleet::registration::{Asker, Rank, Registration, TakeOver};
    use crate::instance::endpoint::Endpoint;
    use crate::instance::scripted::Scripted;
    use crate::instance::tls;
    use crate::tasks::Tasks;

    /// A fleet, and how often an instance was connected to.
    struct Stage {
        fleet: Arc<Fleet>,
        connected: Arc<Mutex<BTreeMap<String, usize>>>,
    }

    impl Stage {
        fn new() -> Self {
            let connected = Arc::<Mutex<BTreeMap<_, _>>>::default();
            let counting = Arc::clone(&connected);
            let connect = move |spec: &Spec| {
                if spec.endpoint.port == 666 {
                    return Err(Failure::new(Reason::ArgumentInvalid, "cannot be"));
                }
                *counting
                    .lock()
                    .unwrap()
                    .entry(spec.id.to_string())
                    .or_default() += 1;
                Ok(Scripted::new(spec.id.as_str(), []) as _)
            };
            let Configured {
                probe,
                health,
                registration,
                ..
            } = configured("");
            let (tasks, chance) = (Tasks::new(), Chance::default());
            let fleet = Fleet::new(
                Arc::new(connect),
                probe,
                health,
                registration,
                tasks,
                chance,
            );
            Self { fleet, connected }
        }

        fn configure(&self, instances: &str) -> Left {
            self.fleet.configure(configured(instances)).unwrap()
        }

        fn ids(&self) -> String {
            let view = self.fleet.view();
            let ids: Vec<_> = view
                .members()
                .iter()
                .map(|member| member.id().as_str())
                .collect();
            ids.join(" ")
        }

        fn member(&self, name: &str) -> Arc<Member> {
            Arc::clone(self.fleet.view().find(&id(name)).unwrap())
        }

        async fn register(&self, name: &str, address: &str) -> Result<(), Failure> {
            let registration = Registration {
                id: id(name),
                endpoint: Endpoint::parse(address).unwrap(),
                labels: BTreeMap::new(),
                weight: 1,
                incarnation: 1,
                lease: Duration::from_secs(600),
            };
            let asker = Asker {
                key: "test".into(),
                rank: Rank::Ordinary,
            };
            self.fleet.register(registration, &asker).await.map(drop)
        }
    }

    fn id(name: &str) -> InstanceId {
        InstanceId::parse(name).unwrap()
    }

    /// `A:1` is an instance at port 1, `A:1*5` one of weight 5.
    fn configured(instances: &str) -> Configured {
        let read = |word: &str| {
            let (name, rest) = word.split_once(':').unwrap();
            let (port, weight) = rest.split_once('*').unwrap_or((rest, "1"));
            let spec = Spec {
                id: id(name),
                endpoint: Endpoint::parse(&format!("127.0.0.1:{port}")).unwrap(),
                labels: BTreeMap::from([("weight".to_owned(), weight.to_owned())]),
                weight: weight.parse().unwrap(),
                calls_in_flight_max: None,
                credential: None,
                tls: tls::Settings::default(),
            };
            (spec, Origin::Config)
        };
        Configured {
            instances: instances.split_whitespace().map(read).collect(),
            admin: Vec::new(),
            probe: ProbeSettings::default(),
            health: health::Settings::default(),
            registration: registration::Settings {
                networks: network::loopback(),
                take_over: TakeOver::AnyKey,
                ourselves: Vec::new(),
                calls_in_flight_max: 2,
                rate: None,
                retries: Share::default(),
            },
        }
    }

    #[tokio::test(start_paused = true)]
    async fn instances_come_go_and_are_replaced_and_calls_stay_where_they_are() {
        let stage = Stage::new();
        assert!(stage.configure("A:1 B:1 C:1").is_empty());
        let (a, b, c) = (stage.member("A"), stage.member("B"), stage.member("C"));
        let running =
            [&a, &b, &c].map(|member| member.load.admit(Panic::Off, Instant::now()).unwrap());

        let left = stage.configure("A:1*7 C:2 D:1");
        let mut gone: Vec<_> = left
            .iter()
            .map(|member| (member.id().as_str(), member.serial))
            .collect();
        gone.sort_unstable();
        assert_eq!(gone, [("B", b.serial), ("C", c.serial)]);
        assert_eq!(stage.ids(), "A C D");
        let same = stage.member("A");
        assert_eq!(same.serial, a.serial, "it is reached as before");
        assert!(Arc::ptr_eq(&same.load, &a.load) && Arc::ptr_eq(&same.client, &a.client));
        assert_eq!(
            (same.spec.weight, same.spec.labels["weight"].as_str()),
            (7, "7")
        );
        assert_eq!(
            same.compared(Instant::now()).weight,
            7,
            "from the next call on"
        );
        assert_ne!(stage.member("C").serial, c.serial);
        let counts = stage.connected.lock().unwrap().clone();
        let counts: Vec<_> = counts
            .iter()
            .map(|(name, count)| (name.as_str(), *count))
            .collect();
        assert_eq!(counts, [("A", 1), ("B", 1), ("C", 2), ("D", 1)]);
        for member in [&a, &b, &c] {
            assert_eq!(member.load.outstanding(), 1);
            assert!(
                member.load.admit(Panic::Off, Instant::now()).is_ok(),
                "also its next try"
            );
        }
        drop(running);
    }

    #[tokio::test(start_paused = true)]
    async fn what_cannot_be_has_changed_nothing() {
        let stage = Stage::new();
        stage.configure("A:1 B:1");
        let (membership, a) = (stage.fleet.view().membership(), stage.member("A"));
        let mut wrong = configured("A:9 C:666");
        wrong.admin = vec![(id("A"), Admin::Disabled)];
        wrong.registration.networks = Vec::new();
        assert!(stage.fleet.configure(wrong).is_err());
        assert_eq!(
            (stage.ids().as_str(), stage.fleet.view().membership()),
            ("A B", membership)
        );
        assert_eq!(stage.member("A").serial, a.serial);
        assert!(stage.register("R", "127.0.0.1:5").await.is_ok());
        let many: Vec<_> = (0..FLEET_MAX).map(|at| format!("w{at}:1")).collect();
        let failure = stage
            .fleet
            .configure(configured(&many.join(" ")))
            .map(drop)
            .unwrap_err();
        assert_eq!(failure.reason, Reason::FleetFull);
        assert_eq!(stage.ids(), "A B R");
    }

    #[tokio::test(start_paused = true)]
    async fn registered_instances_stay_unless_the_config_wants_their_name_or_not_their_network() {
        let stage = Stage::new();
        stage.configure("A:1");
        stage.register("R", "127.0.0.1:5").await.unwrap();
        stage.register("S", "[::1]:5").await.unwrap();
        stage.configure("B:1");
        assert_eq!(stage.ids(), "B R S");
        stage.configure("B:1 R:7");
        assert_eq!(stage.member("R").origin, Origin::Config);
        let refused = stage.register("R", "127.0.0.1:5").await.unwrap_err();
        assert_eq!(refused.reason, Reason::InstanceConfigured);
        let mut narrow = configured("B:1");
        narrow.registration.networks = vec!["127.0.0.0/8".parse().unwrap()];
        let left = stage.fleet.configure(narrow).unwrap();
        assert_eq!(left.len(), 2, "R of the config, and S");
        assert_eq!(stage.ids(), "B");
        let refused = stage.register("S", "[::1]:5").await.unwrap_err();
        assert_eq!(refused.reason, Reason::AddressNotAllowed);
    }

    #[tokio::test(start_paused = true)]
    async fn what_an_operator_wants_holds_until_the_config_wants_something_else() {
        let stage = Stage::new();
        let wants = |instances: &str, admin: &[(&str, Admin)]| {
            let admin = admin
                .iter()
                .map(|(name, admin)| (id(name), *admin))
                .collect();
            let configured = Configured {
                admin,
                ..configured(instances)
            };
            stage.fleet.configure(configured).unwrap();
        };
        let admin = |name: &str| stage.member(name).health.admin;
        wants("A:1 B:1", &[("A", Admin::Disabled)]);
        assert_eq!((admin("A"), admin("B")), (Admin::Disabled, Admin::Active));
        stage.fleet.set_admin([&id("B")], Admin::Draining, "test");
        stage.fleet.set_admin([&id("A")], Admin::Active, "test");
        wants("A:1*2 B:2", &[]);
        assert_eq!(
            (admin("A"), admin("B")),
            (Admin::Active, Admin::Draining),
            "replaced or not"
        );
        wants("A:1 B:2", &[("A", Admin::Disabled)]);
        wants("A:1 B:2", &[("A", Admin::Draining), ("B", Admin::Active)]);
        assert_eq!((admin("A"), admin("B")), (Admin::Draining, Admin::Active));
        let refused = stage.member("A").load.admit(Panic::On, Instant::now());
        assert!(refused.is_err());
        // One that is new begins as the config says: no call slips in before.
        wants("A:1 C:1", &[("A", Admin::Active), ("C", Admin::Disabled)]);
        assert_eq!((admin("A"), admin("C")), (Admin::Active, Admin::Disabled));
    }

    #[tokio::test(start_paused = true)]
    async fn limits_and_policies_hold_from_the_next_call_on() {
        let stage = Stage::new();
        stage.configure("A:1 B:1 C:1 D:1 E:1");
        let member = stage.member("A");
        let admit = || member.load.admit(Panic::Off, Instant::now()).unwrap();
        let full = |count: usize| {
            let passes: Vec<_> = (0..=count).map(|_| admit()).collect();
            passes.iter().filter(|pass| pass.finds_it_full()).count()
        };
        assert_eq!(full(2), 1);
        let mut other = configured("A:1 B:1 C:1 D:1 E:1");
        other.registration.calls_in_flight_max = 4;
        other.health.ejected_percent_max = 0;
        other.health.ejection.failures_in_a_row = 2;
        stage.fleet.configure(other).unwrap();
        assert_eq!(full(4), 1);
        use crate::domain::health::observed::Said;
        let fail = || admit().report(Said::Failure, Instant::now());
        for _ in 0..5 {
            fail();
        }
        assert_eq!(
            member.load.gate.standing(),
            Standing::Trusted,
            "none may be ejected"
        );
        let mut other = configured("A:1 B:1 C:1 D:1 E:1");
        other.health.ejection.failures_in_a_row = 2;
        stage.fleet.configure(other.clone()).unwrap();
        // One more in a row: the fifth of before counts.
        fail();
        assert_ne!(member.load.gate.standing(), Standing::Trusted);
        other.health.ejected_percent_max = 0;
        stage.fleet.configure(other).unwrap();
        assert_eq!(
            member.load.gate.standing(),
            Standing::Trusted,
            "fewer may be ejected than are"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_shorter_interval_does_not_wait_for_the_end_of_a_longer_one() {
        let stage = Stage::new();
        let with = |interval| {
            let mut configured = configured("A:1");
            configured.probe.interval = Duration::from_secs(interval);
            stage.fleet.configure(configured).unwrap();
        };
        with(3600);
        let probed = || stage.member("A").health.state;
        let mut changes = stage.fleet.changes();
        while probed() != crate::domain::health::State::Healthy {
            changes.changed().await.unwrap();
        }
        // It answers no more, and nobody would notice for an hour.
        time::advance(Duration::from_secs(60)).await;
        let started = Instant::now();
        with(1);
        stage.fleet.view().members()[0]
            .load
            .note_probe(Duration::from_secs(1000));
        let is_old = || stage.member("A").load.probe_latency() == Some(Duration::from_secs(1000));
        while is_old() {
            time::sleep(Duration::from_millis(100)).await;
        }
        assert!(
            started.elapsed() < Duration::from_secs(2),
            "{:?}",
            started.elapsed()
        );
    }
}
