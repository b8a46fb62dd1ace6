//! The server: which function responds to which request, and how it starts and stops.

mod conditional;
mod connection;
mod idempotency;
mod live;
mod openapi;
mod pagination;
mod readings;
mod request_layer;
mod state;
mod stations;
mod store;

use std::convert::identity;
use std::future::Future;
use std::io;
use std::sync::Arc;

use axum::Router;
use axum::extract::{DefaultBodyLimit, Request};
use axum::http::StatusCode;
use axum::middleware::from_fn_with_state;
use axum::routing::get;
use tcp_socket::base::accept::Connections;
use tcp_socket::base::principals::Caller;
use tcp_socket::base::tls::{Acceptor, Listener};
use tracing::info;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use self::idempotency::IdempotencyStore;
use self::request_layer::Requests;
use self::state::{AppState, Shared};
use self::store::Store;
use crate::limits::Limits;
use crate::protocol::problem::Problem;

/// The routes. `routes!` reads path and method from the handler's own description, which
/// also becomes part of `/openapi.json`, so the two cannot differ.
fn router(state: AppState, url: &str, checks_callers: bool) -> Router {
    let posts = OpenApiRouter::new()
        .routes(routes!(stations::create))
        .routes(routes!(readings::record))
        .route_layer(from_fn_with_state(state.clone(), idempotency::once))
        .route_layer(DefaultBodyLimit::disable()); // `Limits::max_body` applies instead.
    let (router, description) = OpenApiRouter::with_openapi(openapi::preamble(url, checks_callers))
        .routes(routes!(stations::list))
        .routes(routes!(stations::read, stations::replace, stations::patch, stations::delete))
        .routes(routes!(readings::list))
        .routes(routes!(live::live))
        .merge(posts)
        .split_for_parts();
    router
        .route("/openapi.json", openapi::route(description))
        .route("/healthz", get(async || "ok\n"))
        .method_not_allowed_fallback(async || {
            Problem::new(
                StatusCode::METHOD_NOT_ALLOWED,
                "this resource does not support this method; the Allow header lists those that it supports",
            )
        })
        .fallback(async |request: Request| {
            Problem::new(StatusCode::NOT_FOUND, format!("there is no resource at {}", request.uri().path()))
        })
        .with_state(state)
}

/// Serves until `shutdown` completes, then finishes the requests in flight within
/// [`drain_timeout`](tcp_socket::base::limits::ConnectionLimits::drain_timeout).
///
/// # Errors
/// If the listener can't be used at all. An error on one connection ends only that
/// connection.
pub async fn serve(
    listener: impl Into<Listener>,
    limits: Limits,
    shutdown: impl Future<Output = ()>,
) -> io::Result<()> {
    let Listener { tcp: listener, tls, principals } = listener.into();
    let scheme = if tls.is_some() { "https" } else { "http" };
    let addr = listener.local_addr()?;
    // 0.0.0.0 is not the address of a server, so the description then refers to its own.
    let url = if addr.ip().is_unspecified() { "/".to_owned() } else { format!("{scheme}://{addr}") };
    let limits = Arc::new(limits);
    let (handshake_timeout, linger) = (limits.handshake_timeout, limits.connections.linger());
    let tls = Acceptor::new(tls, handshake_timeout, linger, connection::NOT_TLS.as_bytes());
    let connections = Connections::new(&limits.connections);
    let state = AppState(Arc::new(Shared {
        store: Arc::new(Store::new(limits.live_kept)),
        idempotency: Arc::new(IdempotencyStore::new(limits.max_keys, limits.key_lifetime)),
        limits: limits.clone(),
        stopping: connections.stopping(),
    }));
    let router = router(state, &url, principals.is_some());
    let requests = Arc::new(Requests::new(limits.clone()));
    let serve = |stream, _peer| {
        let (router, requests, principals) = (router.clone(), requests.clone(), principals.clone());
        tls.handshake_then(stream, identity, connections.stopping(), move |stream, stopping| {
            let caller = Caller::new(principals.as_ref(), &stream);
            connection::run(stream, router, requests, caller, stopping)
        })
    };
    let refuse = |stream| {
        tls.handshake_then(stream, identity, connections.stopping(), move |stream, _stopping| {
            connection::refuse(stream, linger)
        })
    };
    connections.accept(listener, shutdown, serve, refuse).await;
    info!("stopping: no new connections; finishing requests in flight");
    connections.finish(limits.connections.drain_timeout).await;
    Ok(())
}
