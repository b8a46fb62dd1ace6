//! The state that handlers share. Each asks only for the parts that it needs, such as
//! `State<Arc<Store>>`, and axum gets them from [`AppState`].

use std::sync::Arc;

use axum::extract::FromRef;
use tokio_util::sync::CancellationToken;

use super::idempotency::IdempotencyStore;
use super::store::Store;
use crate::limits::Limits;

/// Everything that requests share. axum clones it several times for each request, so it
/// is a single pointer.
#[derive(Clone)]
pub(crate) struct AppState(pub(crate) Arc<Shared>);

/// The parts of [`AppState`].
pub(crate) struct Shared {
    pub(crate) store: Arc<Store>,
    pub(crate) idempotency: Arc<IdempotencyStore>,
    pub(crate) limits: Arc<Limits>,
    /// Canceled when the server stops; ends the live streams.
    pub(crate) stopping: CancellationToken,
}

/// Lets handlers ask for a field by its type.
macro_rules! parts {
    ($($field:ident: $part:ty),*) => {$(
        impl FromRef<AppState> for $part {
            fn from_ref(state: &AppState) -> Self {
                state.0.$field.clone()
            }
        }
    )*};
}

parts!(store: Arc<Store>, idempotency: Arc<IdempotencyStore>, limits: Arc<Limits>, stopping: CancellationToken);
