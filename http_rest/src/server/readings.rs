//! `/readings`: recording a batch, and reading a station's readings back.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};

use tcp_socket::base::principals::Caller;

use super::conditional::Conditions;
use super::pagination;
use super::stations::not_found;
use super::store::{EventId, Store};
use crate::protocol::model::{Batch, ReadingList, ReadingQuery, Recorded};
use crate::protocol::problem::Problem;
use crate::protocol::validation::{UncheckedBatch, parse};

/// Record a batch
///
/// If any reading is invalid, none is recorded. Stations that don't exist yet are created.
//
// The status is 200 and not 201, because a reading has no address of its own that a
// `Location` could name (RFC 9110, section 15.3.2).
#[utoipa::path(post, path = "/readings", operation_id = "record_readings", tag = "readings", request_body = Batch<'_>,
    params(("Idempotency-Key" = Option<String>, Header, description = "Makes the request safe to repeat",
        nullable = false)),
    responses(
        (status = 200, description = "Recorded", body = Recorded, example = json!({"accepted": 1})),
        (status = 409, description = "The first request with this key is still running"),
        (status = 422, description = "Invalid readings, or the key was used with another body"),
        (status = 507, description = "No room for another station")))]
pub(crate) async fn record(
    State(store): State<Arc<Store>>,
    caller: Option<Extension<Caller>>,
    body: Bytes,
) -> Result<Json<Recorded>, Problem> {
    let batch: UncheckedBatch = parse(&body)?;
    let readings = batch.check()?;
    if let Some(Extension(caller)) = caller {
        caller.may_record(readings.iter().map(|reading| &*reading.station))?;
    }
    let accepted = store.record(readings)?;
    Ok(Json(Recorded { accepted }))
}

/// Read a station's readings, the latest recorded first
#[utoipa::path(get, path = "/readings", operation_id = "list_readings", tag = "readings", params(ReadingQuery), responses(
    (status = 200, description = "A page", body = ReadingList,
        headers(("Link" = String, description = "The next page, if there is one: `<…>; rel=\"next\"`"))),
    (status = 304, description = "If-None-Match is `*`, which matches every existing resource"),
    (status = 400, description = "A parameter is missing, unknown, or invalid"),
    (status = 404, description = "No such station, or the page was lost when the server was restarted")))]
pub(crate) async fn list(
    State(store): State<Arc<Store>>,
    query: Result<Query<ReadingQuery>, QueryRejection>,
    request: Request,
) -> Result<Response, Problem> {
    let Query(query) = query?;
    let limit = pagination::limit(query.limit)?;
    let before = match query.cursor.as_deref().map(EventId::parse) {
        None => None,
        Some(Some(id)) if id.instance_id == store.instance_id => Some(id.sequence),
        Some(Some(_)) => {
            let detail = "this page was lost when the server was restarted; start at the first page";
            return Err(Problem::new(StatusCode::NOT_FOUND, detail));
        }
        Some(None) => return Err(Problem::bad_request("unknown cursor: use the one from the Link header")),
    };
    let mut found = store.readings(&query, before, limit + 1).ok_or_else(|| not_found(&query.station))?;
    if Conditions::of(request.headers())?.not_modified(None)? {
        return Ok(StatusCode::NOT_MODIFIED.into_response());
    }
    let link = pagination::cut(&mut found, limit, |(sequence, _)| {
        let cursor = EventId { instance_id: store.instance_id, sequence: *sequence }.to_string();
        let next = ReadingQuery { limit: Some(limit), cursor: Some(cursor), ..query };
        // Strings and numbers can always be serialized.
        format!("/readings?{}", serde_urlencoded::to_string(next).unwrap_or_default())
    });
    let readings = found.into_iter().map(|(_, reading)| reading).collect();
    Ok((link, Json(ReadingList { readings })).into_response())
}
