//! The server: accept connections, route requests, stop in good order.

pub mod body;
pub mod conditional;
pub mod connection;
pub mod idempotency;
pub mod live;
pub mod openapi;
pub mod pagination;
pub mod readings;
pub mod request_layer;
pub mod stations;
pub mod store;

use std::future::Future;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use axum::http::StatusCode;
use axum::middleware::from_fn_with_state;
use axum::routing::get;
use tokio::net::TcpListener;
use tokio::select;
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{info, warn};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::idempotency::Keys;
use crate::limits::Limits;
use crate::problem::Problem;
use crate::request_layer::around_each_request;
use crate::store::Store;

/// What every handler can reach.
#[derive(Clone)]
pub(crate) struct App(Arc<Shared>);

/// See [`App`].
pub(crate) struct Shared {
    pub(crate) store: Store,
    pub(crate) keys: Keys,
    pub(crate) limits: Arc<Limits>,
    /// A permit for each request that may be worked on at the same time.
    pub(crate) in_flight: Semaphore,
    /// How many requests were given an id.
    pub(crate) requests: AtomicU64,
    /// Ends the live streams when the server stops.
    pub(crate) stopping: CancellationToken,
}

impl std::ops::Deref for App {
    type Target = Shared;

    fn deref(&self) -> &Shared {
        &self.0
    }
}

/// The routes. `routes!` takes path and method from the handler's own
/// description, which also becomes `/openapi.json`: the two can't differ.
fn router(app: App) -> Router {
    let (router, description) = OpenApiRouter::with_openapi(openapi::preamble())
        .routes(routes!(stations::list, stations::create))
        .routes(routes!(stations::read, stations::replace, stations::patch, stations::delete))
        .routes(routes!(readings::list, readings::record))
        .routes(routes!(live::live))
        .split_for_parts();
    router
        .route("/openapi.json", openapi::route(description))
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
        .layer(from_fn_with_state(app.clone(), around_each_request))
        .with_state(app)
}

/// Serves until `shutdown` completes, then finishes the requests in flight
/// within [`Limits::drain_timeout`].
///
/// # Errors
/// Only if the listener can't be used at all; whatever goes wrong on one
/// connection ends that connection.
pub async fn serve(
    listener: TcpListener,
    limits: Limits,
    shutdown: impl Future<Output = ()>,
) -> io::Result<()> {
    listener.local_addr()?;
    let limits = Arc::new(limits);
    let stopping = CancellationToken::new();
    let app = router(App(Arc::new(Shared {
        store: Store::new(limits.live_kept),
        keys: Keys::new(limits.max_keys, limits.key_lifetime),
        in_flight: Semaphore::new(limits.max_in_flight),
        requests: AtomicU64::new(0),
        stopping: stopping.clone(),
        limits: limits.clone(),
    })));
    let slots = Arc::new(Semaphore::new(limits.max_connections));
    let refusals = Arc::new(Semaphore::new(limits.max_refusals));
    let connections = TaskTracker::new();
    let cut = CancellationToken::new();

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
            let connection = connection::run(stream, app.clone(), limits.clone(), stopping.clone());
            let cut = cut.clone();
            connections.spawn(async move {
                cut.run_until_cancelled(connection).await;
                drop(slot);
            });
        } else if let Ok(slot) = refusals.clone().try_acquire_owned() {
            let refusal = connection::refuse(stream, limits.clone());
            tokio::spawn(async move {
                refusal.await;
                drop(slot);
            });
        }
    }

    drop(listener); // From here on a new connection is refused, not left waiting.
    info!("stopping: no new connections, requests in flight are finished");
    stopping.cancel();
    connections.close();
    if timeout(limits.drain_timeout, connections.wait()).await.is_err() {
        warn!("{} connections are still open after {:?}: cut", connections.len(), limits.drain_timeout);
        cut.cancel();
        connections.wait().await;
    }
    Ok(())
}
