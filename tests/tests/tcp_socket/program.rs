//! Tests of what all programs share: signals, output, and logs. Also tests of `watch`, which
//! continues after a lost connection or a restart of the server.

use std::process::{ExitCode, Stdio};
use std::sync::Arc;

use tcp_socket::base::program;
use tcp_socket::protocol::frame::kind;
use tests::signal::{Pid, Signal, kill};
use tests::{Server, apply, run_program, test};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, ChildStderr, ChildStdout, Command};
use tokio::sync::Notify;

use crate::PAIR;
use crate::support::{Raw, frame, within};

/// If this variable is set, the test program logs its value instead of running tests.
pub const LOG_THIS: &str = "LOG_THIS";

/// Logs `text` as a message and as fields.
pub fn log_this(text: &str) -> ExitCode {
    program::start_logs("info").unwrap();
    tracing::info!("message {text}");
    tracing::info!(text, shown = %text, debug = ?text, "fields");
    ExitCode::SUCCESS
}

#[apply(test!)]
async fn text_from_outside_cannot_forge_a_log_line() {
    for text in ["\x1b[2J", "a\rb", "\n2026-01-01T00:00:00Z  INFO forged", "\u{202e}", "\u{9b}31m", "\x07"] {
        let child = Command::new(std::env::current_exe().unwrap()).env(LOG_THIS, text).output();
        let logged = String::from_utf8(within(child).await.unwrap().stderr).unwrap();
        assert_eq!(logged.lines().count(), 2, "{logged:?}");
        assert_eq!(logged.matches("message").count(), 1, "{logged:?}");
        let raw = |c: char| c != '\n' && (c.is_control() || c == '\u{202e}');
        assert!(!logged.contains(raw), "{logged:?}");
    }
}

fn spawn(program: &str, args: &[&str]) -> Child {
    let mut command = Command::new(program);
    command.args(args).env_remove("RUST_LOG").stdin(Stdio::null()).kill_on_drop(true);
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

fn signal(child: &Child, signal: Signal) {
    kill(Pid::from_raw(child.id().unwrap().cast_signed()), signal).unwrap();
}

/// Starts a server. Returns it, its address, and the lines of its stderr.
async fn server() -> (Child, String, Lines<BufReader<ChildStderr>>) {
    let mut server = spawn(PAIR.server, &["--addr", "127.0.0.1:0"]);
    let listening = within(lines(server.stdout.take()).next_line()).await.unwrap().unwrap();
    let addr = listening.strip_prefix("listening on tcp://").unwrap().to_owned();
    let log = BufReader::new(server.stderr.take().unwrap()).lines();
    (server, addr, log)
}

fn lines(stdout: Option<ChildStdout>) -> Lines<BufReader<ChildStdout>> {
    BufReader::new(stdout.unwrap()).lines()
}

/// Returns the next line that contains `text`.
async fn line_with(lines: &mut Lines<BufReader<ChildStderr>>, text: &str) -> String {
    within(async {
        loop {
            let line = lines.next_line().await.unwrap().unwrap_or_else(|| panic!("no line with {text:?}"));
            if line.contains(text) {
                return line;
            }
        }
    })
    .await
}

#[apply(test!)]
async fn a_second_signal_ends_a_draining_server_at_once() {
    for (first, second) in [
        (Signal::SIGINT, Signal::SIGINT),
        (Signal::SIGTERM, Signal::SIGINT),
        (Signal::SIGINT, Signal::SIGTERM),
    ] {
        let (mut server, addr, mut log) = server().await;
        // This connection cannot be drained: it sends requests and reads no responses.
        let mut raw = Raw::open(&addr).await;
        let pings = frame(kind::PING, 1, b"").repeat(10_000);
        let full = async { while raw.stream.write_all(&pings).await.is_ok() {} };
        let stuck = tokio::time::timeout(std::time::Duration::from_secs(2), full).await;
        assert!(stuck.is_err(), "the server read everything");
        signal(&server, first);
        line_with(&mut log, "stopping").await;
        signal(&server, second);
        let status = within(server.wait()).await.unwrap();
        assert_eq!(status.code(), Some(130), "{first:?} {second:?}");
    }
}

#[apply(test!)]
async fn every_command_ends_silently_when_nobody_reads_its_output() {
    let server = PAIR.serve().await;
    PAIR.client(&server, &["record", "oslo-1", "wind", "1"]).await;
    for command in [
        &[][..],
        &["record", "oslo-1", "wind", "2"],
        &["ping", "--count", "3"],
        &["flood", "--requests", "10"],
        &["watch", "oslo-1"],
        &["--help"],
    ] {
        let mut client = spawn(PAIR.client, &[command, &["--url", server.url()]].concat());
        drop(client.stdout.take());
        let mut log = BufReader::new(client.stderr.take().unwrap()).lines();
        if command.first() == Some(&"watch") {
            line_with(&mut log, "watching").await;
            PAIR.client(&server, &["record", "oslo-1", "wind", "3"]).await;
        }
        let mut said = String::new();
        while let Some(line) = within(log.next_line()).await.unwrap() {
            said.push_str(&line);
        }
        assert_eq!(said, "", "{command:?}");
        assert_eq!(within(client.wait()).await.unwrap().code(), Some(0), "{command:?}");
    }
    server.stop().await;
}

#[apply(test!)]
async fn a_program_does_not_panic_when_nobody_reads_its_errors() {
    // A server continues to serve, although it can't write any of its log lines.
    let (mut server, addr, log) = server().await;
    drop(log);
    for _ in 0..3 {
        Raw::open(&addr).await.assert_alive().await;
    }
    signal(&server, Signal::SIGTERM);
    assert_eq!(within(server.wait()).await.unwrap().code(), Some(0));
    // A client ends with the exit code of an error.
    for command in [&[][..], &["ping"], &["watch", "oslo-1"]] {
        let mut client = spawn(PAIR.client, &[command, &["--url", &addr]].concat());
        drop(client.stderr.take());
        assert_eq!(within(client.wait()).await.unwrap().code(), Some(1), "{command:?}");
    }
}

/// Starts a proxy in front of a server. It closes all its connections when it is notified.
async fn cuttable(server: String) -> (String, Arc<Notify>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (addr, cut) = (listener.local_addr().unwrap().to_string(), Arc::new(Notify::new()));
    let cut_now = cut.clone();
    tokio::spawn(async move {
        loop {
            let (mut client, _) = listener.accept().await.unwrap();
            let (server, cut) = (server.clone(), cut_now.clone());
            tokio::spawn(async move {
                let mut server = TcpStream::connect(server).await.unwrap();
                tokio::select! {
                    _ = tokio::io::copy_bidirectional(&mut client, &mut server) => {}
                    () = cut.notified() => {}
                }
            });
        }
    });
    (addr, cut)
}

/// Starts a client that watches. Returns it, and the lines of its stdout and its stderr.
async fn watching(url: &str) -> (Child, Lines<BufReader<ChildStdout>>, Lines<BufReader<ChildStderr>>) {
    let mut client = spawn(PAIR.client, &["watch", "oslo-1", "--url", url]);
    let out = lines(client.stdout.take());
    let mut notes = BufReader::new(client.stderr.take().unwrap()).lines();
    line_with(&mut notes, "watching oslo-1").await;
    (client, out, notes)
}

#[apply(test!)]
async fn a_watch_reconnects_after_a_lost_connection_and_says_what_was_missed() {
    let server = PAIR.serve().await;
    let record = async |value| drop(PAIR.client(&server, &["record", "oslo-1", "wind", value]).await);
    record("1").await;
    let (addr, cut) = cuttable(server.addr().to_owned()).await;
    let (_client, mut out, mut notes) = watching(&addr).await;
    for value in ["2", "3"] {
        cut.notify_waiters();
        let lost = within(notes.next_line()).await.unwrap().unwrap();
        assert!(lost.starts_with("connection lost: ") && lost.ends_with("; reconnecting"), "{lost}");
        let again = within(notes.next_line()).await.unwrap().unwrap();
        assert_eq!(again, "connected again; readings recorded in the meantime were missed");
        // This test can't see when the new watch begins, so it records until a reading is shown.
        let shown = tokio::select! {
            shown = out.next_line() => shown.unwrap().unwrap(),
            () = async { loop { record(value).await } } => unreachable!(),
        };
        assert!(
            shown.starts_with(&format!("wind {value} at ")) || shown.starts_with("wind 2 at "),
            "{shown}"
        );
    }
    server.stop().await;
}

#[apply(test!)]
async fn a_client_that_closes_its_connection_does_not_log_that_it_reconnects() {
    let server = PAIR.serve().await;
    let mut client = Command::new(PAIR.client);
    client.args(["ping", "--count", "1", "--url", server.url()]).env("RUST_LOG", "tcp_socket=debug");
    let output = within(client.output()).await.unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(String::from_utf8(output.stderr).unwrap(), "");
    server.stop().await;
}

#[apply(test!)]
async fn a_watch_survives_a_restart_of_its_server() {
    for kill_it in [false, true] {
        let first = PAIR.serve().await;
        let addr = first.addr().to_owned();
        PAIR.client(&first, &["record", "oslo-1", "wind", "1"]).await;
        let (mut client, mut out, mut notes) = watching(&addr).await;
        if kill_it {
            kill(Pid::from_raw(first.pid().cast_signed()), Signal::SIGKILL).unwrap();
        } else {
            first.terminate();
        }
        let lost = within(notes.next_line()).await.unwrap().unwrap();
        assert!(lost.starts_with("connection lost: ") && lost.ends_with("; reconnecting"), "{lost}");
        assert_eq!(lost.contains("goodbye"), !kill_it, "{lost}");
        within(async {
            while TcpStream::connect(&addr).await.is_ok() {
                tokio::task::yield_now().await;
            }
        })
        .await;
        let second = Server::start(PAIR.server, &["--addr", &addr]).await;
        let again = within(notes.next_line()).await.unwrap().unwrap();
        assert_eq!(again, "connected again; the server restarted and has forgotten earlier readings");
        let shown = tokio::select! {
            shown = out.next_line() => shown.unwrap().unwrap(),
            () = async { loop { PAIR.client(&second, &["record", "oslo-1", "wind", "2"]).await; } } => unreachable!(),
        };
        assert!(shown.starts_with("wind 2 at "), "{shown}");
        client.kill().await.unwrap();
        let mut rest = String::new();
        notes.into_inner().read_to_string(&mut rest).await.unwrap();
        assert_eq!(rest, "", "there were further lines");
        second.stop().await;
    }
}

#[apply(test!)]
async fn the_hint_to_start_a_server_appears_only_when_the_connection_is_refused() {
    // A label of a host name has at most 63 characters (RFC 1035), so no name server is asked.
    let host = "x".repeat(64);
    let (address, at_port_1) = (format!("tcp://{host}:1"), format!("error: no server at tcp://{host}:1: "));
    let at_7878 = format!("error: no server at tcp://{host}:7878: ");
    for (url, expected) in [
        (address.as_str(), at_port_1.as_str()),
        (&host, &at_7878),
        ("tcp://host:port", "error: \"tcp://host:port\" is not of the form tcp://host:port"),
        ("host:99999", "error: \"host:99999\" is not of the form tcp://host:port"),
    ] {
        for command in [&[][..], &["ping"]] {
            let client = run_program(PAIR.client, &[command, &["--url", url]].concat()).await;
            assert_eq!((client.code, client.stdout.as_str()), (Some(1), ""), "{url}");
            assert!(client.stderr.starts_with(expected), "{}", client.stderr);
            assert!(!client.stderr.contains("start one with"), "{}", client.stderr);
        }
    }
}

#[apply(test!)]
async fn the_tour_waits_for_enter_before_each_step() {
    let server = PAIR.serve().await;
    let mut command = Command::new(PAIR.client);
    command.args(["--step", "--url", server.url()]).kill_on_drop(true);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut client = command.spawn().unwrap();
    let (mut keyboard, mut screen) = (client.stdin.take().unwrap(), lines(client.stdout.take()));
    let mut prompts = BufReader::new(client.stderr.take().unwrap());
    for step in 1..=9 {
        if step > 1 {
            within(prompts.read_until(b')', &mut Vec::new())).await.unwrap();
            keyboard.write_all(b"\n").await.unwrap();
        }
        while !within(screen.next_line()).await.unwrap().unwrap().starts_with(&format!("{step}. ")) {}
    }
    drop(keyboard); // At the end of the input, the tour no longer waits.
    while within(screen.next_line()).await.unwrap().is_some() {}
    assert_eq!(within(client.wait()).await.unwrap().code(), Some(0));
    server.stop().await;
}
