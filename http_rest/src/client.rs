//! The client: one method per thing the server can do, each with a typed
//! result and a typed error.

use std::time::Duration;

use reqwest::header::{CONTENT_TYPE, ETAG, IF_MATCH, IF_NONE_MATCH, LINK, LOCATION};
use reqwest::{Method, RequestBuilder, StatusCode, redirect};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::body::is_type;
use crate::idempotency::IDEMPOTENCY_KEY;
use crate::model::{Metric, Reading};
use crate::problem::{PROBLEM_JSON, Problem, retry_after};
use crate::readings::{Batch, ReadingList, Recorded};
use crate::retry::{Repeat, retry};
use crate::stations::{MERGE_PATCH, Station, StationList, StationPatch};
use crate::watch::Watch;

/// Longest time to wait for a connection.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// Longest time for one attempt, from the request to the end of its answer. All
/// attempts together have [`TOTAL_TIMEOUT`](crate::retry::TOTAL_TIMEOUT).
pub const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(10);

/// Longest body of an answer, in bytes; the server's longest, a page of 500, has
/// less than 100 kB.
pub const MAX_ANSWER: usize = 8 * 1024 * 1024;

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Not the address of a server.
    #[error("{url:?} is not of the form http://host:port")]
    Address {
        /// What was given.
        url: String,
    },
    /// The request could not be made.
    #[error("no request can be made of this")]
    Setup(#[source] reqwest::Error),
    /// No connection: the request was never sent.
    #[error("no server at {url}")]
    Unreachable {
        /// The address that was tried.
        url: String,
        /// What the transport said.
        #[source]
        source: reqwest::Error,
    },
    /// The server answered, with an error.
    #[error("{0}")]
    Problem(Box<Problem>),
    /// The server answered with something that is not of this interface.
    #[error("unexpected answer {status}: {body}")]
    Unexpected {
        /// The HTTP status.
        status: u16,
        /// The first characters of the body.
        body: String,
        /// The response's `Retry-After`.
        retry_after: Option<Duration>,
    },
    /// The server pointed to another address. This client follows no redirect: a change
    /// could be executed by a server that the user has never named (RFC 9110, section 15.4).
    #[error("{url} answered {status} and points to {location}; give --url the address that you mean")]
    Redirect {
        /// The HTTP status.
        status: u16,
        /// The address that answered.
        url: String,
        /// The `Location` header as it came.
        location: String,
    },
    /// The connection broke or the attempt's time ran out; the request may have been
    /// executed, or not.
    #[error("the connection broke; the request may have been executed")]
    Broken(#[source] reqwest::Error),
    /// All attempts together took too long; the request may have been executed, or not.
    #[error("no answer in time; the request may have been executed")]
    TimedOut,
}

impl Error {
    /// The HTTP status, if there was an answer.
    pub fn status(&self) -> Option<u16> {
        match self {
            Self::Problem(problem) => Some(problem.status),
            Self::Unexpected { status, .. } | Self::Redirect { status, .. } => Some(*status),
            _ => None,
        }
    }

    /// When the server says that another attempt makes sense (`Retry-After`).
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Problem(problem) => problem.retry_after,
            Self::Unexpected { retry_after, .. } => *retry_after,
            _ => None,
        }
    }
}

/// A client of one server. Clones share their connections; calls may run side
/// by side. HTTP/1.1 pairs answers with requests by order, so that each call
/// in flight has a connection of its own, kept for the next.
#[derive(Debug, Clone)]
pub struct Client {
    pub(crate) http: reqwest::Client,
    url: String,
}

/// A resource and the version that was read.
#[derive(Debug, Clone, PartialEq)]
pub struct Versioned<T> {
    /// The resource.
    pub value: T,
    /// Its entity tag, for a conditional read or change.
    pub etag: String,
}

/// A page of a list.
#[derive(Debug, Clone, PartialEq)]
pub struct Page<T> {
    /// What is on it.
    pub items: Vec<T>,
    /// The link to the next page; `None` on the last.
    pub next: Option<String>,
}

/// Which readings to ask for.
#[derive(Debug, Clone, Default, Serialize)]
pub struct ReadingQuery {
    /// Whose.
    pub station: String,
    /// Only this metric.
    pub metric: Option<Metric>,
    /// Earliest `recorded_at`, in ms since the Unix epoch.
    pub from: Option<u64>,
    /// Latest `recorded_at`, itself not included.
    pub to: Option<u64>,
    /// Most readings on a page, 1 to 500.
    pub limit: Option<usize>,
}

impl Client {
    /// A client of the server at `url`, such as `http://127.0.0.1:8080`.
    /// Nothing is sent yet.
    ///
    /// # Errors
    /// [`Error::Address`] if `url` is none, [`Error::Setup`] if the HTTP library cannot
    /// start.
    pub fn new(url: &str) -> Result<Self, Error> {
        if !reqwest::Url::parse(url).is_ok_and(|url| url.scheme() == "http" && url.has_host()) {
            return Err(Error::Address { url: url.to_owned() });
        }
        let http = reqwest::Client::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .tcp_nodelay(true)
            .redirect(redirect::Policy::none())
            .no_proxy() // A proxy from the environment would stand between the two terminals.
            .build()
            .map_err(Error::Setup)?;
        Ok(Self { http, url: url.trim_end_matches('/').to_owned() })
    }

    /// Records a batch, all of it or nothing, and returns how many readings
    /// were accepted. Sent again after a failure, it is recorded once.
    ///
    /// # Errors
    /// [`Error::Problem`] with status 422 names each invalid field.
    pub async fn record(&self, readings: &[Reading]) -> Result<usize, Error> {
        let (key, batch) = (new_key(), Batch { readings });
        let request = || self.request(Method::POST, "/readings").header(IDEMPOTENCY_KEY, &key).json(&batch);
        let answer = self.call(Repeat::Keyed, request).await?;
        Ok(answer.json::<Recorded>()?.accepted)
    }

    /// The first page of a station's readings, the latest recorded first.
    ///
    /// # Errors
    /// [`Error::Problem`] with status 404 if there is no such station.
    pub async fn readings(&self, query: &ReadingQuery) -> Result<Page<Reading>, Error> {
        let answer =
            self.call(Repeat::Idempotent, || self.request(Method::GET, "/readings").query(query)).await?;
        Ok(Page { next: answer.next(), items: answer.json::<ReadingList>()?.readings })
    }

    /// The page that [`Page::next`] of another page links to.
    ///
    /// # Errors
    /// [`Error::Problem`] with status 404 if the server was restarted in between.
    pub async fn more_readings(&self, next: &str) -> Result<Page<Reading>, Error> {
        let answer = self.call(Repeat::Idempotent, || self.request(Method::GET, next)).await?;
        Ok(Page { next: answer.next(), items: answer.json::<ReadingList>()?.readings })
    }

    /// Readings of one station, or of all, as they are recorded from now on.
    ///
    /// # Errors
    /// If the server can't be reached at first; later the stream reconnects for as long as it takes.
    pub async fn watch(&self, station: Option<&str>) -> Result<Watch, Error> {
        Watch::start(self.clone(), station).await
    }

    /// The first page of stations, in the order of their ids; `limit` is 1 to 500.
    ///
    /// # Errors
    /// Any [`Error`].
    pub async fn stations(&self, limit: usize) -> Result<Page<Station>, Error> {
        self.more_stations(&format!("/stations?limit={limit}")).await
    }

    /// The page that [`Page::next`] of another page links to.
    ///
    /// # Errors
    /// Any [`Error`].
    pub async fn more_stations(&self, next: &str) -> Result<Page<Station>, Error> {
        let answer = self.call(Repeat::Idempotent, || self.request(Method::GET, next)).await?;
        Ok(Page { next: answer.next(), items: answer.json::<StationList>()?.stations })
    }

    /// Makes a station.
    ///
    /// # Errors
    /// [`Error::Problem`] with status 409 if the id is taken, 422 if a field is invalid.
    pub async fn create_station(&self, station: &Station) -> Result<Versioned<Station>, Error> {
        let key = new_key();
        let request = || self.request(Method::POST, "/stations").header(IDEMPOTENCY_KEY, &key).json(station);
        self.call(Repeat::Keyed, request).await?.versioned()
    }

    /// Reads a station.
    ///
    /// # Errors
    /// [`Error::Problem`] with status 404 if there is none.
    pub async fn station(&self, id: &str) -> Result<Versioned<Station>, Error> {
        self.call(Repeat::Idempotent, || self.request(Method::GET, &station_path(id))).await?.versioned()
    }

    /// Reads a station unless it is still at the version of that `etag`.
    ///
    /// # Errors
    /// [`Error::Problem`] with status 404 if there is none.
    pub async fn station_if_changed(
        &self,
        id: &str,
        etag: &str,
    ) -> Result<Option<Versioned<Station>>, Error> {
        let request = || self.request(Method::GET, &station_path(id)).header(IF_NONE_MATCH, etag);
        let answer = self.call(Repeat::Idempotent, request).await?;
        if answer.status == StatusCode::NOT_MODIFIED {
            return Ok(None);
        }
        answer.versioned().map(Some)
    }

    /// Replaces a station, if it is still at the version of that `etag`.
    ///
    /// # Errors
    /// [`Error::Problem`] with status 412 if somebody changed it. After a broken
    /// connection the request is sent again, and a 412 may then be due to the
    /// first attempt: read the station to know.
    pub async fn replace_station(&self, station: &Station, etag: &str) -> Result<Versioned<Station>, Error> {
        let request =
            || self.request(Method::PUT, &station_path(&station.id)).header(IF_MATCH, etag).json(station);
        self.call(Repeat::Idempotent, request).await?.versioned()
    }

    /// Changes some fields of a station, if it is still at the version of that
    /// `etag`. A patch is not idempotent by its method (RFC 5789), so it is sent
    /// again only if it certainly was not executed.
    ///
    /// # Errors
    /// [`Error::Problem`] with status 412 if somebody changed it.
    pub async fn patch_station(
        &self,
        id: &str,
        patch: &StationPatch,
        etag: &str,
    ) -> Result<Versioned<Station>, Error> {
        // `json` sets a content type only where there is none yet.
        let request = || {
            let request = self.request(Method::PATCH, &station_path(id)).header(IF_MATCH, etag);
            request.header(CONTENT_TYPE, MERGE_PATCH).json(patch)
        };
        self.call(Repeat::Harmful, request).await?.versioned()
    }

    /// Deletes a station and its readings, if it is still at the version of that `etag`.
    ///
    /// # Errors
    /// [`Error::Problem`] with status 412 if somebody changed it. After a broken
    /// connection the request is sent again, and a 404 may then be due to the
    /// first attempt.
    pub async fn delete_station(&self, id: &str, etag: &str) -> Result<(), Error> {
        let request = || self.request(Method::DELETE, &station_path(id)).header(IF_MATCH, etag);
        self.call(Repeat::Idempotent, request).await.map(drop)
    }

    pub(crate) fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.http.request(method, format!("{}{path}", self.url))
    }

    async fn call(&self, repeat: Repeat, request: impl Fn() -> RequestBuilder) -> Result<Answer, Error> {
        retry(repeat, || async { self.send(request().timeout(ATTEMPT_TIMEOUT)).await?.read().await }).await
    }

    pub(crate) async fn send(&self, request: RequestBuilder) -> Result<Incoming, Error> {
        match request.send().await {
            Ok(response) => Ok(Incoming(response)),
            Err(source) if source.is_connect() => Err(Error::Unreachable { url: self.url.clone(), source }),
            Err(source) if source.is_builder() => Err(Error::Setup(source)),
            Err(source) => Err(Error::Broken(source)),
        }
    }
}

/// An answer of which the header is here.
pub(crate) struct Incoming(pub(crate) reqwest::Response);

/// A whole answer that is no error.
struct Answer {
    status: StatusCode,
    headers: reqwest::header::HeaderMap,
    body: Vec<u8>,
}

impl Incoming {
    /// Reads the body, and turns an error into its type.
    async fn read(mut self) -> Result<Answer, Error> {
        let mut body = Vec::new();
        while let Some(chunk) = self.0.chunk().await.map_err(Error::Broken)? {
            body.extend_from_slice(&chunk);
            if body.len() > MAX_ANSWER {
                break; // What is cut off here is no JSON, and reported as that.
            }
        }
        let answer = Answer { status: self.0.status(), headers: self.0.headers().clone(), body };
        if answer.status.is_redirection() && answer.status != StatusCode::NOT_MODIFIED {
            let location =
                answer.headers.get(LOCATION).map(|value| String::from_utf8_lossy(value.as_bytes()));
            return Err(Error::Redirect {
                status: answer.status.as_u16(),
                url: self.0.url().to_string(),
                location: location.as_deref().unwrap_or("no other address").to_owned(),
            });
        }
        if answer.status.is_client_error() || answer.status.is_server_error() {
            return Err(answer.into_error());
        }
        Ok(answer)
    }

    /// The error in an answer that should have been a stream.
    pub(crate) async fn into_error(self) -> Error {
        match self.read().await {
            Ok(answer) => answer.unexpected(),
            Err(error) => error,
        }
    }
}

impl Answer {
    fn json<T: DeserializeOwned>(&self) -> Result<T, Error> {
        serde_json::from_slice(&self.body).map_err(|_| self.unexpected())
    }

    fn versioned<T: DeserializeOwned>(&self) -> Result<Versioned<T>, Error> {
        let etag =
            self.headers.get(ETAG).and_then(|tag| tag.to_str().ok()).ok_or_else(|| self.unexpected())?;
        Ok(Versioned { value: self.json()?, etag: etag.to_owned() })
    }

    /// The target of `Link: <target>; rel="next"`.
    fn next(&self) -> Option<String> {
        let link = self.headers.get(LINK)?.to_str().ok()?;
        let (target, parameters) = link.strip_prefix('<')?.split_once('>')?;
        parameters.contains("rel=\"next\"").then(|| target.to_owned())
    }

    fn into_error(self) -> Error {
        let problem = if is_type(&self.headers, PROBLEM_JSON) {
            Problem::from_json(self.status, &self.body)
        } else {
            None
        };
        let retry_after = retry_after(&self.headers);
        problem.map_or_else(
            || self.unexpected(),
            |problem| Error::Problem(Box::new(Problem { retry_after, ..problem })),
        )
    }

    fn unexpected(&self) -> Error {
        let body = String::from_utf8_lossy(&self.body).chars().take(200).collect();
        let retry_after = retry_after(&self.headers);
        Error::Unexpected { status: self.status.as_u16(), body, retry_after }
    }
}

/// A key that nobody else uses: 128 random bits.
fn new_key() -> String {
    format!("{:032x}", fastrand::u128(..))
}

/// An id that is none (`a/b`) must not become another path.
fn station_path(id: &str) -> String {
    let plain = |b: &u8| b.is_ascii_alphanumeric() || *b == b'-';
    let id: String =
        id.bytes().map(|b| if plain(&b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect();
    format!("/stations/{id}")
}
