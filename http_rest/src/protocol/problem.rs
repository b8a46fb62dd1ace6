//! Errors as `application/problem+json` (RFC 9457): one JSON object with parts for
//! programs (`type`, `status`) and parts for people (`title`, `detail`).

use std::borrow::Cow;
use std::error::Error;
use std::fmt;
use std::time::{Duration, SystemTime};

use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tcp_socket::base::principals::Denied;
use utoipa::ToSchema;

use super::headers::{IDENTITY, PROBLEM_JSON};
use crate::limits::MAX_FIELD_ERRORS;

/// The [`Problem::kind`] of a 409: the first request with this `Idempotency-Key` is still running.
pub(crate) const KEY_IN_USE: &str = "/problems/idempotency-key-in-use";

/// The [`Problem::kind`] of a 422: this `Idempotency-Key` was used with another body.
pub(crate) const KEY_REUSED: &str = "/problems/idempotency-key-reused";

/// An error response.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct Problem {
    /// Identifies the kind of problem. `about:blank` means that the status alone does.
    #[serde(rename = "type")]
    #[schema(value_type = String)]
    pub kind: Cow<'static, str>,
    /// The kind in words; the same for every occurrence.
    #[schema(value_type = String)]
    pub title: Cow<'static, str>,
    /// The HTTP status, repeated here so that a saved body is complete.
    pub status: u16,
    /// Says in words what is wrong with this request.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub detail: String,
    /// The invalid fields, at most 50 of them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<FieldError>,
    /// How long to wait before trying again. It travels as the `Retry-After` header, in whole
    /// seconds.
    #[serde(skip)]
    pub retry_after: Option<Duration>,
    /// Whether the content coding of the request's body was refused. If so, `Accept-Encoding` in
    /// the response names the accepted one (RFC 9110, section 12.5.3).
    #[serde(skip)]
    pub coding_refused: bool,
}

/// One field that was refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FieldError {
    /// The field's place in the request body, as a JSON pointer in a URI fragment (RFC 6901,
    /// section 6): `#/readings/3/value` is field `value` of reading 3, counted from 0.
    pub pointer: String,
    /// What is wrong with it.
    pub detail: String,
}

impl Problem {
    /// Returns a problem of type `about:blank`: its status describes it well enough.
    pub(crate) fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        Self {
            kind: "about:blank".into(),
            title: status.canonical_reason().unwrap_or("Error").into(),
            status: status.as_u16(),
            detail: detail.into(),
            errors: Vec::new(),
            retry_after: None,
            coding_refused: false,
        }
    }

    /// Returns 400: the request is malformed.
    pub(crate) fn bad_request(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, detail)
    }

    /// Returns 500 and logs the reason, which is a bug in this program.
    pub(crate) fn internal(error: &dyn Error) -> Self {
        tracing::error!("cannot build a response: {error}");
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "")
    }

    /// Reads the problem in the body of a response with this status. Returns `None` if the body is
    /// not a JSON object. All members are optional; one with a wrong type is ignored (RFC 9457,
    /// section 3.1). The status is that of the response, whatever the body says.
    pub(crate) fn from_json(status: StatusCode, body: &[u8]) -> Option<Self> {
        fn member<T: DeserializeOwned>(object: &Value, name: &str) -> Option<T> {
            T::deserialize(object.get(name)?).ok()
        }
        let object: Value = serde_json::from_slice(body).ok().filter(Value::is_object)?;
        let blank = Self::new(status, member::<String>(&object, "detail").unwrap_or_default());
        let errors: Vec<Value> = member(&object, "errors").unwrap_or_default();
        Some(Self {
            kind: member::<String>(&object, "type").map_or(blank.kind, Cow::Owned),
            title: member::<String>(&object, "title").map_or(blank.title, Cow::Owned),
            errors: errors.into_iter().filter_map(|error| FieldError::deserialize(error).ok()).collect(),
            ..blank
        })
    }

    /// Returns 422: the request is well-formed, but this field is invalid.
    pub(crate) fn field(pointer: &str, detail: impl Into<String>) -> Self {
        Self::invalid_fields(vec![FieldError { pointer: pointer.to_owned(), detail: detail.into() }])
    }

    /// Returns 422: the request is well-formed, but these fields are invalid.
    pub(crate) fn invalid_fields(mut errors: Vec<FieldError>) -> Self {
        let total = errors.len();
        errors.truncate(MAX_FIELD_ERRORS);
        let detail = if total > errors.len() {
            format!("{total} fields are invalid; the first {} are listed", errors.len())
        } else if total == 1 {
            "one field is invalid".to_owned()
        } else {
            format!("{total} fields are invalid")
        };
        Self { errors, ..Self::new(StatusCode::UNPROCESSABLE_ENTITY, detail) }
    }
}

impl From<Denied> for Problem {
    fn from(denied: Denied) -> Self {
        let status = match denied {
            Denied::Unauthenticated(_) => StatusCode::UNAUTHORIZED,
            Denied::Forbidden(_) => StatusCode::FORBIDDEN,
        };
        Self::new(status, denied.to_string())
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.status, self.title)?;
        if !self.detail.is_empty() {
            write!(f, ": {}", self.detail)?;
        }
        for error in &self.errors {
            write!(f, "; {} {}", error.pointer, error.detail)?;
        }
        Ok(())
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = (status, axum::Json(&self)).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(PROBLEM_JSON));
        if let Some(after) = self.retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(after.as_secs().max(1)));
        }
        if status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer")); // RFC 6750, section 3
        }
        if self.coding_refused {
            headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static(IDENTITY));
        }
        response
    }
}

/// Reads `Retry-After`: seconds, or a date in any of HTTP's three forms (RFC 9110,
/// section 10.2.3). Returns `None` for anything else.
pub(crate) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let value = headers.get(header::RETRY_AFTER)?.to_str().ok()?;
    if !value.is_empty() && value.bytes().all(|b| b.is_ascii_digit()) {
        return Some(Duration::from_secs(value.parse().unwrap_or(u64::MAX)));
    }
    let date = httpdate::parse_http_date(value).ok()?;
    Some(date.duration_since(SystemTime::now()).unwrap_or_default())
}
