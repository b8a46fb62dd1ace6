//! The server: accept connections, answer HTTP, hand upgraded connections over,
//! stop in good order.

use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::pin;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::header;
use axum::response::{Html, IntoResponse, Response};
use axum::routing::{any, get};
use axum::{Extension, middleware};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::select;
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt;
use tracing::{debug, info, warn};

use crate::chat::{Chat, ChatSession};
use crate::close::linger;
use crate::connection::{self, Session, random_id};
use crate::handshake;
use crate::limits::Limits;
use crate::live::{Live, LiveSession};
use crate::origin::{Origin, own_origins};

/// The browser page, whole: no build step, nothing loaded from elsewhere.
const PAGE: &str = include_str!("page.html");

/// What the connections share.
struct App {
    chat: Arc<Chat>,
    live: Arc<Live>,
    limits: Limits,
    /// Origins of pages that this server itself serves.
    own_origins: Vec<Origin>,
    nonce: String,
}

/// Where a connection's upgrade leads, once its handshake has succeeded.
type Upgraded = Arc<OnceLock<&'static str>>;

fn router(app: Arc<App>) -> Router {
    Router::new()
        .route("/", get(page))
        .route("/healthz", get(async || "ok\n"))
        .route("/chat", any(async |state, upgraded, request| upgrade("/chat", state, upgraded, &request)))
        .route("/live", any(async |state, upgraded, request| upgrade("/live", state, upgraded, &request)))
        .route("/echo", any(async |state, upgraded, request| upgrade("/echo", state, upgraded, &request)))
        .layer(middleware::from_fn(check_host))
        .layer(middleware::from_fn(log))
        .with_state(app)
}

/// The page runs its own script and style, marked by this run's nonce, and talks
/// to its own server. Even if somebody's text were taken for HTML, no script in
/// it would run.
async fn page(State(app): State<Arc<App>>) -> Response {
    let nonce = &app.nonce;
    let policy = format!(
        "default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; img-src data:; \
         connect-src 'self' ws: wss:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    );
    let headers = [(header::CONTENT_SECURITY_POLICY, policy), (header::CACHE_CONTROL, "no-cache".to_owned())];
    (headers, Html(PAGE.replace("NONCE", nonce))).into_response()
}

/// The handshake; see [`handshake`]. It is the last HTTP on its connection.
fn upgrade(
    path: &'static str,
    State(app): State<Arc<App>>,
    Extension(upgraded): Extension<Upgraded>,
    request: &Request,
) -> Response {
    let is_allowed =
        |origin: &Origin| app.own_origins.contains(origin) || app.limits.allowed_origins.contains(origin);
    match handshake::accept(request.method(), request.version(), request.headers(), is_allowed) {
        Ok(response) => {
            let _ = upgraded.set(path); // Is empty: nothing follows an upgrade.
            response
        }
        Err(response) => *response,
    }
}

async fn check_host(request: Request, next: middleware::Next) -> Response {
    match handshake::check_host(request.version(), request.headers()) {
        Ok(()) => next.run(request).await,
        Err(response) => *response,
    }
}

async fn log(request: Request, next: middleware::Next) -> Response {
    let started = Instant::now();
    let (method, uri) = (request.method().clone(), request.uri().clone());
    let response = next.run(request).await;
    info!("{method} {uri} {} in {:.1?}", response.status().as_u16(), started.elapsed());
    response
}

/// Serves until `shutdown` completes, then closes every connection with code
/// 1001 within [`Limits::drain_timeout`].
///
/// # Errors
/// Only if the listener cannot be used at all, or the system has no random
/// numbers; whatever goes wrong on one connection ends that connection.
pub async fn serve(
    listener: TcpListener,
    limits: Limits,
    shutdown: impl Future<Output = ()>,
) -> io::Result<()> {
    let own_origins = own_origins(listener.local_addr()?);
    let (boot_id, nonce) = (random_id().map_err(io::Error::other)?, random_id().map_err(io::Error::other)?);
    let (chat, live) = (Arc::new(Chat::new(boot_id.clone())), Arc::new(Live::new(boot_id)));
    let app = Arc::new(App { chat, live, limits, own_origins, nonce });
    let limits = &app.limits;
    let router = router(app.clone());
    let slots = Arc::new(Semaphore::new(limits.max_connections));
    let refusals = Arc::new(Semaphore::new(limits.max_refusals));
    let connections = TaskTracker::new();
    let (stopping, cut) = (CancellationToken::new(), CancellationToken::new());
    connections.spawn(forget_absent(app.clone(), stopping.clone()));

    let mut shutdown = pin!(shutdown);
    loop {
        // Cancel safe: an accept that is dropped has taken no connection.
        let stream = select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _peer)) => stream,
                Err(error) => {
                    // Most often out of descriptors: wait for some to be closed.
                    warn!("accept: {error}");
                    sleep(Duration::from_millis(50)).await;
                    continue;
                }
            },
            () = &mut shutdown => break,
        };
        if let Ok(slot) = slots.clone().try_acquire_owned() {
            let connection = connection(stream, router.clone(), app.clone(), stopping.clone());
            let cut = cut.clone();
            connections.spawn(async move {
                cut.run_until_cancelled(connection).await;
                drop(slot);
            });
        } else if let Ok(slot) = refusals.clone().try_acquire_owned() {
            let refusal = refuse(stream, app.clone());
            tokio::spawn(async move {
                refusal.await;
                drop(slot);
            });
        }
    }

    drop(listener); // From here on a new connection is refused, not left waiting.
    info!("stopping: no new connections, those open are closed with 1001");
    stopping.cancel();
    connections.close();
    if timeout(limits.drain_timeout, connections.wait()).await.is_err() {
        warn!("{} connections are still open after {:?}: cut", connections.len(), limits.drain_timeout);
        cut.cancel();
        connections.wait().await;
    }
    Ok(())
}

async fn forget_absent(app: Arc<App>, stopping: CancellationToken) {
    let pause = (app.limits.away / 4).clamp(Duration::from_millis(10), Duration::from_secs(1));
    while stopping.run_until_cancelled(sleep(pause)).await.is_some() {
        app.chat.forget_absent(app.limits.away);
    }
}

/// One connection: HTTP, request after request, and then perhaps WebSocket, all
/// in one task.
async fn connection(stream: TcpStream, router: Router, app: Arc<App>, stopping: CancellationToken) {
    // An answer is one small write; Nagle's algorithm would hold it back until
    // the client acknowledges the one before.
    if let Err(error) = stream.set_nodelay(true) {
        debug!("nodelay: {error}");
    }
    let upgraded = Upgraded::default();
    // Boxed, so that its kilobytes are not kept for as long as the WebSocket lives.
    let http = Box::pin(http(stream, router, &upgraded, &stopping));
    let Ok(Some((stream, early))) = timeout(app.limits.handshake_timeout, http).await else {
        return;
    };
    match upgraded.get() {
        Some(path) => {
            let session = match *path {
                "/chat" => Session::Chat(ChatSession::new(app.chat.clone())),
                "/live" => Session::Live(LiveSession::new(app.live.clone())),
                _ => Session::Echo,
            };
            connection::run(path, stream, early, session, &app.limits, &stopping).await;
        }
        None => linger(stream, &app.limits).await,
    }
}

/// The HTTP on a connection. Gives back the stream when it has ended, and what
/// was read beyond it: a client need not wait for the server's 101 before it
/// sends frames.
async fn http(
    stream: TcpStream,
    router: Router,
    upgraded: &Upgraded,
    stopping: &CancellationToken,
) -> Option<(TcpStream, Vec<u8>)> {
    let service = service_fn(|mut request: hyper::Request<Incoming>| {
        request.extensions_mut().insert(upgraded.clone());
        let router = router.clone();
        Box::pin(async move { Ok::<_, Infallible>(router.oneshot(request).await.into_response()) })
    });
    // A FIN closes one direction only (RFC 9293, section 3.6): the client still listens.
    let mut connection =
        http1::Builder::new().half_close(true).serve_connection(TokioIo::new(stream), service);
    let mut draining = false;
    loop {
        // Cancel safe: polling borrows the connection, which keeps its state.
        select! {
            ended = poll_fn(|cx| connection.poll_without_shutdown(cx)) => {
                if let Err(error) = ended {
                    debug!("connection ended: {error}");
                    if upgraded.get().is_some() {
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

/// Over the connection cap: says so and closes.
async fn refuse(mut stream: TcpStream, app: Arc<App>) {
    debug!("over the connection cap");
    const ANSWER: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 1\r\nconnection: close\r\n\
        content-type: text/plain\r\ncontent-length: 21\r\n\r\ntoo many connections\n";
    let limit = app.limits.linger_time;
    if timeout(limit, stream.write_all(ANSWER)).await.is_ok_and(|sent| sent.is_ok()) {
        linger(stream, &app.limits).await;
    }
}
