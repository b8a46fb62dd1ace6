//! Helpers for the tests of the TCP chapter: a server inside the test process, a server that a
//! test plays itself, and a connection on which a test sends and receives raw bytes.

use std::future::Future;
use std::time::Duration;

use bytes::{BufMut, BytesMut};
use tcp_socket::protocol::frame::{FrameBuffer, kind, put_frame};
use tcp_socket::protocol::handshake::{HELLO, Hello, Id, VERSION, WELCOME, Welcome, random_id};
use tcp_socket::protocol::message::{ErrorCode, Refusal, Update, put_batch};
use tcp_socket::{Limits, Metric, Reading};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// Waits for `future`, but at most a minute, so that a test can't hang.
pub async fn within<T>(future: impl Future<Output = T>) -> T {
    timeout(Duration::from_secs(60), future).await.expect("it took more than 60 s")
}

/// A server inside the test process.
pub struct Running {
    pub addr: String,
    stop: oneshot::Sender<()>,
    task: JoinHandle<std::io::Result<()>>,
}

pub async fn start(limits: Limits) -> Running {
    start_at("127.0.0.1:0", limits).await
}

pub async fn start_at(addr: &str, limits: Limits) -> Running {
    let listener = TcpListener::bind(addr).await.unwrap();
    let addr = listener.local_addr().unwrap().to_string();
    let (stop, stopped) = oneshot::channel();
    let shutdown = async {
        let _ = stopped.await;
    };
    Running { addr, stop, task: tokio::spawn(tcp_socket::serve(listener, limits, shutdown)) }
}

impl Running {
    /// Stops the server, and waits until it has stopped.
    pub async fn stop(self) {
        self.ask_to_stop().await.unwrap().unwrap();
    }

    /// Asks the server to stop. The returned task ends when it has stopped.
    pub fn ask_to_stop(self) -> JoinHandle<std::io::Result<()>> {
        let _ = self.stop.send(());
        self.task
    }
}

/// Returns a listener, and its address, for a server that the test plays itself with [`accept`]
/// or [`welcome`].
pub async fn fake_server() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap().to_string();
    (listener, addr)
}

/// Accepts a connection of a client that this server remembers.
pub async fn welcome(listener: &TcpListener, idle_timeout: u32) -> Raw {
    welcome_as(listener, idle_timeout, true).await
}

pub async fn welcome_as(listener: &TcpListener, idle_timeout: u32, remembered: bool) -> Raw {
    accept(listener, |welcome| Welcome { idle_timeout, remembered, ..welcome }).await
}

/// Accepts a connection, and sends a `WELCOME` that `change` may modify.
pub async fn accept(listener: &TcpListener, change: impl FnOnce(Welcome) -> Welcome) -> Raw {
    let (stream, _) = within(listener.accept()).await.unwrap();
    let mut raw = Raw { stream, input: FrameBuffer::new(1024 * 1024) };
    let mut hello = [0; HELLO];
    raw.stream.read_exact(&mut hello).await.unwrap();
    assert_eq!(Hello::decode(&hello).unwrap().highest, VERSION);
    let instance_id = *b"the same server.";
    let welcome = Welcome {
        version: 1,
        remembered: true,
        instance_id,
        max_payload: 1000,
        window: 1024,
        max_watches: 64,
        idle_timeout: 60_000,
    };
    raw.write(&change(welcome).encode()).await;
    raw
}

pub fn reading(station: &str, value: f64) -> Reading {
    Reading {
        station: station.to_owned(),
        metric: Metric::Temperature,
        value,
        recorded_at: 1_767_225_600_000,
    }
}

/// Returns the payload of a `RECORD` with one reading.
pub fn batch(id: u64, station: &str, value: f64) -> Vec<u8> {
    batch_of(id, &[reading(station, value)])
}

pub fn batch_of(id: u64, readings: &[Reading]) -> Vec<u8> {
    let mut payload = BytesMut::new();
    put_batch(&mut payload, id, readings);
    payload.to_vec()
}

pub fn frame(kind: u16, request_id: u32, payload: &[u8]) -> Vec<u8> {
    flagged_frame(kind, 0, request_id, payload)
}

pub fn flagged_frame(kind: u16, flags: u16, request_id: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = BytesMut::new();
    put_frame(&mut bytes, kind, flags, request_id, |into| into.put_slice(payload));
    bytes.to_vec()
}

/// A frame that was received.
#[derive(Debug, PartialEq)]
pub struct Received {
    pub kind: u16,
    pub flags: u16,
    pub id: u32,
    pub payload: Vec<u8>,
}

impl Received {
    /// Returns the code of an `ERROR`.
    #[track_caller]
    pub fn error(&self) -> ErrorCode {
        assert_eq!(self.kind, kind::ERROR, "{self:?}");
        ErrorCode::from_number(Refusal::parse(&self.payload).unwrap().code).unwrap()
    }

    #[track_caller]
    pub fn accepted(&self) -> u32 {
        assert_eq!(self.kind, kind::RECORDED, "{self:?} {}", String::from_utf8_lossy(&self.payload));
        u32::from_be_bytes(self.payload.as_slice().try_into().unwrap())
    }

    #[track_caller]
    pub fn update(&self) -> Update {
        assert_eq!(self.kind, kind::READING, "{self:?}");
        Update::parse(&self.payload).unwrap()
    }
}

/// A connection on which a test sends and receives raw bytes.
pub struct Raw {
    pub stream: TcpStream,
    pub input: FrameBuffer,
}

impl Raw {
    /// Connects without sending anything.
    pub async fn connect(addr: &str) -> Self {
        let stream = within(TcpStream::connect(addr)).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream, input: FrameBuffer::new(1024 * 1024) }
    }

    /// Connects and does the handshake.
    pub async fn open(addr: &str) -> Self {
        Self::open_as(addr, random_id().unwrap()).await
    }

    pub async fn open_as(addr: &str, client_id: Id) -> Self {
        let mut raw = Self::connect(addr).await;
        raw.write(&Hello { lowest: 1, highest: 1, client_id }.encode()).await;
        assert_eq!(raw.welcome().await.version, 1);
        raw
    }

    pub async fn welcome(&mut self) -> Welcome {
        let mut bytes = [0; WELCOME];
        within(self.stream.read_exact(&mut bytes)).await.unwrap();
        Welcome::decode(&bytes).unwrap()
    }

    pub async fn write(&mut self, bytes: &[u8]) {
        within(self.stream.write_all(bytes)).await.unwrap();
    }

    pub async fn send(&mut self, kind: u16, request_id: u32, payload: &[u8]) {
        self.write(&frame(kind, request_id, payload)).await;
    }

    /// Returns the next frame, or `None` at the end of the stream.
    pub async fn next(&mut self) -> Option<Received> {
        loop {
            if let Some(frame) = self.input.next_frame().unwrap() {
                let payload = frame.payload.to_vec();
                return Some(Received {
                    kind: frame.kind,
                    flags: frame.flags,
                    id: frame.request_id,
                    payload,
                });
            }
            if within(self.input.read_from(&mut self.stream)).await.unwrap() == 0 {
                assert_eq!(self.input.rest(), b"", "the stream ends within a frame");
                return None;
            }
        }
    }

    pub async fn receive(&mut self) -> Received {
        self.next().await.expect("no further frame arrived")
    }

    /// Sends a request and returns the response, which must be the next frame.
    pub async fn ask(&mut self, kind: u16, request_id: u32, payload: &[u8]) -> Received {
        self.send(kind, request_id, payload).await;
        let received = self.receive().await;
        assert_eq!(received.id, request_id, "{received:?}");
        received
    }

    /// Panics unless the connection is alive and no frame is unread.
    pub async fn assert_alive(&mut self) {
        assert_eq!(self.ask(kind::PING, 4_000_000_000, b"").await.kind, kind::PONG);
    }

    /// Returns the code of the next frame, which must be an error about the connection and the
    /// last frame of the stream.
    pub async fn last_error(&mut self) -> ErrorCode {
        let last = self.receive().await;
        assert_eq!(last.id, 0);
        assert_eq!(self.next().await, None);
        last.error()
    }
}
