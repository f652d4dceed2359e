//! Calls that go on while something breaks, and an account of what became of each.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use orchestrator::proto::orchestrator::orchestrator_service_client::OrchestratorServiceClient;
use orchestrator::proto::orchestrator::{
    Attempt, CallPolicy, HealthState, HealthWatchRequest, RouteRequest,
};
use prost::Message as _;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};
use tonic::metadata::MetadataValue;
use tonic::transport::Channel;
use tonic::{Request, Status};

use crate::processes::{Instance, KEY, PATIENCE, begun};

/// The deadline of every call.
pub(crate) const DEADLINE: Duration = Duration::from_secs(5);
/// What a busy machine may add before an answer counts as late; far less than a deadline that is ignored.
const SLACK: Duration = Duration::from_secs(2);

/// What became of the calls.
#[derive(Debug, Default)]
pub(crate) struct Account {
    /// Calls made.
    pub(crate) calls: usize,
    /// Calls that were answered by an instance.
    pub(crate) answered: usize,
    /// Calls that ended with a failure: how many of each kind.
    pub(crate) failed: BTreeMap<String, usize>,
    /// Calls without any outcome.
    pub(crate) lost: usize,
    /// Calls whose outcome came after their deadline.
    pub(crate) late: usize,
    /// Tries that the orchestrator has reported, those that never left it not counted.
    pub(crate) tries_reported: usize,
    /// The same for each task.
    tries: BTreeMap<String, usize>,
    /// Calls that were tried more than once, also where one of the tries never left.
    pub(crate) repeated: usize,
    /// Executions at instances of which no try was reported, or that should not have been: the task may have begun
    /// elsewhere and was not to be repeated.
    pub(crate) doubled: usize,
    /// The names of the tasks that were answered.
    pub(crate) tasks_answered: Vec<String>,
}

impl Account {
    pub(crate) fn add(&mut self, other: Self) {
        self.calls += other.calls;
        self.answered += other.answered;
        self.lost += other.lost;
        self.late += other.late;
        self.tries_reported += other.tries_reported;
        self.tries.extend(other.tries);
        self.repeated += other.repeated;
        self.doubled += other.doubled;
        self.tasks_answered.extend(other.tasks_answered);
        for (what, count) in other.failed {
            *self.failed.entry(what).or_default() += count;
        }
    }

    /// What a caller is told of the tries of a task.
    fn told(&mut self, task: &str, attempts: &[Attempt]) {
        let sent = attempts.iter().filter(|attempt| left(attempt)).count();
        self.tries_reported += sent;
        self.tries.insert(task.to_owned(), sent);
        self.repeated += usize::from(1 < attempts.len());
    }

    /// Holds what instances have seen against what callers were told. What was answered late or not at all is
    /// counted elsewhere.
    fn count_doubled(&mut self, begun: &BTreeMap<String, usize>, policy: &CallPolicy) {
        for (task, count) in begun {
            let Some(told) = self.tries.get(task) else {
                continue;
            };
            let most = if policy.idempotent {
                *told
            } else {
                (*told).min(1)
            };
            self.doubled += count.saturating_sub(most);
        }
    }

    /// Nothing lost, nothing late, nothing doubled, and an outcome for each call.
    pub(crate) fn check(&self) {
        assert_eq!((self.lost, self.late, self.doubled), (0, 0, 0), "{self}");
        let failed: usize = self.failed.values().sum();
        assert_eq!(self.answered + failed, self.calls, "{self}");
    }
}

impl std::fmt::Display for Account {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            calls,
            answered,
            failed,
            lost,
            late,
            tries_reported,
            repeated,
            doubled,
            ..
        } = self;
        write!(
            f,
            "{calls} calls: {answered} answered, failed {failed:?}, {lost} lost, {late} late, {doubled} doubled, \
             {repeated} repeated, {tries_reported} tries reported"
        )
    }
}

/// Calls for the whole fleet, from several callers, each of which makes the next call when it has the outcome of the
/// one before.
#[derive(Clone)]
pub(crate) struct Load {
    pub(crate) address: SocketAddr,
    /// Distinguishes the tasks of one load from those of another.
    pub(crate) name: &'static str,
    pub(crate) callers: usize,
    pub(crate) calls: usize,
    pub(crate) policy: CallPolicy,
}

/// A load that is running.
pub(crate) struct Running {
    begun: watch::Sender<usize>,
    callers: JoinSet<Account>,
    name: &'static str,
    policy: CallPolicy,
}

impl Load {
    pub(crate) fn start(self) -> Running {
        let begun = watch::Sender::new(0);
        let mut callers = JoinSet::new();
        for _ in 0..self.callers {
            let (load, begun) = (self.clone(), begun.clone());
            callers.spawn(async move {
                let mut client = connect(load.address).await;
                let mut account = Account::default();
                loop {
                    let mut number = 0;
                    begun.send_modify(|begun| {
                        number = *begun;
                        *begun += 1;
                    });
                    if load.calls <= number {
                        return account;
                    }
                    let task = format!("{}-{number}", load.name);
                    account.add(call(&mut client, task, load.policy.clone()).await);
                }
            });
        }
        let Self { name, policy, .. } = self;
        Running {
            begun,
            callers,
            name,
            policy,
        }
    }
}

impl Running {
    /// Waits until so many calls have begun.
    pub(crate) async fn begun(&self, calls: usize) {
        let mut begun = self.begun.subscribe();
        timeout(PATIENCE, begun.wait_for(|begun| calls <= *begun))
            .await
            .expect("the load goes on")
            .unwrap();
    }

    /// Waits for the end, and looks what `instances` have seen of it.
    pub(crate) async fn account<'a>(
        mut self,
        instances: impl IntoIterator<Item = &'a Instance>,
    ) -> Account {
        let mut account = Account::default();
        while let Some(one) = self.callers.join_next().await {
            account.add(one.unwrap());
        }
        account.count_doubled(&begun(instances), &self.policy);
        println!("{}: {account}", self.name);
        account
    }
}

/// One call and what became of it.
pub(crate) async fn call(client: &mut Client, task: String, policy: CallPolicy) -> Account {
    let mut request = Request::new(RouteRequest {
        instances: vec!["*".into()],
        payload: Some(
            prost_types::Value::from(task.clone())
                .encode_to_vec()
                .into(),
        ),
        policy: Some(policy),
        // Not as metadata: the client library would watch the clock as well, and hide what the orchestrator does.
        timeout: Some(DEADLINE.try_into().unwrap()),
        ..Default::default()
    });
    authorize(&mut request);
    let began = Instant::now();
    let outcome = timeout(DEADLINE + 5 * SLACK, client.route(request)).await;
    let mut account = Account {
        calls: 1,
        ..Default::default()
    };
    if DEADLINE + SLACK < began.elapsed() {
        account.late = 1;
    }
    match outcome {
        Err(_elapsed) => account.lost = 1,
        Ok(Ok(answer)) => {
            account.answered = 1;
            account.told(&task, &answer.into_inner().attempts);
            account.tasks_answered.push(task);
        }
        Ok(Err(status)) => {
            account.told(&task, &failed_attempts(&status));
            account.failed.insert(kind(&status), 1);
        }
    }
    account
}

/// Whether a try has reached its instance, as far as the orchestrator knows.
fn left(attempt: &Attempt) -> bool {
    attempt
        .failure
        .as_ref()
        .is_none_or(|failure| failure.reason != "INSTANCE_DOWN")
}

fn failed_attempts(status: &Status) -> Vec<Attempt> {
    let details = tonic_types::pb::Status::decode(status.details())
        .unwrap_or_default()
        .details;
    let found = details
        .iter()
        .find(|detail| detail.type_url.ends_with("FailedAttempts"));
    found.map_or_else(Vec::new, |detail| {
        orchestrator::proto::orchestrator::FailedAttempts::decode(&detail.value[..])
            .unwrap()
            .attempts
    })
}

fn kind(status: &Status) -> String {
    use tonic_types::StatusExt as _;
    let reason = status
        .get_error_details()
        .error_info()
        .map_or_else(String::new, |info| info.reason.clone());
    format!("{:?} {reason}", status.code())
}

pub(crate) type Client = OrchestratorServiceClient<Channel>;

pub(crate) async fn connect(address: SocketAddr) -> Client {
    let channel = Channel::builder(format!("http://{address}").parse().unwrap());
    OrchestratorServiceClient::new(channel.connect().await.unwrap())
}

pub(crate) fn authorize<T>(request: &mut Request<T>) {
    let bearer = MetadataValue::try_from(format!("Bearer {KEY}")).unwrap();
    request.metadata_mut().insert("authorization", bearer);
}

/// Waits until the states of all instances are as wanted.
pub(crate) async fn settled(address: SocketAddr, wanted: impl Fn(&str, HealthState) -> bool) {
    let mut client = connect(address).await;
    let mut request = Request::new(HealthWatchRequest::default());
    authorize(&mut request);
    let mut changes = client.health_watch(request).await.unwrap().into_inner();
    let mut states = BTreeMap::new();
    let all = async {
        while let Some(change) = changes.message().await.unwrap() {
            for health in change.instances {
                states.insert(health.instance.clone(), health.state());
            }
            if states.iter().all(|(id, state)| wanted(id, *state)) {
                return;
            }
        }
        panic!("the watch has ended");
    };
    timeout(PATIENCE, all).await.expect("the fleet settles");
}
