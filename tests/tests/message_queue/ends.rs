//! How programs end, and how a subscriber survives the end of its broker.

use std::process::Stdio;

use futures::future::join_all;
use message_queue::brokers::{Broker, Options};
use tests::{apply, run_program};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::process::Command;
use tokio::time::timeout;

use crate::PAIR;
use crate::support::{BOTH, CONSUMER, Folder, LONG, PRODUCER, Program, broker_test, name, prefix, url};

/// Stdout is closed after the first line, as in `consumer | head -1`.
#[apply(broker_test!)]
async fn a_closed_stdout_ends_every_command_silently() {
    for kind in BOTH {
        let (url, prefix, folder) = (url(kind), prefix(), Folder::new());
        let ours = ["--broker", name(kind), "--url", &url, "--prefix", &prefix];
        let results = ["--results", folder.path()];
        let jobs = ["--count", "2000", "--poison", "2"];
        run_program(PRODUCER, &[&ours[..], &jobs].concat()).await;
        let commands: [(&str, &[&str]); 4] = [
            (PRODUCER, &["--count", "5000"]),
            (CONSUMER, &results),
            (CONSUMER, &["subscribe"]),
            (PAIR.client, &[]),
        ];
        let server = Program::start(PAIR.server, &ours);
        for (program, args) in commands {
            let mut child = Command::new(program)
                .args([&ours[..], args].concat())
                .stdin(Stdio::null())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .kill_on_drop(true)
                .spawn()
                .unwrap();
            let mut first = String::new();
            let mut stdout = BufReader::new(child.stdout.take().unwrap());
            stdout.read_line(&mut first).await.unwrap();
            drop(stdout);
            let ended = async {
                // A subscriber notices the closed stdout only when it has something to print.
                while child.try_wait().unwrap().is_none() {
                    let publish = ["publish", "oslo-1", "wind", "1"];
                    run_program(PRODUCER, &[&ours[..], &publish].concat()).await;
                }
            };
            assert!(timeout(LONG, ended).await.is_ok(), "{program} {args:?} did not end");
            let mut errors = String::new();
            child.stderr.take().unwrap().read_to_string(&mut errors).await.unwrap();
            assert_eq!(child.wait().await.unwrap().code(), Some(0), "{program} {args:?}: {errors}");
            let silent = !errors.contains("error") && !errors.contains("panicked");
            assert!(silent, "{program} {args:?}: {errors}");
        }
        drop(server);
    }
}

/// The broker stops, and starts again after a while.
#[apply(broker_test!)]
#[long]
async fn a_subscriber_survives_a_restart_of_its_broker() {
    join_all(BOTH.map(async |kind| {
        let mut broker = Broker::start(kind, Options::default()).unwrap();
        let (url, prefix) = (broker.url(), prefix());
        let ours = ["--broker", name(kind), "--url", &url, "--prefix", &prefix];
        let publish = ["publish", "oslo-1", "wind", "7"];
        let mut subscriber = Program::start(CONSUMER, &[&ours[..], &["subscribe"]].concat());
        subscriber.shows("subscribed to", 1).await;
        let mut server = Program::start(PAIR.server, &ours);
        server.shows("connected to", 1).await;
        broker.stop();
        subscriber.shows("connection lost: ", 1).await;
        // Several attempts fail.
        server.shows("connecting again", 5).await;
        broker.restart().unwrap();
        subscriber.shows("connected again; readings published in the meantime are lost", 1).await;
        run_program(PRODUCER, &[&ours[..], &publish].concat()).await;
        subscriber.shows("oslo-1", 1).await;
        let printed = subscriber.stop().await;
        let lines: Vec<&str> = printed.lines().collect();
        assert_eq!(lines.len(), 4, "{printed}");
        assert!(
            lines[1].starts_with("connection lost: ") && lines[1].ends_with("; reconnecting"),
            "{printed}"
        );
        server.stop().await;
    }))
    .await;
}
