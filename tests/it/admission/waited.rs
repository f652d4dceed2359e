//! A call that waited for its turn goes by the fleet as it is then, and not as it was when it came.

use std::net::SocketAddr;

use orchestrator::domain::health::State;
use orchestrator::proto::orchestrator::fanout_response::Event;
use orchestrator::proto::orchestrator::{
    DeregisterRequest, FanoutRequest, Instance as Registered, Outcome, RegisterRequest,
};

use super::{House, fill, route};
use crate::stage::instance::{Act, Instance};
use crate::stage::{ClusterClient, KEY, client, cluster, reason, settled};

async fn register(cluster: &mut ClusterClient, id: &str, address: SocketAddr, incarnation: u64) {
    let request = RegisterRequest {
        instance: Some(Registered {
            id: id.to_owned(),
            address: address.to_string(),
            ..Default::default()
        }),
        incarnation,
        lease: None,
    };
    cluster.register(request).await.unwrap();
}

#[tokio::test]
async fn a_call_that_waited_goes_by_the_fleet_as_it_is_by_then() {
    let house = House::with(|config| config.admission.calls.all.in_flight_max = 1).await;
    let (before, after) = (
        Instance::start(Act::Echo).await,
        Instance::start(Act::Echo).await,
    );
    let mut cluster = cluster(&house.app).await;
    for id in ["moved", "gone"] {
        register(&mut cluster, id, before.address, 1).await;
    }
    let is_well = |state| state == State::Healthy;
    settled(&house.app, is_well).await;
    let running = fill(&house, KEY, 1).await;
    house.held[0].until(|counts| counts.begun == 1).await;
    let client = client(&house.app).await;
    let mut waiting = Vec::new();
    for id in ["moved", "gone"] {
        let mut client = client.clone();
        waiting.push(tokio::spawn(
            async move { client.route(route(&[id])).await },
        ));
        house.until_load(1, waiting.len() as u32).await;
    }
    let mut fanning = client.clone();
    let fan_out = tokio::spawn(async move {
        let request = FanoutRequest {
            targets: vec!["moved,gone".into()],
            ..Default::default()
        };
        let mut events = fanning.fanout(request).await.unwrap().into_inner();
        let mut outcomes = Vec::new();
        while let Some(event) = events.message().await.unwrap() {
            if let Some(Event::Partial(partial)) = event.event {
                outcomes.push((partial.instance.clone(), partial.outcome()));
            }
        }
        outcomes.sort();
        outcomes
    });
    house.until_load(1, 3).await;

    register(&mut cluster, "moved", after.address, 2).await;
    let gone = DeregisterRequest {
        id: "gone".into(),
        incarnation: 1,
    };
    cluster.deregister(gone).await.unwrap();
    settled(&house.app, is_well).await;
    house.let_go.send_replace(true);
    for call in running {
        call.await.unwrap().unwrap();
    }
    let mut waiting = waiting.into_iter();
    let moved = waiting.next().unwrap().await.unwrap().unwrap();
    assert_eq!(moved.into_inner().instance, "moved");
    let status = waiting.next().unwrap().await.unwrap().unwrap_err();
    assert_eq!(reason(&status), "INSTANCE_DOWN", "{status:?}");
    assert!(status.message().contains("left the fleet"), "{status:?}");
    let outcomes = fan_out.await.unwrap();
    let expected = [
        ("gone".to_owned(), Outcome::Failed),
        ("moved".to_owned(), Outcome::Answered),
    ];
    assert_eq!(outcomes, expected);
    assert_eq!(
        before.counts.borrow().begun,
        0,
        "nothing goes where they were"
    );
    assert_eq!(after.counts.borrow().begun, 2);
    house.is_empty().await;
}
