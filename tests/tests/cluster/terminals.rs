//! `brokers --cluster` in one terminal, and its orders in another.

use std::fs;
use std::net::TcpListener;

use tests::{apply, run_program};

use crate::support::{BROKERS, Program, broker_test, eventually};

/// Returns the first of three free ports, none of them ephemeral.
fn free_ports(from: std::ops::Range<u16>) -> u16 {
    let free = |port: u16| (port..port + 3).all(|port| TcpListener::bind(("127.0.0.1", port)).is_ok());
    from.step_by(20).cycle().skip(std::process::id() as usize % 100).find(|port| free(*port)).unwrap()
}

/// Returns the processes whose command line or environment names one of these.
fn processes(marks: &[String]) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let read = |name| {
            String::from_utf8_lossy(&fs::read(entry.path().join(name)).unwrap_or_default()).into_owned()
        };
        let (command, environment) = (read("cmdline"), read("environ"));
        let ours = command.contains("cluster") || command.contains("message_queue-");
        if !ours && marks.iter().any(|mark| command.contains(mark) || environment.contains(mark)) {
            found.push(command);
        }
    }
    found
}

async fn order(ports: &[&str], order: &[&str]) -> String {
    let output = run_program(BROKERS, &[order, ports].concat()).await;
    output.stdout + &output.stderr
}

#[apply(broker_test!)]
async fn a_second_terminal_kills_freezes_and_starts_redis() {
    let (rabbitmq, redis) = (free_ports(20_000..24_000).to_string(), free_ports(8_000..11_000));
    let redis_port = redis.to_string();
    let ports = ["--rabbitmq-port", &rabbitmq, "--redis-port", &redis_port];
    let no_cluster = order(&ports, &["--kill", "r1"]).await;
    assert!(no_cluster.starts_with("error: no cluster is running; start one with"), "{no_cluster}");
    let mut cluster = Program::start(BROKERS, &[&["--cluster", "--only", "redis"][..], &ports].concat());
    cluster.shows("Ctrl-C stops all nodes", 1).await;
    assert_eq!(order(&ports, &["--kill", "r1"]).await, "r1 is killed\n");
    // It waits until the Sentinels have chosen another primary.
    assert_eq!(order(&ports, &["--start", "r1"]).await, "r1 is running again\n");
    assert_eq!(order(&ports, &["--start", "r1"]).await, "error: r1 is running\n");
    assert_eq!(order(&ports, &["--freeze", "r2", "--for", "1s"]).await, "r2 is frozen for 1s\n");
    let unknown = order(&ports, &["--kill", "n1"]).await;
    assert_eq!(unknown, "error: there is no node n1; use one of r1, r2, r3, s1, s2, s3\n");
    let marks: Vec<_> = (redis..redis + 3).map(|port| format!(":{port}")).collect();
    assert_eq!(processes(&marks).len(), 3, "{:?}", processes(&marks));
    assert!(cluster.stop().await.ends_with("r2 is frozen for 1s\nstopping\n"));
    assert_eq!(processes(&marks), Vec::<String>::new());
}

#[apply(broker_test!)]
#[slow]
#[alone]
async fn slow_test_nothing_is_left_of_a_cluster() {
    let (rabbitmq, redis) = (free_ports(20_000..24_000), free_ports(8_000..11_000).to_string());
    let rabbitmq_port = rabbitmq.to_string();
    let ports = ["--rabbitmq-port", &rabbitmq_port, "--redis-port", &redis];
    for killed in [false, true] {
        let mut cluster = Program::start(BROKERS, &[&["--cluster"][..], &ports].concat());
        cluster.shows("Ctrl-C stops all nodes", 1).await;
        let node = &processes(&[format!("RABBITMQ_NODE_PORT={rabbitmq}\0")]);
        assert!(!node.is_empty());
        // The nodes share a home, and so does `epmd`, whose folder is its working folder.
        let home = format!("rabbitmq-{}-", cluster.pid());
        assert_eq!(order(&ports, &["--kill", "n2"]).await, "n2 is killed\n");
        assert_eq!(order(&ports, &["--start", "n2"]).await, "n2 is running again\n");
        if killed {
            cluster.kill().await;
        } else {
            cluster.stop().await;
        }
        eventually("all processes are gone", async || processes(std::slice::from_ref(&home)).is_empty())
            .await;
        let folders = || fs::read_dir(std::env::temp_dir()).unwrap().flatten();
        let left = || folders().any(|folder| folder.file_name().to_string_lossy().starts_with(&home));
        eventually("all folders are gone", async || !left()).await;
    }
}
