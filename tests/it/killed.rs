//! An orchestrator in a process of its own that a test kills and starts again over the same journal. What becomes of
//! conversations under such kills is for `tests/faults`.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use orchestrator::proto::orchestrator::orchestrator_service_client::OrchestratorServiceClient;
use orchestrator::proto::orchestrator::{HealthState, HealthWatchRequest};

use crate::stage::{Bearer, Client, KEY, channel};

/// An orchestrator in a process of its own, with its config and its journal in one folder.
pub(crate) struct Killed {
    child: Child,
    pub(crate) address: String,
}

impl Killed {
    pub(crate) fn start(folder: &std::path::Path) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_orchestrator"))
            .args(["serve", "--log", "off", "--listen", "127.0.0.1:0"])
            .arg("--config")
            .arg(folder.join("orchestrator.json"))
            .arg("--data-dir")
            .arg(folder)
            .env("ORCHESTRATOR_API_KEY", KEY)
            .env_remove("ORCHESTRATOR_LOG")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let stdout = child.stdout.take().unwrap();
        BufReader::new(stdout).read_line(&mut line).unwrap();
        let started: serde_json::Value = serde_json::from_str(&line).expect("it starts");
        let address = started["listening"].as_str().unwrap().to_owned();
        Self { child, address }
    }

    /// `kill -9`.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(crate) async fn client(address: &str) -> Client {
    let bearer = Bearer(Arc::from(KEY));
    OrchestratorServiceClient::with_interceptor(channel(address.parse().unwrap()).await, bearer)
}

/// Waits until the instance was probed.
pub(crate) async fn until_healthy(client: &mut Client) {
    let states = client.health_watch(HealthWatchRequest::default()).await;
    let mut states = states.unwrap().into_inner();
    let healthy = async {
        while let Some(change) = states.message().await.unwrap() {
            let mut instances = change.instances.iter();
            if instances.any(|instance| instance.state() == HealthState::Healthy) {
                return;
            }
        }
    };
    let healthy = tokio::time::timeout(Duration::from_secs(60), healthy);
    healthy.await.expect("the instance is well");
}
