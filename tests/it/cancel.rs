//! A caller who leaves ends the work at every instance.

use orchestrator::proto::orchestrator::{FanoutRequest, RouteRequest};

use crate::stage::instance::{Act, Instance};
use crate::stage::{self, client, config, planned, start};

#[tokio::test]
async fn a_dropped_call_is_reset_at_its_instance() {
    let instance = Instance::start(Act::Silent).await;
    let app = start(stage::Config {
        instances: vec![planned("A", instance.address)],
        ..config()
    })
    .await;
    let mut client = client(&app).await;
    let request = RouteRequest {
        instances: vec!["A".into()],
        ..Default::default()
    };
    let call = tokio::task::spawn(async move { client.route(request).await.map(drop) });
    instance.until(|counts| counts.begun == 1).await;
    call.abort();
    let counts = instance.until(|counts| counts.reset == 1).await;
    assert_eq!((counts.begun, counts.answered), (1, 0));
}

#[tokio::test]
async fn a_dropped_stream_resets_every_leg() {
    let instance = Instance::start(Act::Silent).await;
    let ids: Vec<_> = (0..50).map(|at| format!("w{at:02}")).collect();
    let instances = ids.iter().map(|id| planned(id, instance.address)).collect();
    let app = start(stage::Config {
        instances,
        ..config()
    })
    .await;
    let mut client = client(&app).await;
    let request = FanoutRequest {
        targets: vec!["*".into()],
        ..Default::default()
    };
    let mut events = client.fanout(request).await.unwrap().into_inner();
    let _started = events.message().await.unwrap();
    instance.until(|counts| counts.begun == 50).await;
    drop(events);
    let counts = instance.until(|counts| counts.reset == 50).await;
    assert_eq!(counts.answered, 0);
}

#[tokio::test]
async fn a_caller_whose_connection_breaks_has_left_too() {
    let instance = Instance::start(Act::Silent).await;
    let app = start(stage::Config {
        instances: vec![planned("A", instance.address)],
        ..config()
    })
    .await;
    let life = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let address = app.address();
    life.spawn(async move {
        let bearer = stage::Bearer(stage::KEY.into());
        let channel = stage::channel(address).await;
        let mut client =
            orchestrator::proto::orchestrator::orchestrator_service_client::OrchestratorServiceClient::with_interceptor(channel, bearer);
        let request = RouteRequest { instances: vec!["A".into()], ..Default::default() };
        client.route(request).await.map(drop)
    });
    instance.until(|counts| counts.begun == 1).await;
    life.shutdown_background();
    instance.until(|counts| counts.reset == 1).await;
}
