//! A server in the test's process, with limits that the test chooses, and a WebSocket client that
//! sends and receives raw bytes.

use std::future::Future;
use std::net::SocketAddr;
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use websocket::Limits;
use websocket::server::origin::Origin;

/// Time after which a test gives up waiting. It is long enough that even a busy machine never
/// reaches it.
const BOUND: Duration = Duration::from_secs(60);

pub async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    timeout(BOUND, future).await.unwrap_or_else(|_| panic!("{what}: nothing within {BOUND:?}"))
}

/// Returns the default limits, except that the server waits only briefly for connections that are
/// still open at the end of a test.
pub fn limits() -> Limits {
    let mut limits = Limits::default();
    limits.connections.linger_time = Duration::from_millis(300);
    limits
}

pub struct Local {
    pub addr: SocketAddr,
    stop: oneshot::Sender<()>,
    server: JoinHandle<std::io::Result<()>>,
}

impl Local {
    pub async fn start(limits: Limits) -> Self {
        Self::allowing(Vec::new(), limits).await
    }

    /// Starts a server to which pages from these origins may connect.
    pub async fn allowing(origins: Vec<Origin>, limits: Limits) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel();
        let server = tokio::spawn(websocket::serve(listener, limits, origins, async {
            let _ = stopped.await;
        }));
        Self { addr, stop, server }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    pub fn terminate(self) -> JoinHandle<std::io::Result<()>> {
        self.stop.send(()).unwrap();
        self.server
    }

    pub async fn stop(self) {
        soon("the server stops", self.terminate()).await.unwrap().unwrap();
    }
}

/// The key of the example in RFC 6455, section 1.3.
pub const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";

/// Returns a handshake request for `path`, with additional header lines.
pub fn handshake(path: &str, more: &str) -> String {
    format!(
        "GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: {KEY}\r\nSec-WebSocket-Version: 13\r\n{more}\r\n"
    )
}

/// Returns a masked frame, as a client sends it.
pub fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![first];
    match payload.len() {
        length @ 0..126 => bytes.push(0x80 | length as u8),
        length @ 126..=0xffff => {
            bytes.push(0x80 | 126);
            bytes.extend((length as u16).to_be_bytes());
        }
        length => {
            bytes.push(0x80 | 127);
            bytes.extend((length as u64).to_be_bytes());
        }
    }
    let mask = [0x37, 0xfa, 0x21, 0x3d];
    bytes.extend(mask);
    bytes.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    bytes
}

pub const TEXT: u8 = 0x81;
pub const BINARY: u8 = 0x82;
pub const CLOSE: u8 = 0x88;
pub const PING: u8 = 0x89;
pub const PONG: u8 = 0x8a;

pub struct Raw {
    pub stream: TcpStream,
}

impl Raw {
    pub async fn tcp(addr: SocketAddr) -> Self {
        Self { stream: TcpStream::connect(addr).await.unwrap() }
    }

    /// Connects and performs the handshake, which must succeed.
    pub async fn open(addr: SocketAddr, path: &str) -> Self {
        let mut raw = Self::tcp(addr).await;
        raw.send(handshake(path, "")).await;
        let head = raw.head().await;
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        raw
    }

    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).await.unwrap();
    }

    pub async fn send_json(&mut self, message: Value) {
        self.send(frame(TEXT, message.to_string().as_bytes())).await;
    }

    /// Reads the header of an HTTP response, and nothing beyond it.
    pub async fn head(&mut self) -> String {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let byte = soon("an HTTP header", self.stream.read_u8()).await;
            head.push(
                byte.unwrap_or_else(|error| panic!("{error} after {:?}", String::from_utf8_lossy(&head))),
            );
        }
        String::from_utf8(head).unwrap()
    }

    /// Returns the first byte and the payload of the next frame, or `None` if the stream ended.
    pub async fn frame(&mut self) -> Option<(u8, Vec<u8>)> {
        soon("a frame", async {
            let first = self.stream.read_u8().await.ok()?;
            let length = match self.stream.read_u8().await.unwrap() {
                126 => u64::from(self.stream.read_u16().await.unwrap()),
                127 => self.stream.read_u64().await.unwrap(),
                masked @ 128.. => panic!("the server must not mask: {masked:#x}"),
                length => u64::from(length),
            };
            let mut payload = vec![0; length as usize];
            self.stream.read_exact(&mut payload).await.unwrap();
            Some((first, payload))
        })
        .await
    }

    /// Returns the next message that is not a ping or a heartbeat.
    pub async fn json(&mut self) -> Value {
        loop {
            let (first, payload) = self.frame().await.expect("a message, not the end");
            if first == PING {
                continue;
            }
            assert_eq!(first, TEXT, "{:?}", String::from_utf8_lossy(&payload));
            let message: Value = serde_json::from_slice(&payload).unwrap();
            if message["type"] != "heartbeat" {
                return message;
            }
        }
    }

    /// Sends a request and returns its response. Drops messages that arrive in between.
    pub async fn ask(&mut self, request: Value) -> Value {
        let id = request["id"].clone();
        self.send_json(request).await;
        loop {
            let message = self.json().await;
            if message["id"] == id {
                return message;
            }
        }
    }

    /// Returns the code and the reason of the server's close frame. The stream must end after it.
    pub async fn closed(&mut self) -> (u16, String) {
        loop {
            let (first, payload) = self.frame().await.expect("a close frame, not the end");
            if first == CLOSE {
                assert_eq!(self.frame().await, None, "nothing may follow a close frame");
                let reason = String::from_utf8(payload.get(2..).unwrap_or_default().to_vec()).unwrap();
                let code = payload.get(..2).map_or(1005, |code| u16::from_be_bytes([code[0], code[1]]));
                return (code, reason);
            }
        }
    }
}
