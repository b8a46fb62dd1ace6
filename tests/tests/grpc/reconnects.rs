//! How the programs end, and how `watch` and `monitor` go on when a connection is lost.

use std::collections::HashMap;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex};

use futures::TryStreamExt;
use grpc::client::Event;
use grpc::proto::{Position, WatchResponse, watch_response};
use grpc::protocol::status::FELL_BEHIND;
use tests::{Server, apply, run_program, test};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::net::{TcpSocket, TcpStream};
use tokio::process::{Child, ChildStderr, ChildStdout, Command};
use tokio::sync::Notify;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use crate::calls::failure;
use crate::support::*;

/// A proxy that can cut its connections. It then drops new ones until it is opened again.
struct Gate {
    url: String,
    target: Arc<Mutex<Option<String>>>,
    cut: Arc<Notify>,
}

impl Gate {
    async fn to(server: &Server) -> Self {
        let (listener, url) = listen().await;
        let target = Arc::new(Mutex::new(Some(server.addr().to_owned())));
        let cut = Arc::new(Notify::new());
        let (current, cuts) = (target.clone(), cut.clone());
        tokio::spawn(async move {
            loop {
                let (mut near, _) = listener.accept().await.unwrap();
                let cuts = cuts.clone();
                let Some(addr) = current.lock().unwrap().clone() else { continue };
                tokio::spawn(async move {
                    let cut = cuts.notified();
                    let Ok(mut far) = TcpStream::connect(addr).await else { return };
                    tokio::select! {
                        _ = tokio::io::copy_bidirectional(&mut near, &mut far) => {}
                        () = cut => {}
                    }
                });
            }
        });
        Self { url, target, cut }
    }

    fn close(&self) {
        *self.target.lock().unwrap() = None;
        self.cut.notify_waiters();
    }

    fn open(&self, server: &Server) {
        *self.target.lock().unwrap() = Some(server.addr().to_owned());
    }
}

/// A program whose lines are read one by one.
struct Running {
    child: Child,
    stdout: Lines<BufReader<ChildStdout>>,
    stderr: Lines<BufReader<ChildStderr>>,
}

impl Running {
    fn start(program: &str, args: &[&str]) -> Self {
        let mut child = Command::new(program)
            .args(args)
            .env_remove("RUST_LOG")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap()).lines();
        let stderr = BufReader::new(child.stderr.take().unwrap()).lines();
        Self { child, stdout, stderr }
    }

    async fn says(&mut self, expected: &str) {
        assert_eq!(within(self.stdout.next_line()).await.unwrap().as_deref(), Some(expected));
    }

    async fn notes(&mut self, expected: &str) {
        assert_eq!(within(self.stderr.next_line()).await.unwrap().as_deref(), Some(expected));
    }

    /// Expects the line about a lost connection, whatever the reason.
    async fn notes_a_loss(&mut self) {
        let line = within(self.stderr.next_line()).await.unwrap().unwrap();
        assert!(line.starts_with("connection lost: ") && line.ends_with("; reconnecting"), "{line}");
    }

    async fn types(&mut self, line: &str) {
        self.child.stdin.as_mut().unwrap().write_all(line.as_bytes()).await.unwrap();
    }

    /// Sends a signal, such as `INT`.
    async fn signal(&self, name: &str) {
        let kill = format!("kill -s {name} {}", self.child.id().unwrap());
        assert_eq!(run_program("sh", &["-c", &kill]).await.code, Some(0), "{kill}");
    }

    async fn ends(&mut self) -> ExitStatus {
        within(self.child.wait()).await.unwrap()
    }
}

async fn record(server: &Server, count: usize, value: f64) {
    let client = client(server.url());
    let mut left = count;
    while left > 0 {
        let batch = left.min(10_000);
        client.record(&vec![reading("oslo-1", value); batch]).await.unwrap();
        left -= batch;
    }
}

fn line(sequence: u64, value: f64) -> String {
    format!("{sequence}: oslo-1 temperature {value} at 1767225600000")
}

#[apply(test!)]
async fn watch_says_what_was_missed() {
    let (server, other, empty) = (PAIR.serve().await, PAIR.serve().await, PAIR.serve().await);
    record(&server, 1, 1.0).await;
    let gate = Gate::to(&server).await;
    let mut watch = Running::start(PAIR.client, &["--url", &gate.url, "watch", "oslo-1", "--newest", "1"]);
    watch.says(&line(1, 1.0)).await;

    gate.close();
    watch.notes_a_loss().await;
    gate.open(&server);
    watch.notes("connected again; nothing was missed").await;
    record(&server, 1, 2.0).await;
    watch.says(&line(2, 2.0)).await;

    gate.close();
    watch.notes_a_loss().await;
    record(&server, 2, 3.0).await;
    gate.open(&server);
    watch.notes("connected again; here is what was missed").await;
    watch.says(&line(3, 3.0)).await;
    watch.says(&line(4, 3.0)).await;

    // The server keeps 100,000. Of the 100,007 readings after number 4, the first 7 are
    // gone.
    gate.close();
    watch.notes_a_loss().await;
    record(&server, 100_007, 4.0).await;
    gate.open(&server);
    watch.notes("connected again; 7 readings were missed").await;
    for sequence in 12..=100_011 {
        watch.says(&line(sequence, 4.0)).await;
    }

    // A new server knows nothing of the old one's readings.
    record(&other, 1, 5.0).await;
    gate.close();
    watch.notes_a_loss().await;
    gate.open(&other);
    watch.notes("connected again; the server restarted and has forgotten earlier readings").await;
    watch.says(&line(1, 5.0)).await;
    gate.close();
    watch.notes_a_loss().await;
    gate.open(&empty);
    watch.notes("connected again; the server restarted and has forgotten earlier readings").await;
    record(&empty, 2, 6.0).await;
    watch.says(&line(1, 6.0)).await;
    watch.says(&line(2, 6.0)).await;

    // A server that stops says so.
    gate.target.lock().unwrap().take();
    empty.stop().await;
    watch.notes("connection lost: the server is stopping; reconnecting").await;
    watch.signal("INT").await;
    assert_eq!(watch.ends().await.code(), None, "the first Ctrl-C did not end it");
    assert_eq!(within(watch.stderr.next_line()).await.unwrap(), None);
    server.stop().await;
    other.stop().await;
}

#[apply(test!)]
async fn a_watch_ends_when_reconnecting_cannot_help() {
    let server = PAIR.serve().await;
    record(&server, 1, 1.0).await;
    let gate = Gate::to(&server).await;
    // The deadline also applies while there is no connection.
    let args = ["--url", &gate.url, "watch", "oslo-1", "--newest", "1", "--deadline", "1"];
    let mut watch = Running::start(PAIR.client, &args);
    watch.says(&line(1, 1.0)).await;
    gate.close();
    watch.notes_a_loss().await;
    watch.notes("error: DEADLINE_EXCEEDED: the deadline passed").await;
    assert_eq!(watch.ends().await.code(), Some(1));

    gate.open(&server);
    let mut watch = Running::start(PAIR.client, &args[..6]);
    watch.says(&line(1, 1.0)).await;
    let strict = Server::start(PAIR.server, &["--addr", "127.0.0.1:0", "--token", "x"]).await;
    gate.close();
    watch.notes_a_loss().await;
    gate.open(&strict);
    let refused = "error: UNAUTHENTICATED: send the metadata \"authorization: Bearer TOKEN\" exactly once, \
                   with the server's token";
    watch.notes(refused).await;
    assert_eq!(watch.ends().await.code(), Some(1));
    server.stop().await;
    strict.stop().await;
}

#[apply(test!)]
async fn monitor_adds_its_thresholds_again_after_reconnecting() {
    let (server, empty) = (PAIR.serve().await, PAIR.serve().await);
    record(&server, 1, 1.0).await;
    let gate = Gate::to(&server).await;
    let mut monitor = Running::start(PAIR.client, &["--url", &gate.url, "monitor"]);
    monitor.types("add hot oslo-1 temperature above 30\nadd x oslo-1 wind above 30\nremove x\n").await;
    for said in ["added hot", "added x", "removed x"] {
        monitor.says(said).await;
    }
    gate.close();
    monitor.notes_a_loss().await;
    monitor.types("add cold oslo-1 temperature below 0\n").await;
    record(&server, 1, 31.0).await; // This alert is lost.
    gate.open(&server);
    monitor.notes("connected again; alerts for readings recorded in the meantime were missed").await;
    monitor.says("added cold").await;
    record(&server, 1, 32.0).await;
    monitor.says(&format!("alert hot: {}", line(3, 32.0))).await;
    record(&server, 1, -1.0).await;
    monitor.says(&format!("alert cold: {}", line(4, -1.0))).await;

    gate.close();
    monitor.notes_a_loss().await;
    gate.open(&empty);
    monitor.notes("connected again; alerts for readings recorded in the meantime were missed").await;
    for _ in ["hot", "cold"] {
        monitor.says("refused: add.station has no readings yet").await;
    }
    drop(monitor.child.stdin.take());
    assert_eq!(monitor.ends().await.code(), Some(0));
    assert_eq!(within(monitor.stderr.next_line()).await.unwrap(), None);
    server.stop().await;
    empty.stop().await;
}

#[apply(test!)]
async fn only_a_refused_connection_suggests_starting_a_server() {
    // A port that is bound, but on which nobody listens.
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let refused = format!("http://{}", socket.local_addr().unwrap());
    // A label of a host name has at most 63 characters (RFC 1035), so no name server is
    // asked.
    let no_host = format!("http://{}:1", "x".repeat(64));
    for (url, reason) in [
        (refused.as_str(), "; start one with: cargo run -p grpc --bin server\n"),
        (no_host.as_str(), ": failed to lookup address information"),
    ] {
        let client = run_program(PAIR.client, &["--url", url, "record", "oslo-1", "wind", "1"]).await;
        assert_eq!((client.code, client.stdout.as_str()), (Some(1), ""), "{url}");
        let expected = format!("error: no server at {url}{reason}");
        assert!(client.stderr.starts_with(&expected), "{}", client.stderr);
    }
}

/// As in `client … | head -1`, once `head` has read its line.
#[apply(test!)]
async fn every_command_ends_silently_when_nobody_reads_its_output() {
    let server = PAIR.serve().await;
    record(&server, 5, 1.0).await;
    let file = std::env::temp_dir().join(format!("weather-pipe-{}.csv", std::process::id()));
    std::fs::write(&file, "oslo-1,temperature,1.5,1\noslo-1,wind,500,2\n").unwrap();
    for args in [
        &[][..],
        &["record", "oslo-1", "temperature", "1"],
        &["watch", "oslo-1", "--newest", "5"],
        &["upload", file.to_str().unwrap()],
        &["monitor"],
    ] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut client = Command::new(PAIR.client)
            .args(args)
            .args(["--url", server.url()])
            .stdin(Stdio::piped())
            .stdout(writer)
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut stdin = client.stdin.take().unwrap();
        stdin.write_all(b"add hot oslo-1 temperature above 30\n").await.unwrap();
        let ended = within(client.wait_with_output()).await.unwrap();
        assert_eq!(
            (ended.status.code(), String::from_utf8_lossy(&ended.stderr).as_ref()),
            (Some(0), ""),
            "{args:?}"
        );
    }
    std::fs::remove_file(&file).unwrap();
    server.stop().await;
}

#[apply(test!)]
async fn a_second_signal_ends_the_server_at_once() {
    for (first, second) in [("INT", "INT"), ("TERM", "INT"), ("INT", "TERM")] {
        let mut server = Running::start(PAIR.server, &["--addr", "127.0.0.1:0"]);
        let listening = within(server.stdout.next_line()).await.unwrap().unwrap();
        let connection = connect(listening.strip_prefix("listening on http://").unwrap()).await;
        // Half a request keeps the server from stopping.
        let (_response, mut send) = open(&connection, RECORD, &[]).await;
        let mut request = record_one();
        send.send_data(request.split_to(10), false).unwrap();
        assert_eq!(unary(&connection, RECORD, &[], record_one()).await.code(), "0");
        server.signal(first).await;
        loop {
            let line = within(server.stderr.next_line()).await.unwrap().unwrap();
            if line.contains("stopping: ") {
                break;
            }
        }
        server.signal(second).await;
        assert_eq!(server.ends().await.code(), Some(130), "{first} {second}");
    }
}

/// The readings are numbered from 1, so a server that names 0 as the oldest one is broken.
#[apply(test!)]
async fn a_watch_ends_if_the_server_names_an_impossible_reading() {
    let (listener, url) = listen().await;
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let mut connection = h2::server::handshake(stream).await.unwrap();
        let mut streams = Vec::new();
        while let Some(Ok((_request, mut respond))) = connection.accept().await {
            if streams.len() < 2 {
                let mut body = respond.send_response(response_headers(), false).unwrap();
                let position = Position { sequence: 5, ..Position::default() };
                let started = WatchResponse { event: Some(watch_response::Event::Started(position)) };
                body.send_data(prefixed(&started), false).unwrap();
                if streams.is_empty() {
                    body.send_trailers(status_trailers("14")).unwrap();
                }
                streams.push(body);
                continue;
            }
            let metadata = HashMap::from([("oldest".to_owned(), "0".to_owned())]);
            let details = ErrorDetails::with_error_info(FELL_BEHIND, "weather.v1", metadata);
            let status = Status::with_error_details(Code::OutOfRange, "too old", details);
            let mut response = response_headers();
            status.add_header(response.headers_mut()).unwrap();
            respond.send_response(response, true).unwrap();
        }
    });
    let mut watching = within(client(&url).watch("oslo-1", None, None)).await.unwrap();
    let lost = within(watching.try_next()).await.unwrap();
    assert!(matches!(lost, Some(Event::Disconnected(_))), "{lost:?}");
    assert_eq!(failure(within(watching.try_next()).await).code, Code::OutOfRange);
}
