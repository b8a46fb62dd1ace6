//! Servers that check their callers, in this process.

use std::fs;
use std::path::PathBuf;
use std::sync::{Arc, LazyLock};

use futures::FutureExt;
use futures::future::BoxFuture;
use lab::certificates::{Options, write};
use tcp_socket::base::principals::{Principals, Role};
use tcp_socket::base::tls::{ClientOptions, H2, HTTP_1_1, Listener, ServerOptions};
use tcp_socket::base::token::Token;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// The name of each principal is that of its role, except that a station has its own name.
pub const CALLERS: [(Option<Role>, &str); 4] = [
    (Some(Role::Reader), "reader"),
    (Some(Role::Station), "oslo-1"),
    (Some(Role::Operator), "operator"),
    (None, "nobody"),
];

/// A folder of this run's files: tokens, and certificates.
pub fn folder() -> &'static PathBuf {
    static FOLDER: LazyLock<PathBuf> = LazyLock::new(|| {
        let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("identity");
        let station = CALLERS.iter().map(|(_, name)| (*name).to_owned()).collect();
        write(&folder, &Options { renew: true, station, ..Options::default() }).unwrap();
        let mut principals = String::new();
        for (role, name) in CALLERS {
            let token = Token::generate().unwrap();
            fs::write(folder.join(format!("{name}.token")), format!("{}\n", token.secret())).unwrap();
            let Some(role) = role else { continue };
            principals += &format!(
                "[[principal]]\nname = \"{name}\"\nrole = \"{}\"\ntoken_sha256 = \"{}\"\ncertificate = \"{name}\"\n",
                format!("{role:?}").to_lowercase(),
                token.sha256(),
            );
        }
        fs::write(folder.join("principals.toml"), principals).unwrap();
        folder
    });
    &FOLDER
}

pub fn file(name: &str) -> String {
    folder().join(name).to_str().unwrap().to_owned()
}

/// Returns the token of a caller. That of nobody is not in the file of principals.
pub fn token(name: &str) -> String {
    fs::read_to_string(file(&format!("{name}.token"))).unwrap().trim().to_owned()
}

/// Returns the options of a client that has this caller's token.
pub fn with_token(name: &str) -> ClientOptions {
    ClientOptions { token_file: Some(file(&format!("{name}.token")).into()), ..ClientOptions::default() }
}

/// One of the chapters with a server of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Chapter {
    Tcp,
    Http,
    WebSocket,
    Grpc,
}

pub const CHAPTERS: [Chapter; 4] = [Chapter::Tcp, Chapter::Http, Chapter::WebSocket, Chapter::Grpc];

/// How a server is started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Everybody may do everything.
    Open,
    /// It checks its callers.
    Checked,
    /// It checks its callers, who show certificates.
    Tls,
}

pub struct Running {
    pub url: String,
    pub addr: String,
    stop: CancellationToken,
    ended: JoinHandle<std::io::Result<()>>,
}

impl Chapter {
    pub async fn start(self, mode: Mode) -> Running {
        let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = tcp.local_addr().unwrap().to_string();
        let principals = (mode != Mode::Open)
            .then(|| Arc::new(Principals::read(&folder().join("principals.toml")).unwrap()));
        let (plain, encrypted, alpn) = match self {
            Self::Tcp => ("tcp", "tls", None),
            Self::Http | Self::WebSocket => ("http", "https", Some(HTTP_1_1)),
            Self::Grpc => ("http", "https", Some(H2)),
        };
        let tls = ServerOptions {
            tls: mode == Mode::Tls,
            certificate: file("server.pem").into(),
            key: file("server-key.pem").into(),
            client_ca: Some(file("ca.pem").into()),
        };
        let listener = Listener { tcp, tls: tls.config(alpn).unwrap(), principals };
        let stop = CancellationToken::new();
        let stopped = stop.clone().cancelled_owned();
        let serve: BoxFuture<'static, _> = match self {
            Self::Tcp => tcp_socket::serve(listener, tcp_socket::Limits::default(), stopped).boxed(),
            Self::Http => http_rest::serve(listener, http_rest::Limits::default(), stopped).boxed(),
            Self::WebSocket => {
                websocket::serve(listener, websocket::Limits::default(), Vec::new(), stopped).boxed()
            }
            Self::Grpc => grpc::serve(listener, grpc::Config::default(), stopped).boxed(),
        };
        let scheme = if mode == Mode::Tls { encrypted } else { plain };
        Running { url: format!("{scheme}://{addr}"), addr, stop, ended: tokio::spawn(serve) }
    }
}

impl Running {
    pub async fn stop(self) {
        self.stop.cancel();
        self.ended.await.unwrap().unwrap();
    }
}
