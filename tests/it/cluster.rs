//! Instances come and go at run time.

use orchestrator::domain::health::State;
use orchestrator::proto::orchestrator::{
    DeregisterRequest, Instance as Registered, InstanceOrigin, ListInstancesRequest,
    RegisterRequest, RouteRequest,
};
use tonic::Code;

use crate::stage::instance::{Act, Instance};
use crate::stage::{
    self, client, cluster, config, embedded, planned, reason, settled, start, text,
};

fn registration(id: &str, address: &str, incarnation: u64) -> RegisterRequest {
    let instance = Registered {
        id: id.into(),
        address: address.into(),
        ..Default::default()
    };
    RegisterRequest {
        instance: Some(instance),
        incarnation,
        lease: None,
    }
}

#[tokio::test]
async fn a_registered_instance_gets_work_until_it_is_deregistered() {
    let instance = Instance::start(Act::Echo).await;
    let app = start(config()).await;
    let (mut client, mut cluster) = (client(&app).await, cluster(&app).await);
    let route = || RouteRequest {
        instances: vec!["gpu-a".into()],
        payload: text("task"),
        ..Default::default()
    };
    let status = client.route(route()).await.unwrap_err();
    assert_eq!(
        (status.code(), reason(&status).as_str()),
        (Code::NotFound, "TARGET_UNKNOWN")
    );

    let registered = cluster
        .register(registration("gpu-a", &instance.address.to_string(), 1))
        .await
        .unwrap();
    assert!(registered.into_inner().expire_time.is_some());
    settled(&app, |state| state == State::Healthy).await;
    let answer = client.route(route()).await.unwrap().into_inner();
    assert_eq!(
        (answer.instance.as_str(), answer.payload),
        ("gpu-a", text("task"))
    );

    cluster
        .deregister(DeregisterRequest {
            id: "gpu-a".into(),
            incarnation: 1,
        })
        .await
        .unwrap();
    assert_eq!(
        client.route(route()).await.unwrap_err().code(),
        Code::NotFound
    );
}

#[tokio::test]
async fn registrations_that_may_not_be_are_refused_by_name() {
    let app = start(embedded()).await;
    let mut cluster = cluster(&app).await;
    let ourselves = app.address().to_string();
    let builtin = app.fleet().view().members()[0].spec.endpoint.to_string();
    let short = Some(prost_types::Duration {
        seconds: 1,
        nanos: 0,
    });
    let cases = [
        (
            registration("A", "127.0.0.1:1", 1),
            Code::AlreadyExists,
            "INSTANCE_CONFIGURED",
        ),
        (
            registration("w1-w9", "127.0.0.1:1", 1),
            Code::InvalidArgument,
            "ARGUMENT_INVALID",
        ),
        (
            registration("x", "nonsense", 1),
            Code::InvalidArgument,
            "ARGUMENT_INVALID",
        ),
        (
            registration("x", "8.8.8.8:1", 1),
            Code::PermissionDenied,
            "ADDRESS_NOT_ALLOWED",
        ),
        (
            registration("x", "169.254.169.254:80", 1),
            Code::PermissionDenied,
            "ADDRESS_NOT_ALLOWED",
        ),
        (
            registration("x", &ourselves, 1),
            Code::PermissionDenied,
            "ADDRESS_NOT_ALLOWED",
        ),
        (
            registration("x", &builtin, 1),
            Code::PermissionDenied,
            "ADDRESS_NOT_ALLOWED",
        ),
        (
            RegisterRequest {
                lease: short,
                ..registration("x", "127.0.0.1:1", 1)
            },
            Code::InvalidArgument,
            "ARGUMENT_INVALID",
        ),
        (
            RegisterRequest::default(),
            Code::InvalidArgument,
            "ARGUMENT_INVALID",
        ),
    ];
    for (request, code, expected) in cases {
        let status = cluster.register(request).await.unwrap_err();
        assert_eq!(
            (status.code(), reason(&status).as_str()),
            (code, expected),
            "{status:?}"
        );
    }
    let unknown = DeregisterRequest {
        id: "x".into(),
        incarnation: 1,
    };
    assert_eq!(
        cluster.deregister(unknown).await.unwrap_err().code(),
        Code::NotFound
    );
}

#[tokio::test]
async fn an_older_incarnation_cannot_take_over() {
    let app = start(config()).await;
    let mut cluster = cluster(&app).await;
    cluster
        .register(registration("x", "127.0.0.1:1", 7))
        .await
        .unwrap();
    let status = cluster
        .register(registration("x", "127.0.0.1:2", 6))
        .await
        .unwrap_err();
    assert_eq!(
        (status.code(), reason(&status).as_str()),
        (Code::FailedPrecondition, "INCARNATION_STALE")
    );
    cluster
        .register(registration("x", "127.0.0.1:2", 8))
        .await
        .unwrap();
    let listed = cluster
        .list_instances(ListInstancesRequest::default())
        .await
        .unwrap()
        .into_inner();
    assert_eq!(
        listed.instances[0].instance.as_ref().unwrap().address,
        "grpc://127.0.0.1:2"
    );
}

#[tokio::test]
async fn the_fleet_is_listed_page_by_page() {
    let instance = Instance::start(Act::Echo).await;
    let instances = (0..7)
        .map(|at| planned(&format!("w{at}"), instance.address))
        .collect();
    let app = start(stage::Config {
        instances,
        ..config()
    })
    .await;
    let mut cluster = cluster(&app).await;
    cluster
        .register(registration("x", "127.0.0.1:1", 1))
        .await
        .unwrap();
    let (mut ids, mut pages, mut page_token) = (Vec::new(), 0, String::new());
    loop {
        let request = ListInstancesRequest {
            page_size: 3,
            page_token,
        };
        let page = cluster.list_instances(request).await.unwrap().into_inner();
        pages += 1;
        ids.extend(page.instances.iter().map(|listed| {
            let registered = listed.origin() == InstanceOrigin::Registered;
            assert_eq!(listed.expire_time.is_some(), registered);
            listed.instance.as_ref().unwrap().id.clone()
        }));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    assert_eq!(ids, ["w0", "w1", "w2", "w3", "w4", "w5", "w6", "x"]);
    assert_eq!(pages, 3);
}

#[tokio::test]
async fn a_page_of_long_labels_ends_early_and_nothing_is_left_out() {
    let app = start(config()).await;
    let mut cluster = cluster(&app).await;
    for at in 0..200 {
        let mut request = registration(&format!("w{at:03}"), "127.0.0.1:1", 1);
        if let Some(instance) = &mut request.instance {
            let label = |at: usize| (format!("{at:0256}"), "x".repeat(256));
            instance.labels = (0..32).map(label).collect();
        }
        cluster.register(request).await.unwrap();
    }
    let (mut count, mut pages, mut page_token) = (0, 0, String::new());
    loop {
        // A client as it comes takes 4 MiB.
        let request = ListInstancesRequest {
            page_size: 0,
            page_token,
        };
        let page = cluster.list_instances(request).await.unwrap().into_inner();
        (count, pages) = (count + page.instances.len(), pages + 1);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    assert_eq!(count, 200);
    assert!(1 < pages, "{pages}");
}
