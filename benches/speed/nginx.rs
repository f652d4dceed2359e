//! nginx as a gRPC proxy in front of the one instance: what people use who need a proxy and nothing more.

use std::fs;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::process::Process;

/// Starts nginx with its files in `folder`; `None` when it is not installed.
pub(crate) fn start(instance: SocketAddr, folder: &Path) -> Option<Process> {
    let address = free_port();
    let conf = folder.join("nginx.conf");
    fs::write(&conf, configuration(instance, address, folder)).unwrap();
    let child = Command::new("nginx")
        .arg("-p")
        .arg(folder)
        .arg("-c")
        .arg(&conf)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .ok()?;
    let process = Process::other(child, address);
    for _ in 0..100 {
        if TcpStream::connect(address).is_ok() {
            return Some(process);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    panic!("nginx does not listen: see {}", folder.display());
}

/// nginx wants a number; nobody else takes this one in the moment between.
fn free_port() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap()
}

/// One process with one event loop, no access log, connections to the instance kept open and never recycled:
/// the cheapest nginx there is.
fn configuration(instance: SocketAddr, address: SocketAddr, folder: &Path) -> String {
    let folder = folder.display();
    format!(
        "daemon off; master_process off; worker_processes 1;
pid {folder}/nginx.pid; error_log {folder}/error.log error;
events {{ worker_connections 1024; }}
http {{
  access_log off; tcp_nodelay on; server_tokens off;
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
  keepalive_requests 1000000000; client_body_buffer_size 64k;
  upstream instance {{
    server {instance}; keepalive 128; keepalive_requests 1000000000; keepalive_timeout 600s;
  }}
  server {{
    listen {address} http2; http2_max_concurrent_streams 1000;
    location / {{ grpc_pass grpc://instance; grpc_buffer_size 64k; }}
  }}
}}
"
    )
}
