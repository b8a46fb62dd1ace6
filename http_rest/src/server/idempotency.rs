//! `Idempotency-Key` (draft-ietf-httpapi-idempotency-key-header): makes a `POST` safe to
//! repeat.
//!
//! A client that gets no response can't know whether its request was executed. So it sends
//! the same request again, with the same key. If the server has already executed it, it
//! only repeats its first response. Without a key, a client that tries again risks a
//! duplicate, and one that gives up risks a loss.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use axum::body::{Body, Bytes, to_bytes};
use axum::extract::{Request, State};
use axum::http::{self, HeaderMap, HeaderValue, StatusCode};
use axum::middleware::Next;
use axum::response::Response;

use tcp_socket::base::principals::Caller;

use super::conditional::Conditions;
use super::request_layer::{NoQuery, read_body, require_type};
use crate::limits::{Limits, MAX_KEY};
use crate::protocol::headers::{IDEMPOTENCY_KEY, JSON, REPLAYED};
use crate::protocol::problem::{KEY_IN_USE, KEY_REUSED, Problem};

/// The keys that the server has seen, with the responses to their requests.
pub(crate) struct IdempotencyStore {
    /// Keyed with random numbers, so that nobody can construct two bodies with the same hash.
    hasher: RandomState,
    capacity: usize,
    lifetime: Duration,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    /// `None` while the first request is being handled.
    entries: HashMap<Scope, Option<Finished>>,
    /// The finished ones in the order in which they expire.
    finished: VecDeque<(Instant, Scope)>,
}

/// Path and key: the same key on another path is another key. If the server knows the caller, its
/// name precedes the path, so nobody gets the response to somebody else.
type Scope = (String, String);

/// An executed request. Only successful ones are kept: after an error, nothing has changed,
/// and the client may send a corrected request with the same key.
#[derive(Clone)]
struct Finished {
    /// A hash of the request's body.
    fingerprint: u64,
    response: http::Response<Bytes>,
}

/// Whether a key is new or its first request is finished.
enum Claim<'a> {
    New(Guard<'a>),
    Finished(Finished),
}

/// Reserves a key while its first request runs. If it is dropped without a response (after
/// an error, a disconnect, or a timeout), the key is free again.
struct Guard<'a> {
    store: &'a IdempotencyStore,
    scope: Option<Scope>,
}

impl IdempotencyStore {
    /// Returns a store that remembers up to `capacity` keys, each for `lifetime`.
    pub(crate) fn new(capacity: usize, lifetime: Duration) -> Self {
        Self { hasher: RandomState::new(), capacity, lifetime, inner: Mutex::default() }
    }

    /// Looks a key up, and reserves it if it is new. Returns 409 if the first request with
    /// it is still running.
    fn claim(&self, scope: Scope) -> Result<Claim<'_>, Problem> {
        let mut inner = self.lock();
        let now = Instant::now();
        while inner.finished.front().is_some_and(|(end, _)| *end <= now) {
            inner.forget_oldest();
        }
        match inner.entries.get(&scope) {
            Some(None) => Err(Problem {
                kind: KEY_IN_USE.into(),
                retry_after: Some(Duration::from_secs(1)),
                ..Problem::new(
                    StatusCode::CONFLICT,
                    "the first request with this Idempotency-Key is still running",
                )
            }),
            Some(Some(finished)) => Ok(Claim::Finished(finished.clone())),
            None => {
                inner.entries.insert(scope.clone(), None);
                Ok(Claim::New(Guard { store: self, scope: Some(scope) }))
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn forget_oldest(&mut self) {
        if let Some((_, scope)) = self.finished.pop_front() {
            self.entries.remove(&scope);
        }
    }
}

impl Guard<'_> {
    fn finish(mut self, finished: Finished) {
        let Some(scope) = self.scope.take() else { return };
        let mut inner = self.store.lock();
        inner.finished.push_back((Instant::now() + self.store.lifetime, scope.clone()));
        inner.entries.insert(scope, Some(finished));
        if inner.finished.len() > self.store.capacity {
            inner.forget_oldest();
        }
    }
}

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        if let Some(scope) = self.scope.take() {
            self.store.lock().entries.remove(&scope);
        }
    }
}

/// Runs the handler of a `POST`, unless a request with the same key is running or has succeeded.
/// It wraps the handler, which doesn't know about keys, and passes it the whole body.
///
/// The key is claimed before the body is read, so a request that repeats an unfinished one
/// gets its 409 at once.
pub(crate) async fn once(
    State(store): State<Arc<IdempotencyStore>>,
    State(limits): State<Arc<Limits>>,
    NoQuery: NoQuery,
    request: Request,
    next: Next,
) -> Result<Response, Problem> {
    let (parts, body) = request.into_parts();
    require_type(&parts.headers, JSON)?;
    Conditions::of(&parts.headers)?.check(None)?; // A collection has no ETag.
    let claim = match key(&parts.headers)? {
        Some(key) => {
            let caller = parts.extensions.get().and_then(Caller::name).unwrap_or_default();
            Some(store.claim((format!("{caller}{}", parts.uri.path()), key))?)
        }
        None => None,
    };
    let body = read_body(body, limits.max_body).await?;
    let request = Request::from_parts(parts, Body::from(body.clone()));
    let Some(claim) = claim else { return Ok(next.run(request).await) };
    let fingerprint = store.hasher.hash_one(&body);
    let guard = match claim {
        Claim::New(guard) => guard,
        Claim::Finished(first) if first.fingerprint == fingerprint => {
            let mut response = first.response;
            response.headers_mut().insert(REPLAYED, HeaderValue::from_static("true"));
            return Ok(response.map(Body::from));
        }
        Claim::Finished(_) => {
            return Err(Problem {
                kind: KEY_REUSED.into(),
                ..Problem::new(
                    StatusCode::UNPROCESSABLE_ENTITY,
                    "this Idempotency-Key was used with another body; a new request needs a new key",
                )
            });
        }
    };
    // From here on, nothing has to wait: the handler already has the whole body, and its response
    // is not a stream. So an executed request is remembered even if the client disconnects.
    let response = next.run(request).await;
    if !response.status().is_success() {
        return Ok(response);
    }
    let (parts, body) = response.into_parts();
    let body = to_bytes(body, usize::MAX).await.map_err(|error| Problem::internal(&error))?;
    let response = http::Response::from_parts(parts, body);
    guard.finish(Finished { fingerprint, response: response.clone() });
    Ok(response.map(Body::from))
}

/// Returns the key of a request, if it has one, or 400 if the key is not 1 to [`MAX_KEY`]
/// visible ASCII characters.
fn key(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    let Some(value) = headers.get(IDEMPOTENCY_KEY) else { return Ok(None) };
    let key = value
        .to_str()
        .ok()
        .filter(|key| (1..=MAX_KEY).contains(&key.len()) && key.bytes().all(|b| b.is_ascii_graphic()));
    let wrong =
        || Problem::bad_request(format!("Idempotency-Key must be 1 to {MAX_KEY} visible ASCII characters"));
    key.map(|key| Some(key.to_owned())).ok_or_else(wrong)
}
