//! Sockets in the file system, at both doors.

use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;

use orchestrator::config::Planned;
use orchestrator::domain::id::InstanceId;
use orchestrator::ingress::listener::Address;
use orchestrator::instance::endpoint::Endpoint;
use orchestrator::instance::{Spec, tls};
use orchestrator::proto::orchestrator::orchestrator_service_client::OrchestratorServiceClient;
use orchestrator::proto::orchestrator::{Instance, RegisterRequest, RouteRequest};
use tokio::net::UnixListener;
use tonic::Code;

use crate::stage::program::{Server, json_of, orchestrator};
use crate::stage::{Bearer, Config, KEY, cluster, config, embedded, reason, start, text};
use crate::tls::serve_echo;

#[tokio::test]
async fn callers_and_instances_may_come_by_a_socket() {
    let folder = tempfile::tempdir().unwrap();
    let (door, behind) = (folder.path().join("o.sock"), folder.path().join("a.sock"));
    let listener = UnixListener::bind(&behind).unwrap();
    tokio::task::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            serve_echo(stream, |_| ());
        }
    });
    let endpoint = Endpoint::parse(&format!("unix:{}", behind.display())).unwrap();
    let instance = Planned::Remote(Spec {
        id: InstanceId::parse("A").unwrap(),
        endpoint,
        labels: Default::default(),
        weight: 1,
        calls_in_flight_max: None,
        credential: None,
        tls: tls::Settings::default(),
    });
    let app = start(Config {
        listen: Address::Unix(door.clone()),
        socket_mode: 0o620,
        instances: vec![instance],
        ..config()
    })
    .await;
    let mode = std::fs::metadata(&door).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o620);
    let url = app.listening().to_string();
    let channel = tonic::transport::Endpoint::from_shared(url).unwrap();
    let channel = channel.connect().await.unwrap();
    let mut client = OrchestratorServiceClient::with_interceptor(channel, Bearer(Arc::from(KEY)));
    let request = RouteRequest {
        instances: vec!["A".into()],
        payload: text("task"),
        ..Default::default()
    };
    let answer = client.route(request).await.unwrap().into_inner();
    assert_eq!(answer.payload, text("task"));
    drop(client);
    app.stop().await;
    assert!(!door.exists(), "it is removed at the stop");
}

#[tokio::test]
async fn nobody_registers_a_socket_of_the_orchestrator_s_machine() {
    let app = start(embedded()).await;
    let request = RegisterRequest {
        instance: Some(Instance {
            id: "X".into(),
            address: "unix:/run/docker.sock".into(),
            ..Default::default()
        }),
        incarnation: 1,
        ..Default::default()
    };
    let refused = cluster(&app).await.register(request).await.unwrap_err();
    assert_eq!(reason(&refused), "ADDRESS_NOT_ALLOWED");
    assert_ne!(refused.code(), Code::Ok);
}

#[test]
fn a_server_on_a_socket_is_called_by_its_path_and_survives_its_own_kill() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("o.sock");
    let listen = format!("unix:{}", path.display());
    let server = Server::start(&["--listen", &listen]);
    assert_eq!(server.address, listen);
    let route = server.run(&["route", "--instances", "A", "--payload", "7"]);
    assert_eq!(json_of(&route)["payload"], 7);
    let second = orchestrator(&["serve", "--listen", &listen])
        .env("XDG_DATA_HOME", folder.path())
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&second.stderr);
    assert!(told.contains("another program listens there"), "{told}");
    // Killed: nobody has removed the socket.
    drop(server);
    assert!(path.exists());
    let server = Server::start(&["--listen", &listen]);
    let health = server.run(&["health"]);
    assert_eq!(health.status.code(), Some(0), "{health:?}");
    let (code, log) = server.stop();
    assert_eq!(code, Some(0), "{log}");
    assert!(!path.exists());
}
