//! HTTP as bytes, and servers that run inside the test process, so that tests can set their limits.

use std::net::SocketAddr;
use std::time::Duration;

use http_rest::Limits;
use http_rest::serve;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// Header fields of a request.
pub type Headers<'a> = Vec<(&'a str, &'a str)>;

/// Maximum time to wait for something that must happen. It only ends a test that hangs.
pub const SOON: Duration = Duration::from_secs(30);

/// A server in this process.
pub struct Local {
    pub addr: SocketAddr,
    stop: oneshot::Sender<()>,
    ended: JoinHandle<std::io::Result<()>>,
}

impl Local {
    pub async fn start(limits: Limits) -> Self {
        Self::start_at("127.0.0.1:0".parse().unwrap(), limits).await
    }

    pub async fn start_at(addr: SocketAddr, limits: Limits) -> Self {
        let listener = TcpListener::bind(addr).await.unwrap();
        let addr = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel();
        let ended = tokio::spawn(serve(listener, limits, async {
            let _ = stopped.await;
        }));
        Self { addr, stop, ended }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    pub fn client(&self) -> http_rest::Client {
        http_rest::Client::new(&self.url()).unwrap()
    }

    pub async fn stop(self) {
        self.stop.send(()).unwrap();
        timeout(SOON, self.ended).await.expect("stops in time").unwrap().unwrap();
    }
}

/// A response, split into its parts.
#[derive(Debug)]
pub struct Response {
    pub status: u16,
    pub head: String,
    pub body: String,
}

impl Response {
    pub fn parse(bytes: &[u8]) -> Self {
        let text = String::from_utf8_lossy(bytes);
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no response: {text:?}"));
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
        Self {
            status: status.unwrap_or_else(|| panic!("no status: {head:?}")),
            head: head.to_owned(),
            body: body.to_owned(),
        }
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        let mut fields = self.head.lines().skip(1).filter_map(|line| line.split_once(": "));
        fields.find(|(field, _)| field.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    /// Returns the body as JSON. Panics unless it is a problem with the response's status.
    pub fn problem(&self) -> serde_json::Value {
        assert_eq!(self.header("content-type"), Some("application/problem+json"), "{self:?}");
        let problem: serde_json::Value = serde_json::from_str(&self.body).unwrap();
        assert_eq!(problem["status"], self.status);
        assert!(problem["title"].is_string() && problem["type"].is_string());
        problem
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

/// Sends these bytes and reads until the server closes.
pub async fn exchange(addr: SocketAddr, request: &[u8]) -> Response {
    let mut stream = TcpStream::connect(addr).await.unwrap();
    // The server may close before it has read everything.
    let _ = stream.write_all(request).await;
    Response::parse(&rest(&mut stream).await)
}

/// Returns all bytes that arrive until the server closes.
pub async fn rest(stream: &mut TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    timeout(SOON, stream.read_to_end(&mut bytes)).await.expect("the server closes").unwrap();
    bytes
}

/// Reads until this text has arrived, and returns everything up to its end.
pub async fn until(stream: &mut TcpStream, wanted: &str) -> String {
    let mut text = Vec::new();
    while !text.ends_with(wanted.as_bytes()) {
        let byte =
            timeout(SOON, stream.read_u8()).await.unwrap_or_else(|_| panic!("{wanted:?} did not arrive"));
        text.push(
            byte.unwrap_or_else(|_| panic!("closed before {wanted:?}: {}", String::from_utf8_lossy(&text))),
        );
    }
    String::from_utf8(text).unwrap()
}

/// Sends a request on a connection of its own.
pub async fn request(
    addr: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> Response {
    exchange(addr, head(method, path, headers, body.len(), body).as_bytes()).await
}

/// Returns a request that closes its connection. Its body may be shorter than `length`.
pub fn head(method: &str, path: &str, headers: &[(&str, &str)], length: usize, body: &str) -> String {
    let headers: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    format!(
        "{method} {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\ncontent-length: {length}\r\n{headers}\r\n{body}"
    )
}

pub const JSON: (&str, &str) = ("content-type", "application/json");

/// Returns the body of a batch of `count` valid readings of a station.
pub fn batch(station: &str, count: usize) -> String {
    let readings: Vec<String> = (0..count)
        .map(|i| {
            format!(r#"{{"station":"{station}","metric":"wind","value":{},"recorded_at":{i}}}"#, i % 100)
        })
        .collect();
    format!(r#"{{"readings":[{}]}}"#, readings.join(","))
}

/// Sends the header of a `POST /readings`, waits until the server asks for the body, and
/// sends half of it. So the server is already handling the request.
pub async fn half_sent(addr: SocketAddr, headers: &[(&str, &str)], body: &str) -> TcpStream {
    let mut stream = TcpStream::connect(addr).await.unwrap();
    let headers = [&[JSON, ("expect", "100-continue")], headers].concat();
    let head = head("POST", "/readings", &headers, body.len(), "");
    stream.write_all(head.as_bytes()).await.unwrap();
    until(&mut stream, "HTTP/1.1 100 Continue\r\n\r\n").await;
    stream.write_all(&body.as_bytes()[..body.len() / 2]).await.unwrap();
    stream
}
