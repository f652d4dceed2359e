//! Plain text that others could read needs a word: at a start, and where a config is checked.

use crate::stage::program::{Server, json_of, orchestrator};

#[test]
fn plain_text_beyond_this_machine_is_refused_unless_it_is_allowed() {
    let data = tempfile::tempdir().unwrap();
    let serve = |more: &[&str]| {
        let mut command = orchestrator(&["serve", "--listen", "0.0.0.0:0"]);
        command.args(more).env("XDG_DATA_HOME", data.path());
        command
    };
    let refused = serve(&[]).output().unwrap();
    let told = String::from_utf8_lossy(&refused.stderr);
    assert_eq!(refused.status.code(), Some(2), "{told}");
    for part in [
        "0.0.0.0:0 can be reached from other machines",
        "--allow-plaintext",
        "tls",
    ] {
        assert!(told.contains(part), "{told}");
    }
    let server = Server::start(&["--listen", "0.0.0.0:0", "--allow-plaintext"]);
    let port = server.address.rsplit_once(':').unwrap().1;
    let here = format!("127.0.0.1:{port}");
    let health = orchestrator(&["health", "--server", &here])
        .output()
        .unwrap();
    assert_eq!(health.status.code(), Some(0), "{health:?}");
}

#[test]
fn a_config_that_serve_would_refuse_is_refused_by_its_check_and_says_where() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("c.json");
    let path = path.to_str().unwrap();
    let run = |arguments: &[&str], more: &[&str]| {
        let output = orchestrator(arguments).args(more).output().unwrap();
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.code(), told)
    };
    let (check, serve) = (["config", "check", path], ["serve", "--config", path]);
    std::fs::write(path, r#"{"instances": [], "listen": "0.0.0.0:0"}"#).unwrap();
    let (code, told) = run(&check, &[]);
    assert_eq!(code, Some(2), "{told}");
    assert!(
        told.contains("c.json:1:29: listen: 0.0.0.0:0 can be reached"),
        "{told}"
    );
    let mistake = |told: &str| told.lines().nth(1).map(str::to_owned);
    let (serve_code, serve_told) = run(&serve, &[]);
    assert_eq!(
        (serve_code, mistake(&serve_told)),
        (code, mistake(&told)),
        "serve says the same"
    );
    // What serve will be told beside it is taken into account.
    assert_eq!(run(&check, &["--allow-plaintext"]).0, Some(0));
    assert_eq!(run(&check, &["--listen", "127.0.0.1:0"]).0, Some(0));
    std::fs::write(path, r#"{"instances": []}"#).unwrap();
    let (code, told) = run(&check, &["--listen", "0.0.0.0:0"]);
    assert_eq!(code, Some(2), "{told}");
    assert_eq!(run(&serve, &["--listen", "0.0.0.0:0"]), (code, told));
    let told = orchestrator(&check)
        .args(["--listen", "0.0.0.0:0", "--output", "json"])
        .output()
        .unwrap();
    let mistakes = &json_of(&told)["mistakes"];
    assert_eq!(mistakes[0]["path"], "--listen", "{mistakes}");
}
