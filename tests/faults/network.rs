//! Instances on hosts of their own, network namespaces, whose network fails. Needs root, iproute2 and nftables.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use orchestrator::proto::orchestrator::{CallPolicy, HealthState};

use crate::kill::check_once;
use crate::load::{Load, settled};
use crate::processes::{Instance, Orchestrator};

const CALLS: usize = 900;

/// A host of its own, reached over a pair of virtual cables; gone when it is dropped.
pub(crate) struct Host {
    name: String,
    pub(crate) address: String,
}

impl Host {
    /// `number` is 1 to 250, and tells the hosts of this process apart.
    pub(crate) fn start(number: u8) -> Self {
        let name = format!("faults-{}-{number}", std::process::id());
        let cable = format!("ft{}x{number}", std::process::id() % 100_000);
        let (ours, address) = (format!("10.199.{number}.1"), format!("10.199.{number}.2"));
        let host = Self { name, address };
        let name = &host.name;
        run(&format!("ip netns add {name}"));
        run(&format!(
            "ip link add {cable} type veth peer name e0 netns {name}"
        ));
        run(&format!("ip addr add {ours}/24 dev {cable}"));
        run(&format!("ip link set {cable} up"));
        host.run(&format!("ip addr add {}/24 dev e0", host.address));
        host.run("ip link set e0 up");
        host.run("ip link set lo up");
        host.run("nft add table inet faults");
        host.run("nft add chain inet faults in { type filter hook input priority 0; }");
        host.run("nft add chain inet faults out { type filter hook output priority 0; }");
        host
    }

    fn run(&self, command: &str) {
        run(&format!("ip netns exec {} {command}", self.name));
    }

    /// Everything that comes to it and goes from it is lost without a word.
    pub(crate) fn cut(&self) {
        self.run("nft add rule inet faults in iifname e0 drop");
        self.run("nft add rule inet faults out oifname e0 drop");
    }

    /// What goes over the connections that there are now is lost without a word; new ones are not touched.
    pub(crate) fn cut_what_is_open(&self) {
        self.cut_what_is_silent_for(Duration::ZERO);
    }

    /// The same, of the connections on which nothing has come for so long.
    pub(crate) fn cut_what_is_silent_for(&self, silence: Duration) {
        // A line for each connection, with all that the system knows of it.
        let output = self.command("ss".into()).arg("-HtniO").output().unwrap();
        let lines = String::from_utf8(output.stdout).unwrap();
        let is_silent = |line: &&str| {
            let mut words = line.split_whitespace();
            let last = words.find_map(|word| word.strip_prefix("lastrcv:"));
            let ms = last.map_or(0, |ms| ms.parse().unwrap());
            silence <= Duration::from_millis(ms)
        };
        let silent = lines.lines().filter(is_silent);
        let peers = silent.filter_map(|line| line.split_whitespace().nth(4));
        let ports: Vec<_> = peers.filter_map(|peer| peer.rsplit(':').next()).collect();
        assert!(!ports.is_empty(), "nothing is open: {lines}");
        let ports = ports.join(",");
        self.run(&format!(
            "nft add rule inet faults in tcp sport {{{ports}}} drop"
        ));
        self.run(&format!(
            "nft add rule inet faults out tcp dport {{{ports}}} drop"
        ));
    }

    pub(crate) fn mend(&self) {
        self.run("nft flush chain inet faults in");
        self.run("nft flush chain inet faults out");
    }

    /// What comes to it is answered with a reset.
    fn reset(&self) {
        self.run("nft add rule inet faults in iifname e0 meta l4proto tcp reject with tcp reset");
    }

    pub(crate) fn instance(&self, id: &str) -> Instance {
        let command = self.command(std::env::current_exe().unwrap());
        Instance::start_by(command, id, &format!("{}:50051", self.address))
    }

    /// Starts a program there.
    pub(crate) fn command(&self, program: PathBuf) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name]).arg(program);
        command
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // Its cables go with it.
        run(&format!("ip netns del {}", self.name));
    }
}

fn run(command: &str) {
    let mut words = command.split(' ');
    let output = Command::new(words.next().unwrap())
        .args(words)
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{command}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

pub(crate) async fn an_instance_behind_a_black_hole_costs_no_call_that_may_be_repeated() {
    let hosts = [1, 2, 3].map(Host::start);
    let instances: Vec<_> = hosts
        .iter()
        .zip(["A", "B", "C"])
        .map(|(host, id)| host.instance(id))
        .collect();
    let addresses: Vec<_> = instances
        .iter()
        .map(|one| (one.id.as_str(), one.address))
        .collect();
    let orchestrator = Orchestrator::start(&addresses);
    settled(orchestrator.address, |_, state| {
        state == HealthState::Healthy
    })
    .await;
    let policy = CallPolicy {
        idempotent: true,
        per_try_timeout: Some(prost_types::Duration {
            seconds: 0,
            nanos: 500_000_000,
        }),
        ..Default::default()
    };
    let load = Load {
        address: orchestrator.address,
        name: "hole",
        callers: 8,
        calls: CALLS,
        policy,
    }
    .start();
    load.begun(CALLS / 3).await;
    hosts[1].cut();
    let account = load.account(&instances).await;
    account.check();
    assert_eq!(account.answered, CALLS, "{account}");
    assert_ne!(account.repeated, 0, "some calls met the hole: {account}");
    settled(orchestrator.address, |id, state| {
        (state == HealthState::Healthy) == (id != "B")
    })
    .await;
    hosts[1].mend();
    settled(orchestrator.address, |_, state| {
        state == HealthState::Healthy
    })
    .await;
}

pub(crate) async fn a_connection_reset_by_the_network_makes_nobody_execute_a_task_twice() {
    let hosts = [4, 5].map(Host::start);
    let instances: Vec<_> = hosts
        .iter()
        .zip(["A", "B"])
        .map(|(host, id)| host.instance(id))
        .collect();
    let addresses: Vec<_> = instances
        .iter()
        .map(|one| (one.id.as_str(), one.address))
        .collect();
    let orchestrator = Orchestrator::start(&addresses);
    settled(orchestrator.address, |_, state| {
        state == HealthState::Healthy
    })
    .await;
    let policy = CallPolicy::default();
    let load = Load {
        address: orchestrator.address,
        name: "reset",
        callers: 8,
        calls: CALLS,
        policy,
    }
    .start();
    load.begun(CALLS / 3).await;
    hosts[0].reset();
    load.begun(CALLS / 2).await;
    hosts[0].mend();
    let account = load.account(&instances).await;
    account.check();
    let met = account.repeated + account.failed.values().sum::<usize>();
    assert_ne!(met, 0, "some calls met the resets: {account}");
    let known = ["Unavailable INSTANCE_LOST", "Unavailable INSTANCE_DOWN"];
    assert!(
        account
            .failed
            .keys()
            .all(|kind| known.contains(&kind.as_str())),
        "{account}"
    );
    check_once(&instances);
    settled(orchestrator.address, |_, state| {
        state == HealthState::Healthy
    })
    .await;
}
