//! The program where something is missing that it usually has: descriptors, somebody who takes its log.

use std::process::{Command, Stdio};

use crate::stage::program::{Server, json_of};

#[test]
fn a_server_out_of_descriptors_goes_on_once_there_are_some() {
    // Eight built-in instances need a few dozen; the rest is for callers.
    let server = Server::start(&[]);
    let pid = server.child.id().to_string();
    let limited = Command::new("prlimit")
        .args(["--pid", &pid, "--nofile=70:70"])
        .status()
        .unwrap();
    assert!(limited.success());
    let peers: Vec<_> = (0..100)
        .filter_map(|_| std::net::TcpStream::connect(&server.address).ok())
        .collect();
    assert!(
        50 < peers.len(),
        "the kernel still takes connections: {}",
        peers.len()
    );
    drop(peers);
    let health = server.run(&["health", "--timeout", "20s"]);
    assert_eq!(health.status.code(), Some(0), "{health:?}");
    assert_eq!(server.stop().0, Some(0));
}

#[test]
fn a_log_that_takes_nothing_any_more_harms_no_call() {
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full");
    for log in [Stdio::from(full.unwrap()), Stdio::piped()] {
        let mut server = Server::start_with_log(log);
        // Whoever read the log has left.
        drop(server.child.stderr.take());
        for _ in 0..2 {
            let fails = r#"{"_builtin": {"fail": "ABORTED"}}"#;
            let logged = server.run(&["route", "--instances", "A", "--payload", fails]);
            assert_eq!(json_of(&logged)["error"]["code"], "instance_failed");
        }
        assert_eq!(server.stop().0, Some(0));
    }
}
