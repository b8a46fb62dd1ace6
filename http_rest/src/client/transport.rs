//! Sends requests and reads their responses.

use reqwest::header::{ETAG, HeaderMap, LINK, LOCATION};
use reqwest::{Method, RequestBuilder, StatusCode, redirect};
use serde::de::DeserializeOwned;
use tcp_socket::base::tls::{self, HTTP_1_1, trust_nobody};
use tcp_socket::base::token::Token;

use super::error::Error;
use super::retry::{Repeat, retry};
use crate::limits::{ATTEMPT_TIMEOUT, CONNECT_TIMEOUT, MAX_RESPONSE};
use crate::protocol::headers::{PROBLEM_JSON, is_type};
use crate::protocol::problem::{Problem, retry_after};

/// The connections to one server.
#[derive(Debug, Clone)]
pub(super) struct Transport {
    http: reqwest::Client,
    url: String,
    token: Option<Token>,
}

impl Transport {
    pub(super) fn new(url: &str, tls: &tls::ClientOptions) -> Result<Self, Error> {
        let parsed = reqwest::Url::parse(url).ok().filter(|url| ["http", "https"].contains(&url.scheme()));
        let Some(parsed) = parsed.filter(reqwest::Url::has_host) else {
            return Err(Error::Address { url: url.to_owned() });
        };
        let token = tls.token().map_err(|error| Error::Token(format!("{error:#}")))?;
        let tls = tls.config(parsed.scheme() == "https", Some(HTTP_1_1));
        let tls = tls.map_err(|error| Error::Tls(format!("{error:#}")))?;
        let http = reqwest::Client::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .tcp_nodelay(true)
            .redirect(redirect::Policy::none())
            .no_proxy() // Connect directly, whatever proxy the environment names.
            // By default, reqwest would trust the system's authorities, and read all of them.
            .tls_backend_preconfigured(tls.map_or_else(trust_nobody, |tls| (*tls).clone()))
            .build()
            .map_err(Error::Setup)?;
        Ok(Self { http, url: url.trim_end_matches('/').to_owned(), token })
    }

    pub(super) fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let request = self.http.request(method, format!("{}{path}", self.url));
        match &self.token {
            None => request,
            Some(token) => request.bearer_auth(token.secret()),
        }
    }

    /// Makes a call, in as many attempts as [`retry`] allows.
    pub(super) async fn call(
        &self,
        repeat: Repeat,
        request: impl Fn() -> RequestBuilder,
    ) -> Result<Response, Error> {
        retry(repeat, || async { read(self.send(request().timeout(ATTEMPT_TIMEOUT)).await?).await }).await
    }

    /// Sends a request once and waits for the header of its response.
    pub(super) async fn send(&self, request: RequestBuilder) -> Result<reqwest::Response, Error> {
        request.send().await.map_err(|source| match tls::fault(&source, !source.is_connect()) {
            Some(fault) => Error::Tls(fault),
            None if source.is_connect() => Error::Unreachable { url: self.url.clone(), source },
            None if source.is_builder() => Error::Setup(source),
            None => Error::Broken(source),
        })
    }
}

/// Reads a whole response. Returns an error if it is a redirect, a 4xx, or a 5xx.
async fn read(mut incoming: reqwest::Response) -> Result<Response, Error> {
    let mut body = Vec::new();
    while let Some(chunk) = incoming.chunk().await.map_err(Error::Broken)? {
        body.extend_from_slice(&chunk);
        if body.len() > MAX_RESPONSE {
            break; // A body cut off here is not valid JSON, so it is reported as unexpected.
        }
    }
    let response = Response { status: incoming.status(), headers: incoming.headers().clone(), body };
    if response.status.is_redirection() && response.status != StatusCode::NOT_MODIFIED {
        let location = response.headers.get(LOCATION).map(|value| String::from_utf8_lossy(value.as_bytes()));
        return Err(Error::Redirect {
            status: response.status.as_u16(),
            url: incoming.url().to_string(),
            location: location.as_deref().unwrap_or("an unknown address").to_owned(),
        });
    }
    if response.status.is_client_error() || response.status.is_server_error() {
        return Err(response.error());
    }
    Ok(response)
}

/// Returns the error for a response that should have been a live stream.
pub(super) async fn read_error(incoming: reqwest::Response) -> Error {
    read(incoming).await.map_or_else(|error| error, |response| response.unexpected())
}

/// A complete response.
pub(super) struct Response {
    pub(super) status: StatusCode,
    headers: HeaderMap,
    body: Vec<u8>,
}

impl Response {
    pub(super) fn json<T: DeserializeOwned>(&self) -> Result<T, Error> {
        serde_json::from_slice(&self.body).map_err(|_| self.unexpected())
    }

    pub(super) fn etag(&self) -> Result<String, Error> {
        let tag = self.headers.get(ETAG).and_then(|tag| tag.to_str().ok());
        tag.map(str::to_owned).ok_or_else(|| self.unexpected())
    }

    /// Returns the target of `Link: <target>; rel="next"`.
    pub(super) fn next(&self) -> Option<String> {
        let link = self.headers.get(LINK)?.to_str().ok()?;
        let (target, parameters) = link.strip_prefix('<')?.split_once('>')?;
        parameters.contains("rel=\"next\"").then(|| target.to_owned())
    }

    fn error(&self) -> Error {
        let problem = Problem::from_json(self.status, &self.body);
        match problem.filter(|_| is_type(&self.headers, PROBLEM_JSON)) {
            Some(problem) => {
                Error::Problem(Box::new(Problem { retry_after: retry_after(&self.headers), ..problem }))
            }
            None => self.unexpected(),
        }
    }

    fn unexpected(&self) -> Error {
        let body = String::from_utf8_lossy(&self.body).chars().take(200).collect();
        Error::Unexpected { status: self.status.as_u16(), body, retry_after: retry_after(&self.headers) }
    }
}
