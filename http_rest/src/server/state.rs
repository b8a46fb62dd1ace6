//! What handlers can ask for. Each takes only what it needs, such as
//! `State<Arc<Store>>`: axum takes that out of [`AppState`].

use std::sync::Arc;

use axum::extract::FromRef;
use tokio_util::sync::CancellationToken;

use super::idempotency::IdempotencyStore;
use super::request_layer::Requests;
use super::store::Store;
use crate::limits::Limits;

/// Everything that requests share.
#[derive(Clone, FromRef)]
pub(crate) struct AppState {
    pub(crate) store: Arc<Store>,
    pub(crate) idempotency: Arc<IdempotencyStore>,
    pub(crate) requests: Arc<Requests>,
    pub(crate) limits: Arc<Limits>,
    /// Canceled when the server stops; ends the live streams. axum clones the state for
    /// each request, and cloning the token itself would take its lock.
    pub(crate) stopping: Arc<CancellationToken>,
}
