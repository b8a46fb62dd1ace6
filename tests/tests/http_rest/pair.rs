//! Runs the server and client programs themselves.

use std::net::SocketAddr;
use std::process::Stdio;
use std::sync::{Arc, Mutex};

use http_rest::{Limits, Metric, Reading};
use tests::signal::{Pid, Signal, kill};
use tests::{Server, apply, assert_same, expected_output, limit_fields, run_program, test};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, Command};
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::PAIR;
use crate::raw::{JSON, Local, SOON, batch, half_sent, request, until};

#[apply(test!)]
async fn the_pair_prints_what_the_readme_shows() {
    let server = PAIR.serve().await;
    let client = PAIR.client(&server, &[]).await;
    assert_eq!(client.code, Some(0), "{}", client.stderr);
    assert_same(&client.stdout, include_str!("tour.txt"));
    // The README shows parts of it: a line `...` stands for any number of lines.
    assert_same(
        &client.stdout,
        &expected_output("http_rest/README.md", "cargo run -p http_rest --bin client"),
    );
    let printed = server.stop().await;
    assert_same(&printed, &expected_output("http_rest/README.md", "cargo run -p http_rest --bin server"));
}

#[apply(test!)]
async fn the_minimal_example_prints_what_the_readme_shows() {
    let output = run_program(env!("CARGO_BIN_EXE_http_rest-minimal"), &[]).await;
    assert_eq!((output.code, output.stderr.as_str()), (Some(0), ""));
    assert_same(
        &output.stdout,
        &expected_output("http_rest/README.md", "cargo run -p http_rest --example minimal"),
    );
}

#[apply(test!)]
async fn a_client_without_a_server_says_how_to_start_one() {
    PAIR.client_says_how_to_start_a_server("http", &[&[], &["stations", "list"]]).await;
}

#[apply(test!)]
async fn a_server_whose_port_is_taken_says_how_to_pick_another() {
    PAIR.server_says_how_to_pick_another_port().await;
}

#[apply(test!)]
async fn every_limit_is_an_option_of_the_server() {
    let limits = format!("{:?}", Limits::default());
    let fields = limit_fields(&limits);
    assert!(fields.len() >= 14, "{fields:?}");
    let help = run_program(PAIR.server, &["--help"]).await.stdout;
    for (field, _) in fields {
        assert!(help.contains(&format!("--{} <", field.replace('_', "-"))), "{field}: {help}");
    }

    let server =
        Server::start(PAIR.server, &["--addr", "127.0.0.1:0", "--max-body", "10", "--key-lifetime", "7"])
            .await;
    let refused = request(server.addr().parse().unwrap(), "POST", "/readings", &[JSON], &batch("a", 1)).await;
    assert_eq!(refused.status, 413);
    server.stop().await;
    for wrong in ["-1", "x", "1e9", "99999999999999999999"] {
        for option in ["--max-connections", "--drain-timeout", "--linger-bytes"] {
            let output =
                run_program(PAIR.server, &["--addr", "127.0.0.1:0", &format!("{option}={wrong}")]).await;
            assert_eq!(output.code, Some(2), "{option} {wrong}: {output:?}");
        }
    }
}

#[apply(test!)]
async fn the_client_refuses_an_address_of_another_protocol() {
    PAIR.client_refuses_another_protocol("http", &[&[], &["stations", "list"]]).await;
}

#[apply(test!)]
async fn each_subcommand_does_one_thing() {
    let server = PAIR.serve().await;
    let steps: [(&[&str], &str); 9] = [
        (
            &["stations", "create", "rim", "Rim", "--latitude", "-1.5"],
            r#"{"id":"rim","name":"Rim","latitude":-1.5,"longitude":null}"#,
        ),
        (&["record", "rim", "temperature", "-3.5"], "accepted 1"),
        (&["record", "rim", "wind", "2"], "accepted 1"),
        (&["readings", "rim", "--limit", "1"], r#"{"station":"rim","metric":"wind","value":2.0,"#),
        (
            &["readings", "rim", "--metric", "temperature"],
            r#"{"station":"rim","metric":"temperature","value":-3.5,"#,
        ),
        (
            &["stations", "update", "rim", "--name", "Edge"],
            r#"{"id":"rim","name":"Edge","latitude":-1.5,"longitude":null}"#,
        ),
        (&["stations", "get", "rim"], r#"{"id":"rim","name":"Edge","latitude":-1.5,"longitude":null}"#),
        (&["stations", "list"], r#"{"id":"rim","name":"Edge","latitude":-1.5,"longitude":null}"#),
        (&["stations", "delete", "rim"], "deleted"),
    ];
    for (args, expected) in steps {
        let client = PAIR.client(&server, args).await;
        assert_eq!(client.code, Some(0), "{args:?}: {}", client.stderr);
        assert!(client.stdout.starts_with(expected), "{args:?}: {}", client.stdout);
    }
    let gone = PAIR.client(&server, &["stations", "get", "rim"]).await;
    assert_eq!(gone.code, Some(1));
    assert_eq!(gone.stderr, "error: 404 Not Found: no station \"rim\"\n");
    server.stop().await;
}

/// Starts a server that sends this response to each request, and returns its address.
async fn responding_with(response: String) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            until(&mut stream, "\r\n\r\n").await;
            stream.write_all(response.as_bytes()).await.unwrap();
        }
    });
    url
}

#[apply(test!)]
async fn text_from_outside_cannot_control_the_terminal() {
    // An escape sequence, a bell, CR and LF, a C1 control, a bidirectional override, and an
    // invisible character.
    let evil = "\u{1b}[2J\u{7}\r\n\u{9b}31m\u{202e}\u{200b}x";
    let json = serde_json::to_string(evil).unwrap();
    let station = format!(r#"{{"id":"a","name":{json},"latitude":null,"longitude":null}}"#);
    let build = |status: &str, media_type: &str, headers: &str, body: &str| {
        let length = body.len();
        format!(
            "HTTP/1.1 {status}\r\ncontent-type: {media_type}\r\n{headers}content-length: {length}\r\nconnection: close\r\n\r\n{body}"
        )
    };
    let problem = format!(
        r##"{{"type":{json},"title":{json},"status":404,"detail":{json},"errors":[{{"pointer":{json},"detail":{json}}}]}}"##
    );
    let list = format!(r#"{{"stations":[{station}]}}"#);
    let bare = "\u{9b}31m\u{202e}x\u{200b}";
    for (response, code) in [
        (build("404 Not Found", "application/problem+json", "", &problem), 1),
        (build("404 Not Found", "text/html", "", evil), 1),
        (build("200 OK", "application/json", "etag: \"1\"\r\n", evil), 1),
        (build("307 Temporary Redirect", "text/html", &format!("location: http://{bare}/\r\n"), ""), 1),
        (build("200 OK", "application/json", "etag: \"1\"\r\n", &station), 0),
        (build("200 OK", "application/json", "", &list), 0),
    ] {
        let url = responding_with(response.clone()).await;
        let args: &[&str] =
            if response.contains("stations") { &["stations", "list"] } else { &["stations", "get", "a"] };
        let client = run_program(PAIR.client, &[args, &["--url", &url]].concat()).await;
        assert_eq!(client.code, Some(code), "{response:?}: {client:?}");
        let shown = client.stdout + &client.stderr;
        assert!(
            !shown.contains(|c: char| evil.contains(c) && c != 'x' && c != '\n' && !c.is_ascii_graphic()),
            "{shown:?}"
        );
        assert!(shown.contains("\\u202e") && shown.lines().count() <= 2, "{shown}");
    }

    // Text from a client can't control the terminal through the server's log, either.
    let server = PAIR.serve().await;
    let mut stream = TcpStream::connect(server.addr()).await.unwrap();
    stream
        .write_all(b"GET /\xc2\x9b31m\xe2\x80\xae HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
        .await
        .unwrap();
    stream.read_to_end(&mut Vec::new()).await.unwrap();
    let printed = server.stop().await;
    assert!(!printed.contains(['\u{9b}', '\u{202e}']), "{printed:?}");
}

#[apply(test!)]
async fn a_client_whose_output_is_closed_ends_silently() {
    let server = Local::start(Limits::default()).await;
    request(server.addr, "POST", "/readings", &[JSON], &batch("a", 10_000)).await;
    let url = server.url();
    for args in [["readings", "a", "--limit", "10000"].as_slice(), &["watch"]] {
        let mut client = Command::new(PAIR.client)
            .args(args)
            .args(["--url", &url])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(client.stdout.take().unwrap());
        let mut ended = Box::pin(client.wait_with_output());
        let first = async {
            let mut line = String::new();
            lines.read_line(&mut line).await.unwrap();
            drop(lines);
            assert!(line.contains("\"station\":\"a\""), "{line}");
        };
        // A watch shows only readings that are recorded while it runs.
        let busy = async {
            loop {
                request(server.addr, "POST", "/readings", &[JSON], &batch("a", 10)).await;
            }
        };
        let both = async {
            first.await;
            ended.as_mut().await.unwrap()
        };
        let output = tokio::select! {
            output = timeout(SOON, both) => output.expect("the client ends in time"),
            () = busy => unreachable!(),
        };
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!((output.status.code(), stderr.as_str()), (Some(0), ""), "{args:?}");
    }
    server.stop().await;
}

#[apply(test!)]
async fn a_second_signal_ends_the_server_at_once() {
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        let mut server = Command::new(PAIR.server)
            .args(["--addr", "127.0.0.1:0"])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(server.stdout.as_mut().unwrap()).read_line(&mut line).await.unwrap();
        let addr = line.trim().strip_prefix("listening on http://").unwrap().parse().unwrap();
        let _unfinished = half_sent(addr, &[], &batch("a", 1)).await;
        let pid = Pid::from_raw(server.id().unwrap().cast_signed());
        kill(pid, signal).unwrap();
        while TcpStream::connect(addr).await.is_ok() {
            tokio::task::yield_now().await; // Once it refuses connections, it has received the first signal.
        }
        kill(pid, signal).unwrap();
        let status = timeout(SOON, server.wait()).await.expect("the server ends in time").unwrap();
        assert_eq!(status.code(), Some(130), "the second signal must end it before its drain time is over");
    }
}

/// A proxy between a client and a server. It lets one connection through for each permit, and
/// closes it on command.
struct Proxy {
    url: String,
    server: Arc<Mutex<SocketAddr>>,
    /// `true` permits a connection, `false` closes it.
    commands: mpsc::UnboundedSender<bool>,
}

impl Proxy {
    async fn start(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (commands, mut received) = mpsc::unbounded_channel();
        let server = Arc::new(Mutex::new(server));
        let current = server.clone();
        tokio::spawn(async move {
            while received.recv().await == Some(true) {
                let (mut client, _) = listener.accept().await.unwrap();
                let addr = *current.lock().unwrap();
                let mut server = TcpStream::connect(addr).await.unwrap();
                tokio::select! {
                    _ = copy_bidirectional(&mut client, &mut server) => {}
                    cut = received.recv() => assert_eq!(cut, Some(false)),
                }
            }
        });
        Self { url, server, commands }
    }
}

/// Reads a line, and panics if none arrives.
async fn line_of(lines: &mut (impl AsyncBufReadExt + Unpin)) -> String {
    let mut line = String::new();
    timeout(SOON, lines.read_line(&mut line)).await.expect("a line in time").unwrap();
    line.trim_end().to_owned()
}

#[apply(test!)]
async fn a_watch_says_what_it_missed() {
    let server = Local::start(Limits { live_kept: 2, ..Limits::default() }).await;
    let proxy = Proxy::start(server.addr).await;
    let (permit, cut) = (|| proxy.commands.send(true).unwrap(), || proxy.commands.send(false).unwrap());
    permit();
    let mut client: Child = Command::new(PAIR.client)
        .args(["watch", "a", "--url", &proxy.url])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut out = BufReader::new(client.stdout.take().unwrap());
    let mut notes = BufReader::new(client.stderr.take().unwrap());
    let recorder = server.client();
    let record = async |station: &str, times: std::ops::Range<u64>| {
        let readings: Vec<Reading> = times
            .map(|recorded_at| Reading {
                station: station.into(),
                metric: Metric::Wind,
                value: 1.0,
                recorded_at,
            })
            .collect();
        recorder.record(&readings).await.unwrap();
    };
    let shown = |at: u64| format!(r#"{{"station":"a","metric":"wind","value":1.0,"recorded_at":{at}}}"#);
    // Nothing shows when the client is connected, so record until it prints a reading.
    let mut first = Box::pin(line_of(&mut out));
    while timeout(std::time::Duration::from_millis(50), &mut first).await.is_err() {
        record("a", 1..2).await;
    }
    drop(first);
    record("a", 9..10).await;
    while line_of(&mut out).await != shown(9) {}

    cut();
    let lost = line_of(&mut notes).await;
    assert!(lost.starts_with("connection lost: ") && lost.ends_with("; reconnecting"), "{lost}");
    record("b", 0..5).await; // Readings of another station.
    permit();
    assert_eq!(line_of(&mut notes).await, "connected again; nothing was missed");

    cut();
    line_of(&mut notes).await;
    record("a", 10..12).await;
    permit();
    assert_eq!(line_of(&mut notes).await, "connected again; here is what was missed");
    assert_eq!([line_of(&mut out).await, line_of(&mut out).await], [shown(10), shown(11)]);

    cut();
    line_of(&mut notes).await;
    record("a", 20..25).await;
    permit();
    assert_eq!(line_of(&mut notes).await, "connected again; 3 readings were missed");
    assert_eq!([line_of(&mut out).await, line_of(&mut out).await], [shown(23), shown(24)]);

    let another = Local::start(Limits::default()).await;
    *proxy.server.lock().unwrap() = another.addr;
    server.stop().await;
    assert_eq!(line_of(&mut notes).await, "connection lost: the server ended the stream; reconnecting");
    permit();
    assert_eq!(
        line_of(&mut notes).await,
        "connected again; the server restarted and has forgotten earlier readings"
    );

    // An error that another attempt would get too ends the watch.
    let refusing =
        responding_with("HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\nconnection: close\r\n\r\n".into())
            .await;
    *proxy.server.lock().unwrap() = refusing.strip_prefix("http://").unwrap().parse().unwrap();
    cut();
    line_of(&mut notes).await;
    permit();
    assert_eq!(line_of(&mut notes).await, "error: unexpected response 404:");
    assert_eq!(timeout(SOON, client.wait()).await.expect("the client ends in time").unwrap().code(), Some(1));
    another.stop().await;
}
