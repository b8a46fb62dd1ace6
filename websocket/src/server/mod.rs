//! The server: its routes, and the lifecycle of a connection from HTTP to WebSocket.
//!
//! [`tcp_socket::base::accept`] accepts the connections, refuses those over the limit, and ends
//! all of them at shutdown.

mod chat;
mod close;
mod connection;
mod handshake;
mod live;
pub mod origin;
mod room;
mod state;
mod store;
mod tickets;

use std::convert::{Infallible, identity};
use std::future::{Future, poll_fn};
use std::io;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, header};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::{any, get, post};
use axum::{Extension, middleware};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tcp_socket::base::accept::Connections;
use tcp_socket::base::linger::linger;
use tcp_socket::base::principals::{Caller, Denied, Operation};
use tcp_socket::base::tls::{Acceptor, Listener, Socket};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::select;
use tokio::time::{Instant, sleep, timeout};
use tokio_rustls::TlsStream;
use tokio_util::either::Either;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;
use tracing::{debug, info};

use self::chat::ChatSession;
use self::connection::Session;
use self::live::LiveSession;
use self::origin::{Origin, own_origins};
use self::state::Shared;
use crate::limits::{Limits, TLS_BUFFER};

/// The whole browser page. It needs no build step and loads nothing else.
const PAGE: &str = include_str!("page.html");

/// The response to a request without TLS if the server speaks TLS.
const NOT_TLS: &[u8] = b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\n\
    content-type: text/plain\r\ncontent-length: 45\r\n\r\n\
    this port speaks TLS: use https:// or wss://\n";

/// The endpoint that a connection was upgraded to, and who calls. It is empty until the handshake
/// succeeds.
type Upgraded = Arc<OnceLock<(&'static str, Result<Caller, Denied>)>>;

fn router(shared: Arc<Shared>) -> Router {
    Router::new()
        .route("/", get(page))
        .route("/healthz", get(async || "ok\n"))
        .route("/ticket", post(ticket))
        .route("/chat", any(async |state, context, request| upgrade("/chat", state, context, &request)))
        .route("/live", any(async |state, context, request| upgrade("/live", state, context, &request)))
        .route("/echo", any(async |state, context, request| upgrade("/echo", state, context, &request)))
        .layer(middleware::from_fn(check_host))
        .layer(middleware::from_fn(log))
        .with_state(shared)
}

/// Serves the page. The content security policy allows only the page's own script and style, which
/// are marked with this run's nonce. Even if a member's text were mistaken for HTML, the browser
/// would not run a script in it.
async fn page(State(shared): State<Arc<Shared>>) -> Response {
    let nonce = &shared.nonce;
    let policy = format!(
        "default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; img-src data:; \
         connect-src 'self' ws: wss:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    );
    let headers = [(header::CONTENT_SECURITY_POLICY, policy), (header::CACHE_CONTROL, "no-cache".to_owned())];
    (headers, Html(PAGE.replace("NONCE", nonce))).into_response()
}

/// What a request has to know about its connection.
#[derive(Clone)]
struct Context {
    upgraded: Upgraded,
    caller: Caller,
}

/// Exchanges a token for a ticket: see [`tickets`].
async fn ticket(
    State(shared): State<Arc<Shared>>,
    Extension(context): Extension<Context>,
    headers: HeaderMap,
) -> Response {
    match origin::check_origin(&headers, &shared.allowed_origins) {
        Ok(()) => shared.tickets.issue(&context.caller, &headers),
        Err(response) => *response,
    }
}

/// Responds to the handshake: see [`handshake`]. If it succeeds, no more HTTP follows on the
/// connection.
fn upgrade(
    path: &'static str,
    State(shared): State<Arc<Shared>>,
    Extension(context): Extension<Context>,
    request: &Request,
) -> Response {
    let (method, version, headers) = (request.method(), request.version(), request.headers());
    match handshake::accept(method, version, headers, &shared.allowed_origins) {
        Ok(response) => {
            // A browser tells a script the code of a close frame, but nothing about a failed handshake.
            // So a caller without permission is refused after the upgrade.
            let caller = shared.tickets.caller(&context.caller, request.uri().query(), headers);
            let _ = context.upgraded.set((path, caller)); // Never set before: no request follows an upgrade.
            response
        }
        Err(response) => *response,
    }
}

async fn check_host(request: Request, next: middleware::Next) -> Response {
    match origin::check_host(request.version(), request.headers()) {
        Ok(()) => next.run(request).await,
        Err(response) => *response,
    }
}

async fn log(request: Request, next: middleware::Next) -> Response {
    let started = Instant::now();
    // Without the query, which may hold a ticket.
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let response = next.run(request).await;
    info!("{method} {path} {} in {:.1?}", response.status().as_u16(), started.elapsed());
    response
}

/// Serves until `shutdown` completes, and then closes every WebSocket with code 1001. After
/// [`drain_timeout`](tcp_socket::base::limits::ConnectionLimits::drain_timeout), it cuts the
/// connections that are still open.
///
/// Besides the server's own page, pages from `allowed_origins` may connect. A page from any
/// other origin gets 403.
///
/// # Errors
/// Fails if the listener's address cannot be read, or if the system cannot provide random
/// numbers. An error on a connection ends only that one.
pub async fn serve(
    listener: impl Into<Listener>,
    limits: Limits,
    allowed_origins: Vec<Origin>,
    shutdown: impl Future<Output = ()>,
) -> io::Result<()> {
    let Listener { tcp: listener, tls, principals } = listener.into();
    let own = own_origins(listener.local_addr()?, tls.is_some());
    let shared = Arc::new(Shared::new(limits, [own, allowed_origins].concat())?);
    let limits = &shared.limits;
    let router = router(shared.clone());
    let connections = Connections::new(&limits.connections);
    let tls = Acceptor::new(tls, limits.handshake_timeout, limits.connections.linger(), NOT_TLS);
    let serve = |stream, _peer| {
        let (router, shared, principals) = (router.clone(), shared.clone(), principals.clone());
        tls.handshake_then(stream, identity, connections.stopping(), move |mut stream, stopping| {
            let caller = Caller::new(principals.as_ref(), &stream);
            if let Either::Right(tls) = &mut stream
                && let TlsStream::Server(tls) = &mut **tls
            {
                tls.get_mut().1.set_buffer_limit(Some(TLS_BUFFER));
            }
            connection(stream, tcp, router, shared, caller, stopping)
        })
    };
    let refuse = |stream| {
        let shared = shared.clone();
        tls.handshake_then(stream, identity, connections.stopping(), |stream, _stopping| {
            refuse(stream, shared)
        })
    };
    // Cancel safe: `forget_absent` removes each member within one poll, so never halfway.
    select! {
        () = connections.accept(listener, shutdown, serve, refuse) => {}
        () = forget_absent(&shared) => {}
    }
    info!("stopping: no new connections are accepted, and open ones are closed with 1001");
    connections.finish(limits.connections.drain_timeout).await;
    Ok(())
}

/// Regularly removes chat members that have been away for too long. Never completes.
async fn forget_absent(shared: &Shared) {
    let away = shared.limits.away;
    let pause = (away / 4).clamp(Duration::from_millis(10), Duration::from_secs(1));
    loop {
        sleep(pause).await;
        shared.rooms.forget_absent(away);
    }
}

/// Returns the TCP connection below a stream.
fn tcp(stream: &Socket) -> &TcpStream {
    match stream {
        Either::Left(tcp) => tcp,
        Either::Right(tls) => tls.get_ref().0,
    }
}

/// Serves a connection in one task: first one HTTP request after another, and then, after an
/// upgrade, the WebSocket. `tcp` returns the TCP connection below the stream.
async fn connection<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    stream: S,
    tcp: fn(&S) -> &TcpStream,
    router: Router,
    shared: Arc<Shared>,
    caller: Caller,
    stopping: CancellationToken,
) {
    let context = Context { upgraded: Upgraded::default(), caller };
    // Boxed, so that these kilobytes are freed once the WebSocket begins.
    let http = Box::pin(http(stream, router, &context, &stopping));
    let Ok(Some((stream, early))) = timeout(shared.limits.handshake_timeout, http).await else {
        return;
    };
    match context.upgraded.get() {
        Some((path, caller)) => {
            let session = session(path, caller, &shared).unwrap_or_else(Session::Denied);
            connection::run(path, stream, tcp, early, session, &shared.limits, &stopping).await;
        }
        None => linger(stream, shared.limits.connections.linger()).await,
    }
}

fn session(path: &str, caller: &Result<Caller, Denied>, shared: &Shared) -> Result<Session, Denied> {
    let caller = caller.clone()?;
    Ok(match path {
        "/chat" => {
            caller.may(Operation::Chat)?;
            Session::Chat(ChatSession::new(shared.rooms.clone()))
        }
        "/live" => Session::Live(LiveSession::new(shared.live.clone(), caller)),
        _ => Session::Echo,
    })
}

/// Serves the HTTP on a connection. Returns the stream, and the bytes that were already read
/// beyond the HTTP: a client may send frames before it has received the server's 101.
async fn http<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    stream: S,
    router: Router,
    context: &Context,
    stopping: &CancellationToken,
) -> Option<(S, Vec<u8>)> {
    let service = service_fn(|mut request: hyper::Request<Incoming>| {
        request.extensions_mut().insert(context.clone());
        let router = router.clone();
        Box::pin(async move { Ok::<_, Infallible>(router.oneshot(request).await.into_response()) })
    });
    // A FIN closes only one direction (RFC 9293, section 3.6): the client may still read.
    let mut connection =
        http1::Builder::new().half_close(true).serve_connection(TokioIo::new(stream), service);
    let mut draining = false;
    loop {
        // Cancel safe: polling borrows the connection, which keeps its state.
        select! {
            ended = poll_fn(|cx| connection.poll_without_shutdown(cx)) => {
                if let Err(error) = ended {
                    debug!("connection ended: {error}");
                    if context.upgraded.get().is_some() {
                        return None; // The 101 was not delivered.
                    }
                }
                break;
            }
            () = stopping.cancelled(), if !draining => {
                std::pin::Pin::new(&mut connection).graceful_shutdown();
                draining = true;
            }
        }
    }
    let parts = connection.into_parts();
    Some((parts.io.into_inner(), parts.read_buf.to_vec()))
}

/// Responds with 503 to a client whose connection exceeds
/// [`max_connections`](tcp_socket::base::limits::ConnectionLimits::max_connections).
async fn refuse(mut stream: impl AsyncRead + AsyncWrite + Unpin, shared: Arc<Shared>) {
    const RESPONSE: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 1\r\nconnection: close\r\n\
        content-type: text/plain\r\ncontent-length: 21\r\n\r\ntoo many connections\n";
    let limit = shared.limits.connections.linger_time;
    if timeout(limit, stream.write_all(RESPONSE)).await.is_ok_and(|sent| sent.is_ok()) {
        linger(stream, shared.limits.connections.linger()).await;
    }
}
