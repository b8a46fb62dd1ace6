//! The server: accept connections, route requests, stop in good order.

use std::error::Error;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, HttpBody, to_bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use http_body_util::LengthLimitError;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use serde::de::DeserializeOwned;
use serde_json::error::Category;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::select;
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, info, warn};

use crate::limits::Limits;
use crate::problem::Problem;
use crate::readings;
use crate::store::Store;

/// What every handler can reach.
#[derive(Clone)]
pub struct App {
    pub(crate) store: Arc<Store>,
    pub(crate) limits: Arc<Limits>,
}

/// The routes. Everything else in this file is about connections.
fn router(app: App) -> Router {
    Router::new()
        .route("/readings", post(readings::record).get(readings::list))
        .route("/healthz", get(async || "ok\n"))
        .method_not_allowed_fallback(async || {
            Problem::new(
                StatusCode::METHOD_NOT_ALLOWED,
                "the Allow header lists the methods of this resource",
            )
        })
        .fallback(async |request: Request| {
            Problem::new(StatusCode::NOT_FOUND, format!("nothing lives at {}", request.uri().path()))
        })
        .layer(middleware::from_fn_with_state(app.clone(), around_each_request))
        .with_state(app)
}

/// The request timeout and the log line.
async fn around_each_request(State(app): State<App>, request: Request, next: Next) -> Response {
    let started = Instant::now();
    let (method, uri) = (request.method().clone(), request.uri().clone());
    let response = timeout(app.limits.request_timeout, next.run(request)).await.unwrap_or_else(|_elapsed| {
        Problem::new(StatusCode::REQUEST_TIMEOUT, "the request took too long to arrive or to answer")
            .into_response()
    });
    info!("{method} {uri} {} in {:.1?}", response.status().as_u16(), started.elapsed());
    response
}

/// Serves until `shutdown` completes, then finishes the requests in flight
/// within [`Limits::drain_timeout`].
///
/// # Errors
/// Only if the listener cannot be used at all; whatever goes wrong on one
/// connection ends that connection.
pub async fn serve(
    listener: TcpListener,
    limits: Limits,
    shutdown: impl Future<Output = ()>,
) -> io::Result<()> {
    listener.local_addr()?;
    let limits = Arc::new(limits);
    let app = router(App { store: Arc::default(), limits: limits.clone() });
    let slots = Arc::new(Semaphore::new(limits.max_connections));
    let connections = TaskTracker::new();
    let (stopping, cut) = (CancellationToken::new(), CancellationToken::new());

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
        let Ok(slot) = slots.clone().try_acquire_owned() else {
            connections.spawn(refuse(stream, limits.clone()));
            continue;
        };
        let connection = connection(stream, app.clone(), limits.clone(), stopping.clone());
        let cut = cut.clone();
        connections.spawn(async move {
            cut.run_until_cancelled(connection).await;
            drop(slot);
        });
    }

    drop(listener); // From here on a new connection is refused, not left waiting.
    stopping.cancel();
    connections.close();
    info!("stopping: no new connections, requests in flight are finished");
    if timeout(limits.drain_timeout, connections.wait()).await.is_err() {
        warn!("{} connections cut after {:?}", connections.len(), limits.drain_timeout);
        cut.cancel();
        connections.wait().await;
    }
    Ok(())
}

/// One connection: request after request, until either side has had enough.
async fn connection(stream: TcpStream, app: Router, limits: Arc<Limits>, stopping: CancellationToken) {
    // An answer is one small write; Nagle's algorithm would hold it back until
    // the client acknowledges the one before.
    if let Err(error) = stream.set_nodelay(true) {
        debug!("nodelay: {error}");
    }
    let mut connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header_timeout)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(app));
    let mut draining = false;
    loop {
        // Cancel safe: polling borrows the connection, which keeps its state.
        select! {
            ended = poll_fn(|cx| connection.poll_without_shutdown(cx)) => {
                if let Err(error) = ended {
                    debug!("connection ended: {error}");
                }
                break;
            }
            () = stopping.cancelled(), if !draining => {
                std::pin::Pin::new(&mut connection).graceful_shutdown();
                draining = true;
            }
        }
    }
    linger(connection.into_parts().io.into_inner(), &limits).await;
}

/// Ends a connection so that the peer can read what it was last told: says that
/// no more will be written, discards what still comes in, then closes.
async fn linger(mut stream: TcpStream, limits: &Limits) {
    if stream.shutdown().await.is_err() {
        return; // The peer is gone.
    }
    let discard = async {
        let mut left = limits.linger_bytes;
        let mut scratch = [0; 8 * 1024];
        while left > 0 {
            match stream.read(&mut scratch).await {
                Ok(0) | Err(_) => break,
                Ok(count) => left = left.saturating_sub(count),
            }
        }
    };
    let _ = timeout(limits.linger_time, discard).await;
}

/// Over the connection cap: says so and closes, without a task that could be
/// kept busy for longer than the lingering takes.
async fn refuse(mut stream: TcpStream, limits: Arc<Limits>) {
    const BODY: &str = r#"{"type":"about:blank","title":"Service Unavailable","status":503,"detail":"too many connections"}"#;
    let answer = format!(
        "HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/problem+json\r\nretry-after: 1\r\n\
         connection: close\r\ncontent-length: {}\r\n\r\n{BODY}",
        BODY.len()
    );
    if timeout(limits.linger_time, stream.write_all(answer.as_bytes())).await.is_ok_and(|sent| sent.is_ok()) {
        linger(stream, &limits).await;
    }
}

/// A request body as a value, or the problem with it: 415 not JSON, 413 too
/// long, 400 not well-formed, 422 well-formed but not of this shape.
pub(crate) async fn read_json<T: DeserializeOwned>(
    headers: &HeaderMap,
    body: Body,
    max_body: usize,
) -> Result<T, Problem> {
    let essence = headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.split(';').next())
        .unwrap_or_default();
    if !essence.trim().eq_ignore_ascii_case("application/json") {
        return Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "send application/json"));
    }
    let too_large =
        || Problem::new(StatusCode::PAYLOAD_TOO_LARGE, format!("a body holds at most {max_body} bytes"));
    // Refused before a byte of it is read, if the client says how much it is.
    if body.size_hint().lower() > max_body as u64 {
        return Err(too_large());
    }
    let bytes = to_bytes(body, max_body).await.map_err(|error| {
        if error.source().is_some_and(|source| source.is::<LengthLimitError>()) {
            too_large()
        } else {
            Problem::new(StatusCode::BAD_REQUEST, "the body broke off or was badly framed")
        }
    })?;
    serde_json::from_slice(&bytes).map_err(|error| {
        // serde_json's message names line and column by itself.
        let status = match error.classify() {
            Category::Data => StatusCode::UNPROCESSABLE_ENTITY,
            Category::Syntax | Category::Eof | Category::Io => StatusCode::BAD_REQUEST,
        };
        Problem::new(status, error.to_string())
    })
}
