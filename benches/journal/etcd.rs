//! etcd, one member on loopback: each writer puts its own key. The messages are those of etcdserverpb.

use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tonic::client::Grpc;
use tonic::transport::{Channel, Endpoint};
use tonic_prost::ProstCodec;

use crate::{CONNECTIONS, PAYLOAD_BYTES, Round, WRITERS, load};

#[derive(Clone, PartialEq, prost::Message)]
struct PutRequest {
    #[prost(bytes = "vec", tag = "1")]
    key: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    value: Vec<u8>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct PutResponse {}

struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

/// One round, or nothing where etcd is not installed.
pub(crate) async fn round(disk: &Path) -> Option<Round> {
    let directory = tempfile::tempdir_in(disk).unwrap();
    let (client, peer) = (free_port(), free_port());
    let url = |port| format!("http://127.0.0.1:{port}");
    let server = Command::new("etcd")
        .args(["--name", "bench", "--log-level", "error", "--data-dir"])
        .arg(directory.path())
        .args(["--listen-client-urls", &url(client)])
        .args(["--advertise-client-urls", &url(client)])
        .args(["--listen-peer-urls", &url(peer)])
        .args(["--initial-advertise-peer-urls", &url(peer)])
        .args(["--initial-cluster", &format!("bench={}", url(peer))])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    let _server = Server(server.ok()?);
    let endpoint = Endpoint::from_shared(url(client))
        .unwrap()
        .tcp_nodelay(true);
    let mut channels = Vec::new();
    for _ in 0..CONNECTIONS {
        channels.push(connect(&endpoint).await);
    }
    let mut writers = Vec::new();
    for at in 0..WRITERS {
        let channel = channels[at % CONNECTIONS].clone();
        writers.push(move || put(channel.clone(), format!("s{at}")));
    }
    Some(load(writers).await)
}

async fn connect(endpoint: &Endpoint) -> Channel {
    for _ in 0..200 {
        if let Ok(channel) = endpoint.connect().await {
            return channel;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("etcd does not listen");
}

async fn put(channel: Channel, key: String) {
    let request = PutRequest {
        key: key.into_bytes(),
        value: vec![b'x'; PAYLOAD_BYTES],
    };
    let mut client = Grpc::new(channel);
    for _ in 0..200 {
        client.ready().await.unwrap();
        let codec: ProstCodec<PutRequest, PutResponse> = ProstCodec::default();
        let path = http::uri::PathAndQuery::from_static("/etcdserverpb.KV/Put");
        match client
            .unary(tonic::Request::new(request.clone()), path, codec)
            .await
        {
            Ok(_) => return,
            // It has no leader yet: this is before the time that is counted.
            Err(status) if status.code() == tonic::Code::Unavailable => {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            Err(status) => panic!("{status}"),
        }
    }
    panic!("etcd does not answer");
}
