//! `Idempotency-Key` (draft-ietf-httpapi-idempotency-key-header): makes a `POST`
//! safe to repeat.
//!
//! A client that gets no answer can't know whether its request was executed. It
//! sends the same request again with the same key, and the server executes it
//! once: the second time it repeats its first answer. Without that, trying again
//! risks a duplicate, and not trying again risks a loss.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};

use crate::body;
use crate::problem::{self, Problem};
use crate::server::App;

/// The header.
pub const IDEMPOTENCY_KEY: &str = "idempotency-key";

/// Says that an answer was given before, for an earlier request with the same key.
pub const REPLAYED: &str = "idempotency-replayed";

/// Longest key, in bytes.
pub const MAX_KEY: usize = 128;

/// A finished answer, small enough to keep.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl IntoResponse for Answer {
    fn into_response(self) -> Response {
        (self.status, self.headers, self.body).into_response()
    }
}

/// The keys that were seen, and the answers to them.
pub(crate) struct Keys {
    /// Keyed with random numbers, so that nobody can make two bodies that look equal.
    hasher: RandomState,
    capacity: usize,
    lifetime: Duration,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    /// By path and key; both `POST`s have the same method.
    entries: HashMap<Scope, Entry>,
    /// The finished ones in the order in which they end.
    finished: VecDeque<(Instant, Scope)>,
}

type Scope = (&'static str, String);

enum Entry {
    /// The first request is still being worked on.
    Running,
    /// It was executed. Only successes are kept: after an error nothing has
    /// happened, and the client may correct its request under the same key.
    Finished { fingerprint: u64, answer: Answer },
}

/// What a key turns out to be.
enum Claim<'a> {
    New(Guard<'a>),
    Running,
    Finished { fingerprint: u64, answer: Answer },
}

/// Holds a key while its first request runs. Dropped without an answer (an error,
/// a client that left, a timeout), it sets the key free.
struct Guard<'a> {
    keys: &'a Keys,
    scope: Option<Scope>,
}

impl Keys {
    pub(crate) fn new(capacity: usize, lifetime: Duration) -> Self {
        Self { hasher: RandomState::new(), capacity, lifetime, inner: Mutex::default() }
    }

    fn claim(&self, scope: Scope) -> Claim<'_> {
        let mut inner = self.lock();
        let now = Instant::now();
        while inner.finished.front().is_some_and(|(end, _)| *end <= now) {
            inner.forget_oldest();
        }
        match inner.entries.get(&scope) {
            Some(Entry::Running) => Claim::Running,
            Some(Entry::Finished { fingerprint, answer }) => {
                Claim::Finished { fingerprint: *fingerprint, answer: answer.clone() }
            }
            None => {
                inner.entries.insert(scope.clone(), Entry::Running);
                Claim::New(Guard { keys: self, scope: Some(scope) })
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
    fn finish(mut self, fingerprint: u64, answer: &Answer) {
        let Some(scope) = self.scope.take() else { return };
        let mut inner = self.keys.lock();
        inner.finished.push_back((Instant::now() + self.keys.lifetime, scope.clone()));
        inner.entries.insert(scope, Entry::Finished { fingerprint, answer: answer.clone() });
        if inner.finished.len() > self.keys.capacity {
            inner.forget_oldest();
        }
    }
}

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        if let Some(scope) = self.scope.take() {
            self.keys.lock().entries.remove(&scope);
        }
    }
}

/// Reads the body and does `work` with it, at most once for each key.
///
/// The key is taken before the body is read: a request that repeats one still on
/// its way is told 409 at once. Between `work` and the keeping of its answer
/// nothing awaits, so that a client that leaves can't separate the two.
pub(crate) async fn once(
    app: &App,
    path: &'static str,
    headers: &HeaderMap,
    body: Body,
    work: impl FnOnce(&[u8]) -> Result<Answer, Problem>,
) -> Result<Answer, Problem> {
    let Some(key) = key(headers)? else {
        let body = body::read(body, app.limits.max_body).await?;
        return work(&body);
    };
    match app.keys.claim((path, key)) {
        Claim::New(guard) => {
            let body = body::read(body, app.limits.max_body).await?;
            let answer = work(&body)?;
            guard.finish(app.keys.hasher.hash_one(&body), &answer);
            Ok(answer)
        }
        Claim::Running => Err(Problem {
            kind: problem::KEY_IN_USE.into(),
            retry_after: Some(Duration::from_secs(1)),
            ..Problem::new(
                StatusCode::CONFLICT,
                "the first request with this Idempotency-Key is still running",
            )
        }),
        Claim::Finished { fingerprint, mut answer } => {
            let body = body::read(body, app.limits.max_body).await?;
            if app.keys.hasher.hash_one(&body) != fingerprint {
                return Err(Problem {
                    kind: problem::KEY_REUSED.into(),
                    ..Problem::new(
                        StatusCode::UNPROCESSABLE_ENTITY,
                        "this Idempotency-Key was used with another body; a new request needs a new key",
                    )
                });
            }
            answer.headers.insert(REPLAYED, HeaderValue::from_static("true"));
            Ok(answer)
        }
    }
}

/// The key of a request, if it has one; 400 unless it has 1 to [`MAX_KEY`] visible ASCII
/// characters.
fn key(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    let Some(value) = headers.get(IDEMPOTENCY_KEY) else { return Ok(None) };
    let key = value
        .to_str()
        .ok()
        .filter(|key| (1..=MAX_KEY).contains(&key.len()) && key.bytes().all(|b| b.is_ascii_graphic()));
    match key {
        Some(key) => Ok(Some(key.to_owned())),
        None => {
            let detail = format!("Idempotency-Key has 1 to {MAX_KEY} visible ASCII characters");
            Err(Problem::new(StatusCode::BAD_REQUEST, detail))
        }
    }
}
