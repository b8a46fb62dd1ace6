//! `/readings`: record a batch, read a station's readings back.

use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::{FromRequestParts, Query, Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use utoipa::IntoParams;

use super::conditional::Conditions;
use super::pagination;
use super::stations::not_found;
use super::store::{EventId, ReadingFilter, Store};
use crate::protocol::model::{Batch, Metric, ReadingList, Recorded};
use crate::protocol::problem::Problem;
use crate::protocol::validation::{UncheckedBatch, parse};

/// Record a batch
///
/// All of it or, on any error, nothing of it. Stations that are not known yet are created.
//
// The status is 200 and not 201, because a reading has no address of its own that a
// `Location` could name (RFC 9110, section 15.3.2).
#[utoipa::path(post, path = "/readings", operation_id = "record_readings", tag = "readings", request_body = Batch<'_>,
    params(("Idempotency-Key" = Option<String>, Header, description = "Makes the request safe to repeat",
        nullable = false)),
    responses(
        (status = 200, description = "Recorded", body = Recorded, example = json!({"accepted": 1})),
        (status = 409, description = "The first request with this key still runs"),
        (status = 422, description = "Invalid readings, or the key was used with another body"),
        (status = 507, description = "No room for another station")))]
pub(crate) async fn record(State(store): State<Arc<Store>>, body: Bytes) -> Result<Json<Recorded>, Problem> {
    let batch: UncheckedBatch = parse(&body)?;
    let readings = batch.check()?;
    let accepted = store.record(readings)?;
    Ok(Json(Recorded { accepted }))
}

/// The query string of `GET /readings`.
#[derive(Deserialize, IntoParams, FromRequestParts)]
#[from_request(via(Query), rejection(Problem))]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(crate) struct Filter {
    /// Whose readings.
    station: String,
    /// Only this metric.
    #[param(nullable = false)]
    metric: Option<Metric>,
    /// Earliest `recorded_at`, in ms since the Unix epoch.
    #[param(nullable = false)]
    from: Option<u64>,
    /// Latest `recorded_at`, itself not included.
    #[param(nullable = false)]
    to: Option<u64>,
    /// Maximum number of readings on this page; 100 if not given.
    #[param(nullable = false)]
    limit: Option<usize>,
    /// From the `Link` header of the page before.
    #[param(nullable = false, pattern = "^[0-9a-f]{16}-[0-9a-f]{1,16}$")]
    cursor: Option<String>,
}

/// Read a station's readings, the latest recorded first
#[utoipa::path(get, path = "/readings", operation_id = "list_readings", tag = "readings", params(Filter), responses(
    (status = 200, description = "A page", body = ReadingList,
        headers(("Link" = String, description = "The next page, if there is one: `<…>; rel=\"next\"`"))),
    (status = 304, description = "If-None-Match is `*`, which matches every existing resource"),
    (status = 400, description = "A parameter is missing, unknown, or invalid"),
    (status = 404, description = "No such station, or the page was lost when the server was restarted")))]
pub(crate) async fn list(
    State(store): State<Arc<Store>>,
    filter: Filter,
    request: Request,
) -> Result<Response, Problem> {
    let limit = pagination::limit(filter.limit)?;
    let cursor = filter.cursor.as_deref().map(|text| match EventId::parse(text) {
        None => Err(Problem::bad_request("unknown cursor: use the one from the Link header")),
        Some(id) if id.instance_id == store.instance_id => Ok(id.sequence),
        Some(_) => {
            Err(Problem::new(StatusCode::NOT_FOUND, "this page was lost when the server was restarted"))
        }
    });
    let Filter { station, metric, from, to, .. } = filter;
    let filter = ReadingFilter { metric, from, to, before: cursor.transpose()?, limit: limit + 1 };
    let mut found = store.readings(&station, &filter).ok_or_else(|| not_found(&station))?;
    if Conditions::of(request.headers())?.not_modified(None)? {
        return Ok(StatusCode::NOT_MODIFIED.into_response());
    }
    let more = found.len() > limit;
    found.truncate(limit);
    let next = found.last().filter(|_| more).map(|(sequence, _)| {
        let mut next = format!("/readings?station={station}&limit={limit}");
        let optional = [
            ("metric", metric.map(|m| m.name().to_owned())),
            ("from", from.map(|f| f.to_string())),
            ("to", to.map(|t| t.to_string())),
        ];
        for (name, value) in optional {
            if let Some(value) = value {
                next += &format!("&{name}={value}");
            }
        }
        next + &format!("&cursor={}", EventId { instance_id: store.instance_id, sequence: *sequence })
    });
    let readings = found.into_iter().map(|(_, reading)| reading).collect();
    Ok((pagination::next_link(next), Json(ReadingList { readings })).into_response())
}
