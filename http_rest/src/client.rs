//! The client: one method per thing the server can do, each with a typed
//! result and a typed error.

use std::time::Duration;

use reqwest::{RequestBuilder, Response};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::model::Reading;
use crate::problem::{PROBLEM_JSON, Problem};
use crate::readings::{ReadingList, Recorded};

/// Longest time to wait for a connection.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// Longest time from a call to the end of its answer.
pub const TOTAL_TIMEOUT: Duration = Duration::from_secs(30);

/// Why a call failed.
#[derive(Debug, Error)]
pub enum Error {
    /// No connection: the request was never sent.
    #[error("no server at {base}")]
    Unreachable {
        /// The address that was tried.
        base: String,
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
        /// The first bytes of the body.
        body: String,
    },
    /// The connection broke or the time ran out; the request may or may not
    /// have taken effect.
    #[error("the request was sent, but no whole answer came back")]
    Broken(#[source] reqwest::Error),
}

/// A client of one server. Clones share their connections; calls may run side
/// by side. HTTP/1.1 pairs answers with requests by order, so that each call
/// in flight has a connection of its own, kept for the next.
#[derive(Debug, Clone)]
pub struct Client {
    http: reqwest::Client,
    base: String,
}

/// The body of `POST /readings`.
#[derive(Serialize)]
struct Batch<'a> {
    readings: &'a [Reading],
}

impl Client {
    /// A client of the server at `base`, such as `http://127.0.0.1:8080`.
    /// Nothing is sent yet.
    ///
    /// # Errors
    /// [`Error::Broken`] if the HTTP library cannot start.
    pub fn new(base: &str) -> Result<Self, Error> {
        let http = reqwest::Client::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(TOTAL_TIMEOUT)
            .tcp_nodelay(true)
            .no_proxy() // A proxy from the environment would stand between the two terminals.
            .build()
            .map_err(Error::Broken)?;
        Ok(Self { http, base: base.trim_end_matches('/').to_owned() })
    }

    /// Records a batch, all of it or nothing, and returns how many readings
    /// were accepted.
    ///
    /// # Errors
    /// [`Error::Problem`] with status 422 names each invalid field.
    pub async fn record(&self, readings: &[Reading]) -> Result<usize, Error> {
        let request = self.http.post(format!("{}/readings", self.base)).json(&Batch { readings });
        let recorded: Recorded = self.call(request).await?;
        Ok(recorded.accepted)
    }

    /// The newest `limit` readings of a station, the oldest of them first.
    ///
    /// # Errors
    /// [`Error::Problem`] with status 404 if there is no such station.
    pub async fn readings(&self, station: &str, limit: usize) -> Result<Vec<Reading>, Error> {
        let request = self
            .http
            .get(format!("{}/readings", self.base))
            .query(&[("station", station), ("limit", &limit.to_string())]);
        let list: ReadingList = self.call(request).await?;
        Ok(list.readings)
    }

    async fn call<T: for<'de> Deserialize<'de>>(&self, request: RequestBuilder) -> Result<T, Error> {
        let response = request.send().await.map_err(|error| {
            if error.is_connect() {
                Error::Unreachable { base: self.base.clone(), source: error }
            } else {
                Error::Broken(error)
            }
        })?;
        if response.status().is_success() {
            // An unreadable body is as good as a broken connection.
            return response.json().await.map_err(Error::Broken);
        }
        Err(read_error(response).await)
    }
}

async fn read_error(response: Response) -> Error {
    let status = response.status().as_u16();
    let is_problem = response
        .headers()
        .get("content-type")
        .is_some_and(|value| value.as_bytes().starts_with(PROBLEM_JSON.as_bytes()));
    let body = match response.text().await {
        Ok(body) => body,
        Err(error) => return Error::Broken(error),
    };
    match serde_json::from_str(&body) {
        Ok(problem) if is_problem => Error::Problem(Box::new(problem)),
        _ => Error::Unexpected { status, body: body.chars().take(200).collect() },
    }
}
