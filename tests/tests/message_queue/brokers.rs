//! Private brokers.

use std::fs;
use std::net::TcpListener;
use std::process::Command;

use message_queue::brokers::{Broker, Kind, Options};
use tests::{apply, run_program};

use crate::support::{BROKERS, Program, broker_test, eventually, url};

/// Returns the processes that name this port in their command line or environment, except our own
/// programs.
fn processes(port: &str) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let command = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let command = String::from_utf8_lossy(&command).replace('\0', " ");
        let environment = fs::read(entry.path().join("environ")).unwrap_or_default();
        let environment = String::from_utf8_lossy(&environment).into_owned();
        let ours = command.contains("message_queue-");
        let named = command.contains(port) || environment.contains(&format!("RABBITMQ_NODE_PORT={port}\0"));
        if named && !ours {
            found.push(command);
        }
    }
    found
}

fn free_port() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port().to_string()
}

/// Kills the owner with kill -9. It runs as this user and, if that is root, also as another one.
#[apply(broker_test!)]
#[alone]
async fn brokers_end_when_their_owner_ends() {
    let root = nix_user() == 0;
    for other_user in [false, true] {
        if other_user && !root {
            continue; // The first round was as an ordinary user.
        }
        let (rabbitmq, redis) = (free_port(), free_port());
        let ports = ["--rabbitmq-port", &rabbitmq, "--redis-port", &redis];
        // Another user may not be able to read the binary, so copy it.
        let folder = std::env::temp_dir().join(format!("mq-owner-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let copy = folder.join("message_queue-brokers");
        fs::copy(BROKERS, &copy).unwrap();
        let copy = copy.to_str().unwrap();
        let mut owner = if other_user {
            let user = ["--reuid=65534", "--regid=65534", "--clear-groups", copy];
            Program::start("setpriv", &[&user[..], &ports].concat())
        } else {
            Program::start(copy, &ports)
        };
        owner.shows("Ctrl-C stops both", 1).await;
        // The broker, its shell, and the watcher; for RabbitMQ also epmd.
        assert!(processes(&rabbitmq).len() >= 4, "{:?}", processes(&rabbitmq));
        assert!(processes(&redis).len() >= 2, "{:?}", processes(&redis));
        owner.kill().await;
        eventually("all are gone", async || processes(&rabbitmq).is_empty() && processes(&redis).is_empty())
            .await;
        fs::remove_dir_all(&folder).unwrap();
    }

    // Ctrl-C stops the broker, too.
    let redis = free_port();
    let mut owner = Program::start(BROKERS, &["--only", "redis", "--redis-port", &redis]);
    owner.shows("Ctrl-C stops it", 1).await;
    assert!(owner.stop().await.contains("stopping"));
    assert!(processes(&redis).is_empty());
}

fn nix_user() -> u32 {
    let output = Command::new("id").arg("-u").output().unwrap().stdout;
    String::from_utf8(output).unwrap().trim().parse().unwrap()
}

#[apply(broker_test!)]
async fn a_taken_port_is_reported() {
    let url = url(Kind::Redis);
    let port = url.rsplit(':').next().unwrap();
    let output = run_program(BROKERS, &["--only", "redis", "--redis-port", port]).await;
    assert_eq!((output.code, output.stdout.as_str()), (Some(1), ""));
    let expected = format!(
        "error: port {port} is taken, maybe by a Redis that is already running; pick another with --redis-port\n"
    );
    assert_eq!(output.stderr, expected);
    // The error shows the output of a broker that can't start.
    let settings = vec!["--no-such-option".to_owned()];
    let error = Broker::start(Kind::Redis, Options { settings, ..Options::default() }).unwrap_err();
    assert!(error.to_string().contains("no-such-option"), "{error}");
}
