//! Tests of `cargo run -- tap`, as a program: what it shows, and that nothing brings it down.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Stdio;

use tests::{Server, apply, assert_same, expected_output, pair, run_program, test};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::process::Command;

use crate::pcap::read;

const LAB: &str = env!("CARGO_BIN_EXE_lab-under-test");

/// Starts tap in front of this address.
async fn tap(chapter: &str, to: &str, options: &[&str]) -> Server {
    Server::start(LAB, &[&["tap", chapter, "--to", to], options].concat()).await
}

/// A server of this test, and tap in front of it.
struct Tapped {
    listener: TcpListener,
    tap: Server,
}

impl Tapped {
    async fn start(chapter: &str, options: &[&str]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let tap = tap(chapter, &listener.local_addr().unwrap().to_string(), options).await;
        let (probe, _peer) = listener.accept().await.unwrap(); // tap checks at its start whether something listens.
        drop(probe);
        Self { listener, tap }
    }

    /// Returns both ends of a connection through tap.
    async fn connect(&self) -> (TcpStream, TcpStream) {
        let client = TcpStream::connect(self.tap.addr()).await.unwrap();
        (client, self.listener.accept().await.unwrap().0)
    }

    /// Sends bytes through tap and waits until they have arrived.
    async fn send(from: &mut TcpStream, to: &mut TcpStream, bytes: &[u8]) {
        let mut received = vec![0; bytes.len()];
        let (sent, read) = tokio::join!(from.write_all(bytes), to.read_exact(&mut received));
        sent.unwrap();
        read.unwrap();
        assert!(received == bytes);
    }

    /// Checks that an exchange passes, and is shown.
    async fn still_works(&self) {
        let (mut client, mut server) = self.connect().await;
        Self::send(&mut client, &mut server, b"GET /alive HTTP/1.1\r\n\r\n").await;
        Self::send(&mut server, &mut client, b"HTTP/1.1 204 No Content\r\n\r\n").await;
        self.tap.has_printed("GET /alive").await;
    }
}

/// Returns the lines that contain a text.
fn lines<'a>(printed: &'a str, text: &str) -> Vec<&'a str> {
    printed.lines().filter(|line| line.contains(text)).collect()
}

#[apply(test!)]
async fn the_client_command_that_tap_prints_works_in_front_of_each_server() {
    for pair in [pair!("http_rest"), pair!("grpc"), pair!("websocket"), pair!("tcp_socket")] {
        let server = pair.serve().await;
        let tap = tap(pair.chapter, server.url(), &["--bytes"]).await; // A URL is accepted, too.
        let url = tap.url().to_owned();
        let command = format!("cargo run -p {} --bin client -- --url {url}", pair.chapter);
        tap.has_printed(&format!("run the client with: {command}\n")).await;
        let client = run_program(pair.client, &["--url", &url]).await;
        assert_eq!(client.code, Some(0), "{}", client.stderr);
        let printed = tap.stop().await;
        assert!(lines(&printed, " -> ").len() > 2 && lines(&printed, " <- ").len() > 2, "{printed}");
        assert!(lines(&printed, "cannot read").is_empty(), "{printed}");
    }
}

#[apply(test!)]
async fn tap_prints_the_messages_in_the_labs_readme() {
    let pair = pair!("tcp_socket");
    let server = pair.serve().await;
    let tap = tap("tcp_socket", server.url(), &[]).await;
    let reading = ["--url", tap.url(), "record", "oslo-1", "temperature", "-3.5"];
    assert_eq!(run_program(pair.client, &reading).await.code, Some(0));
    // Times have different widths, and any end may close first.
    let messages = |printed: &str| {
        let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
        lines(printed, " B ").into_iter().map(words).collect::<Vec<_>>().join("\n")
    };
    let shown = expected_output("lab/README.md", "cargo run -- tap tcp_socket");
    assert_same(&messages(&tap.stop().await), &messages(&shown));
}

#[apply(test!)]
async fn the_client_command_for_each_broker_is_one_that_the_client_knows() {
    for broker in ["rabbitmq", "redis"] {
        let tapped = Tapped::start(broker, &[]).await;
        let printed = tapped.tap.stop().await;
        let line = lines(&printed, "run the client with: ")[0];
        let arguments = line.split_once(" -- ").unwrap().1;
        let arguments: Vec<&str> = arguments.split(' ').chain(["--help"]).collect();
        let client = run_program(env!("CARGO_BIN_EXE_message_queue-client"), &arguments).await;
        assert_eq!(client.code, Some(0), "{}", client.stderr);
    }
}

#[apply(test!)]
async fn tap_forwards_to_the_default_address_of_each_server() {
    for (chapter, server) in [
        ("http_rest", env!("CARGO_BIN_EXE_http_rest-server")),
        ("grpc", env!("CARGO_BIN_EXE_grpc-server")),
        ("websocket", env!("CARGO_BIN_EXE_websocket-server")),
        ("tcp_socket", env!("CARGO_BIN_EXE_tcp_socket-server")),
    ] {
        let tap = Server::start(LAB, &["tap", chapter]).await;
        tap.has_printed("\n     time").await;
        let printed = tap.stop().await;
        let address = lines(&printed, "in front of the server at ")[0].rsplit_once(' ').unwrap().1;
        let help = run_program(server, &["--help"]).await.stdout;
        assert!(help.contains(&format!("[default: {address}]")), "{chapter}: {address}\n{help}");
    }
}

#[apply(test!)]
async fn a_server_may_start_later_and_tap_says_how() {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap(); // Nobody else can take the address.
    let address = socket.local_addr().unwrap().to_string();
    let tap = tap("http_rest", &address, &[]).await;
    let advice = format!(
        "nothing listens at {address}; start the server with: cargo run -p http_rest --bin server -- --addr {address}"
    );
    tap.has_printed(&advice).await;
    let mut early = TcpStream::connect(tap.addr()).await.unwrap();
    assert_eq!(early.read(&mut [0]).await.unwrap_or_default(), 0);
    tap.has_printed(&format!("#1{:30}{advice}", "")).await;
    let tapped = Tapped { listener: socket.listen(8).unwrap(), tap };
    tapped.still_works().await;
}

#[apply(test!)]
async fn garbage_an_endless_header_and_a_half_open_connection_do_not_stop_tap() {
    let tapped = Tapped::start("http_rest", &["--bytes"]).await;
    let (mut client, mut server) = tapped.connect().await;
    let garbage: Vec<u8> = (0..=255).cycle().take(100_000).collect();
    Tapped::send(&mut client, &mut server, &garbage).await;
    Tapped::send(&mut server, &mut client, b"\x1b[2J\x1b]0;title\x07\r\n\r\n").await;

    let (mut client, mut server) = tapped.connect().await;
    Tapped::send(&mut server, &mut client, b"HTTP/1.1 200 OK\r\nEndless: ").await;
    for _ in 0..40 {
        Tapped::send(&mut server, &mut client, &[b'a'; 500_000]).await;
    }

    let (client, mut server) = tapped.connect().await;
    let (mut from_tap, mut to_tap) = client.into_split();
    to_tap.write_all(b"GET /half HTTP/1.1\r\n\r\n").await.unwrap();
    to_tap.shutdown().await.unwrap();
    let mut request = Vec::new();
    server.read_to_end(&mut request).await.unwrap();
    server.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nla").await.unwrap();
    drop(server);
    let mut response = Vec::new();
    from_tap.read_to_end(&mut response).await.unwrap();
    assert!(response.ends_with(b"\r\n\r\nla"));

    tapped.still_works().await;
    let printed = tapped.tap.stop().await;
    assert_eq!(printed.find(|c: char| c.is_control() && c != '\n'), None, "{printed:?}");
    assert!(lines(&printed, "GET /half").len() == 1, "{printed}");
}

#[apply(test!)]
async fn tls_and_a_wrong_protocol_give_one_line_and_still_pass() {
    let tapped = Tapped::start("http_rest", &["--protocol", "redis"]).await;
    let (mut client, mut server) = tapped.connect().await;
    Tapped::send(&mut client, &mut server, &[22, 3, 1, 0, 5]).await;
    let (mut other, mut other_server) = tapped.connect().await;
    Tapped::send(&mut other, &mut other_server, &[0, 1, 2, 3]).await;
    for _ in 0..10 {
        Tapped::send(&mut client, &mut server, &[23, 3, 3, 0, 5, 1, 2, 3, 4, 5]).await;
        Tapped::send(&mut other, &mut other_server, &[4, 5, 6, 7]).await;
    }
    let printed = tapped.tap.stop().await;
    assert_eq!(lines(&printed, "cannot read this: encrypted with TLS").len(), 1, "{printed}");
    assert_eq!(lines(&printed, "cannot read this").len(), 2, "{printed}");
    assert_eq!(lines(&printed, " -> ").len(), 2, "{printed}");
}

#[apply(test!)]
async fn tap_writes_what_passed_without_passwords() {
    let file = temporary("write");
    std::fs::write(&file, "an older capture, which is longer than the new one".repeat(1_000)).unwrap();
    let tapped = Tapped::start("redis", &["--bytes", "--write", file.to_str().unwrap()]).await;
    let (mut client, mut server) = tapped.connect().await;
    let login = b"*2\r\n$4\r\nAUTH\r\n$6\r\nsecret\r\n";
    for part in [&login[..20], &login[20..25], &login[25..]] {
        Tapped::send(&mut client, &mut server, part).await;
    }
    Tapped::send(&mut server, &mut client, b"+OK\r\n").await;
    let printed = tapped.tap.stop().await;
    assert!(printed.contains(&format!("written: {}\n", file.display())), "{printed}");
    assert!(printed.contains("AUTH") && !printed.contains("secret"), "{printed}");
    let (_about, packets) = read(&std::fs::read(&file).unwrap());
    let payload: Vec<u8> = packets.iter().flat_map(|packet| packet.payload.clone()).collect();
    assert_eq!(payload.len(), login.len() + 5);
    assert!(!String::from_utf8_lossy(&payload).contains("secret"));
    assert!(packets.iter().any(|packet| packet.from.1 == 6_379 && packet.payload == b"+OK\r\n"));
    std::fs::remove_file(file).unwrap();
}

#[apply(test!)]
async fn tap_says_at_once_what_it_cannot_do() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let folder = temporary("missing").join("x.pcapng");
    let folder = folder.to_str().unwrap();
    for (options, says) in [
        (&["http_rest", "--listen", &address][..], "to use a free port, run: cargo run -- tap http_rest"),
        (&["grpc", "--listen", &address, "--to", &address], "is the address of the server itself"),
        (&["redis", "--write", folder], "cannot write "),
    ] {
        let output = run_program(LAB, &[&["tap"], options].concat()).await;
        assert_eq!((output.code, output.stdout.as_str()), (Some(1), ""));
        assert!(output.stderr.contains(says), "{}", output.stderr);
        assert_eq!(output.stderr.lines().count(), 1, "{}", output.stderr);
    }
    for (options, says) in [
        (&["message_queue"][..], "name the broker: rabbitmq or redis"),
        (&["gopher"], "use one of http_rest, grpc, websocket, tcp_socket, rabbitmq, redis"),
        (&["redis", "--to", "here"], "use host:port"),
    ] {
        let output = run_program(LAB, &[&["tap"], options].concat()).await;
        assert_eq!(output.code, Some(2));
        assert!(output.stderr.contains(says), "{}", output.stderr);
    }
}

/// Starts tap with a pipe that only the test reads.
async fn piped(chapter: &str, options: &[&str]) -> (tokio::process::Child, SocketAddr, TcpListener) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let to = listener.local_addr().unwrap().to_string();
    let mut command = Command::new(LAB);
    command.args(["tap", chapter, "--to", &to]).args(options).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.kill_on_drop(true).spawn().unwrap();
    let mut introduction = Vec::new();
    let stdout = child.stdout.as_mut().unwrap();
    while !introduction.ends_with(b"message\n") {
        introduction.push(stdout.read_u8().await.unwrap()); // The rest stays in the pipe.
    }
    let introduction = String::from_utf8(introduction).unwrap();
    let address = introduction.lines().next().unwrap().rsplit_once('/').unwrap().1.parse().unwrap();
    drop(listener.accept().await.unwrap());
    (child, address, listener)
}

#[apply(test!)]
async fn tap_ends_quietly_when_nobody_reads_its_output() {
    let file = temporary("unread");
    let (mut child, address, listener) = piped("http_rest", &["--write", file.to_str().unwrap()]).await;
    drop(child.stdout.take());
    let mut client = TcpStream::connect(address).await.unwrap();
    let _server = listener.accept().await.unwrap();
    let _ = client.write_all(b"GET / HTTP/1.1\r\n\r\n").await; // It may have ended already.
    let output = child.wait_with_output().await.unwrap();
    assert_eq!((output.status.code(), &*String::from_utf8_lossy(&output.stderr)), (Some(0), ""));
    assert!(!read(&std::fs::read(&file).unwrap()).1.is_empty());
    std::fs::remove_file(file).unwrap();
}

#[apply(test!)]
async fn a_terminal_that_stops_reading_does_not_stop_the_programs() {
    let (mut child, address, listener) = piped("redis", &[]).await;
    let mut client = TcpStream::connect(address).await.unwrap();
    let (mut server, _peer) = listener.accept().await.unwrap();
    // More than the queue, the thread that prints, and the pipe hold together.
    for _ in 0..30 {
        Tapped::send(&mut client, &mut server, &b"*1\r\n$4\r\nPING\r\n".repeat(1_000)).await;
    }
    let mut printed = BufReader::new(child.stdout.take().unwrap()).lines();
    let (mut shown, mut left_out) = (0, 0);
    while shown + left_out < 30_000 {
        let line = printed.next_line().await.unwrap().unwrap();
        shown += u32::from(line.contains("PING"));
        if let Some((count, _)) = line.split_once(" lines left out") {
            left_out += count.parse::<u32>().unwrap();
        }
    }
    assert_eq!(shown + left_out, 30_000);
    assert!(left_out > 1_000, "{left_out}");
}

/// Returns a path for a file of one test.
fn temporary(name: &str) -> PathBuf {
    std::env::temp_dir().join(format!("tap-{name}-{}.pcapng", std::process::id()))
}
