//! The instances of the config that run in this process: one that behaves as before goes on, the others come and go.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio_util::sync::DropGuard;

use crate::config::{Builtin, Planned};
use crate::domain::id::InstanceId;
use crate::fleet::view::Origin;
use crate::instance::builtin::{self, Behaviour};
use crate::instance::endpoint::{Endpoint, Protocol, Transport};
use crate::instance::{Spec, tls};
use crate::tasks::Tasks;

/// Those that run now.
#[derive(Default)]
pub(super) struct Builtins(BTreeMap<InstanceId, Arc<Housed>>);

/// An instance of this process; it takes no more connections once this is dropped.
pub(super) struct Housed {
    behaviour: Behaviour,
    address: SocketAddr,
    _over: DropGuard,
}

impl Builtins {
    /// What the fleet is told of the instances of a config, and those of this process among them. Nothing has
    /// changed until they replace the ones before.
    pub(super) async fn house(
        &self,
        planned: &[Planned],
        tasks: &Tasks,
    ) -> io::Result<(Vec<(Spec, Origin)>, Self)> {
        let mut instances = Vec::with_capacity(planned.len());
        let mut housed = BTreeMap::new();
        for planned in planned {
            instances.push(match planned {
                Planned::Remote(spec) => (spec.clone(), Origin::Config),
                Planned::Builtin(builtin) => {
                    let known = self.0.get(&builtin.id);
                    let running = known.filter(|known| known.behaviour == builtin.behaviour);
                    let one = match running {
                        Some(running) => Arc::clone(running),
                        None => Arc::new(Housed::start(builtin.behaviour, tasks).await?),
                    };
                    let spec = spec(builtin, one.address);
                    housed.insert(builtin.id.clone(), one);
                    (spec, Origin::Builtin)
                }
            });
        }
        Ok((instances, Self(housed)))
    }

    /// Others instead; those that are no longer needed come back.
    pub(super) fn replace(&mut self, others: Self) -> Vec<Arc<Housed>> {
        let before = std::mem::replace(self, others);
        let stays = |housed: &Arc<Housed>| self.0.values().any(|other| Arc::ptr_eq(housed, other));
        before
            .0
            .into_values()
            .filter(|housed| !stays(housed))
            .collect()
    }
}

impl Housed {
    async fn start(behaviour: Behaviour, tasks: &Tasks) -> io::Result<Self> {
        let over = tasks.stopping().child_token();
        let address = builtin::start_until(behaviour, tasks, over.clone()).await?;
        Ok(Self {
            behaviour,
            address,
            _over: over.drop_guard(),
        })
    }
}

fn spec(builtin: &Builtin, address: SocketAddr) -> Spec {
    Spec {
        id: builtin.id.clone(),
        endpoint: Endpoint {
            host: address.ip().to_string(),
            port: address.port(),
            transport: Transport::Plain,
            protocol: Protocol::Grpc,
            pinned: vec![address],
        },
        labels: builtin.labels.clone(),
        weight: builtin.weight,
        calls_in_flight_max: builtin.calls_in_flight_max,
        credential: None,
        tls: tls::Settings::default(),
    }
}
