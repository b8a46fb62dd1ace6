//! What the tests of this chapter share: a server in this process, whose limits a test
//! can lower, and two kinds of client below the typed one, for HTTP/2 calls and for
//! single HTTP/2 frames.

use std::future::Future;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use grpc::proto::watch_request::Start;
use grpc::proto::{Metric, Reading, RecordRequest, WatchRequest, WatchResponse};
use grpc::{Client, Options};
use grpc::{Config, serve};
use h2::client::{ResponseFuture, SendRequest};
use h2::{RecvStream, SendStream};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use prost::Message;
use tests::{Pair, pair};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::timeout;

pub const PAIR: Pair = pair!("grpc");

pub const RECORD: &str = "/weather.v1.WeatherService/Record";
pub const WATCH: &str = "/weather.v1.WeatherService/Watch";
pub const UPLOAD: &str = "/weather.v1.WeatherService/Upload";
pub const MONITOR: &str = "/weather.v1.WeatherService/Monitor";

/// Ends a test that hangs. The limit is generous: it measures nothing.
pub async fn within<F: Future>(future: F) -> F::Output {
    timeout(Duration::from_secs(60), future).await.expect("the test hangs")
}

pub fn reading(station: &str, value: f64) -> Reading {
    Reading {
        station: station.to_owned(),
        metric: Metric::Temperature.into(),
        value,
        recorded_at: 1_767_225_600_000,
    }
}

pub fn client(url: &str) -> Client {
    Client::new(url, &Options::default()).unwrap()
}

/// A server in this process.
pub struct Local {
    pub addr: String,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<std::io::Result<()>>,
}

impl Local {
    pub async fn start(configure: impl FnOnce(&mut Config)) -> Self {
        let mut config = Config::default();
        configure(&mut config);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap().to_string();
        let (stop, stopped) = oneshot::channel::<()>();
        let task = tokio::spawn(serve(listener, config, async {
            let _ = stopped.await;
        }));
        Self { addr, stop: Some(stop), task }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// Tells the server to stop, and does not wait.
    pub fn terminate(&mut self) {
        drop(self.stop.take());
    }

    pub async fn stop(mut self) {
        self.terminate();
        within(self.task).await.unwrap().unwrap();
    }
}

/// Returns a message after its five-byte prefix.
pub fn prefixed(message: &impl Message) -> Bytes {
    framed(false, &message.encode_to_vec())
}

/// Returns a message after the five bytes that say whether it is compressed and how long
/// it is.
pub fn framed(is_compressed: bool, message: &[u8]) -> Bytes {
    let length = u32::try_from(message.len()).unwrap().to_be_bytes();
    [&[is_compressed.into()], &length[..], message].concat().into()
}

/// Returns the request of a `Record` with one valid reading.
pub fn record_one() -> Bytes {
    prefixed(&RecordRequest { readings: vec![reading("oslo-1", 1.0)] })
}

/// Opens an HTTP/2 connection; [`open`] makes calls on it.
pub async fn connect(addr: &str) -> SendRequest<Bytes> {
    connect_with(addr, &h2::client::Builder::new()).await
}

pub async fn connect_with(addr: &str, builder: &h2::client::Builder) -> SendRequest<Bytes> {
    let stream = TcpStream::connect(addr).await.unwrap();
    let (send, connection) = within(builder.handshake(stream)).await.unwrap();
    tokio::spawn(async move {
        let _ = connection.await;
    });
    send
}

/// Sends the headers of a call.
pub async fn open(
    connection: &SendRequest<Bytes>,
    path: &str,
    metadata: &[(&str, &str)],
) -> (ResponseFuture, SendStream<Bytes>) {
    let mut request = Request::post(format!("http://localhost{path}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers");
    for (name, value) in metadata {
        request = request.header(*name, *value);
    }
    let mut ready = within(connection.clone().ready()).await.unwrap();
    ready.send_request(request.body(()).unwrap(), false).unwrap()
}

/// A whole response.
pub struct WholeResponse {
    pub http_status: u16,
    pub headers: HeaderMap,
    pub messages: Bytes,
    pub trailers: Option<HeaderMap>,
}

impl WholeResponse {
    /// Returns the status code from the trailers or, if the response is only a status,
    /// from the headers.
    pub fn code(&self) -> &str {
        let headers = self.trailers.as_ref().unwrap_or(&self.headers);
        headers.get("grpc-status").map_or("none", |code| code.to_str().unwrap())
    }
}

pub async fn whole_response(response: ResponseFuture) -> WholeResponse {
    let response: Response<RecvStream> = within(response).await.unwrap();
    let (parts, body) = response.into_parts();
    let (messages, trailers) = rest(body).await;
    WholeResponse { http_status: parts.status.as_u16(), headers: parts.headers, messages, trailers }
}

/// Returns the remaining messages and the trailers.
pub async fn rest(mut body: RecvStream) -> (Bytes, Option<HeaderMap>) {
    let mut messages = BytesMut::new();
    while let Some(data) = within(body.data()).await {
        let data = data.unwrap();
        body.flow_control().release_capacity(data.len()).unwrap();
        messages.extend_from_slice(&data);
    }
    (messages.freeze(), within(body.trailers()).await.unwrap())
}

/// Makes a whole call with one message.
pub async fn unary(
    connection: &SendRequest<Bytes>,
    path: &str,
    metadata: &[(&str, &str)],
    body: Bytes,
) -> WholeResponse {
    let (response, mut send) = open(connection, path, metadata).await;
    // Fails if the server has already responded, which it may do before it sees a
    // message.
    let _ = send.send_data(body, true);
    whole_response(response).await
}

/// Sends a body within the windows that the server opens.
pub async fn send_all(send: &mut SendStream<Bytes>, mut body: Bytes) {
    while !body.is_empty() {
        send.reserve_capacity(body.len());
        let Some(Ok(room)) = within(std::future::poll_fn(|cx| send.poll_capacity(cx))).await else { return };
        let chunk = body.split_to(room.min(body.len()));
        let last = body.is_empty();
        if send.send_data(chunk, last).is_err() {
            return;
        }
    }
}

/// Returns a `WatchRequest`. The tests list its fields only here.
#[allow(clippy::needless_update, reason = "an exercise adds a field, and the tests should still compile")]
pub fn watch_of(station: &str, start: Option<Start>) -> WatchRequest {
    WatchRequest { station: station.to_owned(), start, ..WatchRequest::default() }
}

pub fn watch_request(newest: u32) -> Bytes {
    prefixed(&watch_of("oslo-1", Some(Start::Newest(newest))))
}

/// Opens a `Watch` of the newest readings. Returns the body of its response.
pub async fn open_watch(
    connection: &SendRequest<Bytes>,
    newest: u32,
    metadata: &[(&str, &str)],
) -> RecvStream {
    let (response, mut send) = open(connection, WATCH, metadata).await;
    send.send_data(watch_request(newest), true).unwrap();
    within(response).await.unwrap().into_body()
}

/// Decodes the messages of a Watch's response.
pub fn messages(bytes: Bytes) -> Vec<WatchResponse> {
    decode_all(bytes)
}

/// Decodes the messages of a response.
pub fn decode_all<M: Message + Default>(mut bytes: Bytes) -> Vec<M> {
    let mut messages = Vec::new();
    while !bytes.is_empty() {
        let length = u32::from_be_bytes(bytes[1..5].try_into().unwrap()) as usize;
        messages.push(M::decode(bytes.slice(5..5 + length)).unwrap());
        bytes = bytes.slice(5 + length..);
    }
    messages
}

/// Returns a listener for a server that the test itself plays, and its URL.
pub async fn listen() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    (listener, url)
}

/// Returns the headers of such a server's response.
pub fn response_headers() -> Response<()> {
    Response::builder().header("content-type", "application/grpc").body(()).unwrap()
}

/// Returns the trailers of such a server's response.
pub fn status_trailers(code: &'static str) -> HeaderMap {
    HeaderMap::from_iter([(HeaderName::from_static("grpc-status"), HeaderValue::from_static(code))])
}

// Frame types of RFC 9113, section 6.
pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;

pub const END_STREAM: u8 = 1;
pub const END_HEADERS: u8 = 4;
pub const ACK: u8 = 1;

pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// One frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}

pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = u32::try_from(payload.len()).unwrap().to_be_bytes()[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// Encodes header fields as HPACK literals that use no table (RFC 7541, section 6.2.2).
pub fn hpack(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    let string = |block: &mut Vec<u8>, text: &str| {
        // Section 5.1: a length that does not fit into seven bits continues in more
        // bytes, seven bits in each.
        let mut length = text.len();
        if length < 127 {
            block.push(length.try_into().unwrap());
        } else {
            block.push(127);
            length -= 127;
            while length >= 128 {
                block.push((length % 128 + 128).try_into().unwrap());
                length /= 128;
            }
            block.push(length.try_into().unwrap());
        }
        block.extend(text.as_bytes());
    };
    for (name, value) in fields {
        block.push(0);
        string(&mut block, name);
        string(&mut block, value);
    }
    block
}

/// Returns the header block of a call.
pub fn call_headers(path: &str) -> Vec<u8> {
    hpack(&[
        (":method", "POST"),
        (":scheme", "http"),
        (":path", path),
        (":authority", "localhost"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ])
}

/// A connection that sends and receives single frames.
pub struct Raw {
    pub stream: TcpStream,
}

impl Raw {
    /// Connects, with TCP only.
    pub async fn tcp(addr: &str) -> Self {
        let stream = TcpStream::connect(addr).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream }
    }

    /// Connects, and sends the preface and empty SETTINGS.
    pub async fn connect(addr: &str) -> Self {
        let mut raw = Self::tcp(addr).await;
        raw.send(&[PREFACE, &frame(SETTINGS, 0, 0, &[])].concat()).await;
        raw
    }

    pub async fn send(&mut self, bytes: &[u8]) {
        within(self.stream.write_all(bytes)).await.unwrap();
    }

    /// Sends bytes that the peer may refuse to read. Returns whether they could be sent.
    pub async fn try_send(&mut self, bytes: &[u8]) -> bool {
        within(self.stream.write_all(bytes)).await.is_ok()
    }

    /// Returns the next frame, or `None` when the connection is closed.
    pub async fn frame(&mut self) -> Option<Frame> {
        let mut head = [0; 9];
        within(self.stream.read_exact(&mut head)).await.ok()?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; length.try_into().unwrap()];
        within(self.stream.read_exact(&mut payload)).await.ok()?;
        let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        Some(Frame { kind: head[3], flags: head[4], stream, payload })
    }

    /// Returns the next frame of this kind, and skips the frames before it.
    pub async fn next(&mut self, kind: u8) -> Option<Frame> {
        loop {
            let frame = self.frame().await?;
            if frame.kind == kind {
                return Some(frame);
            }
        }
    }

    /// Reads until the connection is closed, and returns the frames.
    pub async fn read_to_end(&mut self) -> Vec<Frame> {
        let mut frames = Vec::new();
        while let Some(frame) = self.frame().await {
            frames.push(frame);
        }
        frames
    }
}

/// Returns the error code of the last GOAWAY among the frames.
pub fn goaway(frames: &[Frame]) -> Option<u32> {
    let last = frames.iter().rfind(|frame| frame.kind == GOAWAY)?;
    Some(u32::from_be_bytes(last.payload[4..8].try_into().unwrap()))
}
