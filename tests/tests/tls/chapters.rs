//! The chapters and the certificates that the tests use.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use lab::certificates::{Options, write};
use tcp_socket::base::limits::ConnectionLimits;
use tcp_socket::base::tls::{ClientOptions, Listener, ServerOptions, Socket, connect};
use tests::{Output, Pair, Server, pair, run_program};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_rustls::rustls::{ClientConfig, ServerConfig};
use tokio_util::sync::CancellationToken;

/// One chapter, as these tests see it.
pub struct Chapter {
    pub pair: Pair,
    /// The scheme of an address without TLS, and with it.
    pub schemes: [&'static str; 2],
    /// Arguments of the client for one short call.
    pub call: &'static [&'static str],
    /// What the server says in plaintext to a client without TLS.
    pub not_tls: &'static str,
    /// What the server says to a client beyond the limit.
    pub too_many: &'static str,
    /// A request, and how its response begins.
    pub request: (&'static [u8], &'static [u8]),
    /// The protocol inside TLS.
    pub alpn: Option<&'static str>,
    /// How a refusal begins if the request came without TLS.
    pub refused: &'static [u8],
    serve: fn(Listener, Bounds, CancellationToken) -> BoxFuture<'static, std::io::Result<()>>,
}

/// The limits that matter here.
#[derive(Clone, Copy)]
pub struct Bounds {
    pub max_connections: usize,
    pub handshake_timeout: Duration,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { max_connections: 100, handshake_timeout: SOON }
    }
}

pub const CHAPTERS: [Chapter; 4] = [
    Chapter {
        pair: pair!("tcp_socket"),
        schemes: ["tcp", "tls"],
        call: &["record", "oslo-1", "wind", "7"],
        not_tls: "BadMagic (1): this port speaks TLS: use an address with tls://",
        too_many: "too many connections",
        request: (b"WSTN\0\x01\0\x010123456789abcdef", b"WSTN\0\x01"),
        refused: b"WSTN\0\0",
        alpn: None,
        serve: |listener, bounds, stop| {
            let limits = tcp_socket::Limits {
                connections: connections(bounds),
                handshake_timeout: bounds.handshake_timeout,
                ..tcp_socket::Limits::default()
            };
            tcp_socket::serve(listener, limits, stop.cancelled_owned()).boxed()
        },
    },
    Chapter {
        pair: pair!("http_rest"),
        schemes: ["http", "https"],
        call: &["stations", "list"],
        not_tls: "400 Bad Request: this port speaks TLS: use https instead of http",
        too_many: "too many connections",
        request: (b"GET /healthz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n", b"HTTP/1.1 200"),
        refused: b"HTTP/1.1 400",
        alpn: Some("http/1.1"),
        serve: |listener, bounds, stop| {
            let limits = http_rest::Limits {
                connections: connections(bounds),
                handshake_timeout: bounds.handshake_timeout,
                ..http_rest::Limits::default()
            };
            http_rest::serve(listener, limits, stop.cancelled_owned()).boxed()
        },
    },
    Chapter {
        pair: pair!("grpc"),
        schemes: ["http", "https"],
        call: &["record", "oslo-1", "wind", "7"],
        not_tls: "this port speaks TLS: use https instead of http",
        too_many: "too many connections",
        // The client's preface, SETTINGS, and GOAWAY. The server responds with SETTINGS.
        request: (
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0\
            \0\0\x08\x07\0\0\0\0\0\0\0\0\0\0\0\0\0",
            b"\0\0",
        ),
        refused: b"\0\0\0\x04\0\0\0\0\0\0\0\x37\x07",
        alpn: Some("h2"),
        serve: |listener, bounds, stop| {
            let limits = grpc::Limits {
                connections: connections(bounds),
                handshake_timeout: bounds.handshake_timeout,
                ..grpc::Limits::default()
            };
            let config = grpc::Config { limits, ..grpc::Config::default() };
            grpc::serve(listener, config, stop.cancelled_owned()).boxed()
        },
    },
    Chapter {
        pair: pair!("websocket"),
        schemes: ["http", "https"],
        call: &["record", "oslo-1", "wind", "7"],
        not_tls: "the handshake failed (this port speaks TLS: use https:// or wss://): HTTP error: 400 Bad \
                  Request",
        too_many: "too many connections",
        request: (b"GET /healthz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n", b"HTTP/1.1 200"),
        refused: b"HTTP/1.1 400",
        alpn: Some("http/1.1"),
        serve: |listener, bounds, stop| {
            let limits = websocket::Limits {
                connections: connections(bounds),
                handshake_timeout: bounds.handshake_timeout,
                ..websocket::Limits::default()
            };
            websocket::serve(listener, limits, Vec::new(), stop.cancelled_owned()).boxed()
        },
    },
];

fn connections(bounds: Bounds) -> ConnectionLimits {
    ConnectionLimits { max_connections: bounds.max_connections, ..ConnectionLimits::default() }
}

/// Time within which everything here happens. It only ends a test that hangs.
pub const SOON: Duration = Duration::from_secs(30);

/// Waits for something that must happen.
pub async fn within<T>(future: impl Future<Output = T>) -> T {
    timeout(SOON, future).await.expect("it should happen in time")
}

/// Returns the path of a file in a folder with all certificates, which are created once per run.
pub fn file(name: &str) -> String {
    static FOLDER: LazyLock<PathBuf> = LazyLock::new(|| {
        let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("tls");
        write(
            &folder,
            &Options { renew: true, broken: true, station: vec!["oslo-1".to_owned()], ..Default::default() },
        )
        .unwrap();
        folder
    });
    FOLDER.join(name).to_str().unwrap().to_owned()
}

impl Chapter {
    /// Starts the chapter's program with TLS, and with this certificate.
    pub async fn server(&self, certificate: &str, args: &[&str]) -> Server {
        let [certificate, key] =
            [file(&format!("{certificate}.pem")), file(&format!("{certificate}-key.pem"))];
        let tls = ["--addr", "127.0.0.1:0", "--tls", "--certificate", &certificate, "--key", &key];
        Server::start(self.pair.server, &[&tls, args].concat()).await
    }

    /// Runs the client for one call.
    pub async fn call(&self, url: &str, args: &[&str]) -> Output {
        run_program(self.pair.client, &[self.call, &["--url", url], args].concat()).await
    }

    /// Starts a server with TLS in this process.
    pub async fn start(&self, bounds: Bounds) -> Local {
        let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = tcp.local_addr().unwrap();
        let stop = CancellationToken::new();
        let tls = Some(server_config(self.alpn));
        let serve = (self.serve)(Listener { tcp, tls, principals: None }, bounds, stop.clone());
        Local { addr, alpn: self.alpn, stop, ended: tokio::spawn(serve) }
    }
}

/// A server in this process.
pub struct Local {
    pub addr: SocketAddr,
    alpn: Option<&'static str>,
    stop: CancellationToken,
    ended: JoinHandle<std::io::Result<()>>,
}

impl Local {
    pub async fn tcp(&self) -> TcpStream {
        TcpStream::connect(self.addr).await.unwrap()
    }

    pub async fn tls(&self) -> Socket {
        within(connect(client_config(self.alpn), "127.0.0.1", self.tcp().await)).await.unwrap()
    }

    /// Connects with TLS, sends the chapter's request, and checks its response.
    pub async fn request(&self, chapter: &Chapter) -> Socket {
        let mut stream = self.tls().await;
        let (request, response) = chapter.request;
        stream.write_all(request).await.unwrap();
        stream.flush().await.unwrap();
        let mut received = vec![0; response.len()];
        within(stream.read_exact(&mut received)).await.unwrap();
        assert_eq!(received, response, "{}", chapter.pair.chapter);
        stream
    }

    pub async fn stop(self) {
        self.stop.cancel();
        within(self.ended).await.unwrap().unwrap();
    }
}

pub fn client_options() -> ClientOptions {
    ClientOptions { ca: Some(file("ca.pem").into()), ..ClientOptions::default() }
}

pub fn client_config(alpn: Option<&str>) -> Arc<ClientConfig> {
    client_options().config(true, alpn).unwrap().unwrap()
}

pub fn server_config(alpn: Option<&str>) -> Arc<ServerConfig> {
    let options = ServerOptions {
        tls: true,
        certificate: file("server.pem").into(),
        key: file("server-key.pem").into(),
        client_ca: None,
    };
    options.config(alpn).unwrap().unwrap()
}
