//! Tests of the keys that break what passes through tap.

use std::process::Stdio;

use tests::{apply, test};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

/// tap in front of a server of this test.
struct Tap {
    listener: TcpListener,
    address: String,
    keys: ChildStdin,
    lines: Lines<BufReader<ChildStdout>>,
    _process: Child,
}

impl Tap {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let to = listener.local_addr().unwrap().to_string();
        let mut process = Command::new(env!("CARGO_BIN_EXE_lab-under-test"))
            .args(["tap", "http_rest", "--to", &to])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let keys = process.stdin.take().unwrap();
        let mut tap = Self { listener, address: String::new(), keys, lines, _process: process };
        let line = tap.shows("listening on ").await;
        tap.address = line.rsplit_once('/').unwrap().1.to_owned();
        drop(tap.listener.accept().await.unwrap()); // tap checks at its start whether something listens.
        tap
    }

    /// Presses a key, and waits until tap has said what it does.
    async fn press(&mut self, key: u8, says: &str) {
        self.keys.write_all(&[key]).await.unwrap();
        self.shows(says).await;
    }

    /// Waits for a line with this text.
    async fn shows(&mut self, text: &str) -> String {
        loop {
            let line = self.lines.next_line().await.unwrap().expect("tap should still run");
            if line.contains(text) {
                return line;
            }
        }
    }

    /// Returns both ends of a connection.
    async fn connect(&self) -> (TcpStream, TcpStream) {
        let client = TcpStream::connect(&self.address).await.unwrap();
        (client, self.listener.accept().await.unwrap().0)
    }
}

#[apply(test!)]
async fn each_key_of_tap_breaks_what_passes_until_it_is_mended() {
    let mut tap = Tap::start().await;
    let (mut client, mut server) = tap.connect().await;
    let mut byte = [0];

    tap.press(b's', "== silence").await;
    client.write_all(b"G").await.unwrap();
    assert!(server.try_read(&mut byte).is_err(), "nothing may pass");
    tap.press(b'r', "== everything passes again").await;
    server.read_exact(&mut byte).await.unwrap();

    tap.press(b'd', "== delay").await;
    let begin = std::time::Instant::now();
    client.write_all(b"E").await.unwrap();
    server.read_exact(&mut byte).await.unwrap();
    assert!(begin.elapsed().as_millis() >= 200);
    tap.press(b'r', "== everything passes again").await;

    tap.press(b'c', "== all connections are cut").await;
    assert_eq!(client.read(&mut byte).await.unwrap_or(0), 0);
    assert_eq!(server.read(&mut byte).await.unwrap_or(0), 0);

    let (mut client, mut server) = tap.connect().await;
    tap.press(b'f', "== one bit").await;
    let request = b"POST /readings HTTP/1.1\r\ncontent-length: 11\r\n\r\n{\"value\":1}";
    client.write_all(request).await.unwrap();
    let mut received = vec![0; request.len()];
    server.read_exact(&mut received).await.unwrap();
    assert!(received.ends_with(b"{\"value\":0}"), "{}", received.escape_ascii());

    tap.press(b'?', "keys: c cut").await;
}
