//! `/readings`: record a batch, read a station's readings back.

use axum::Json;
use axum::body::Body;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use tcp_socket::base::json::Object;
use utoipa::{IntoParams, ToSchema};

use crate::body::{self, JSON};
use crate::conditional::Conditions;
use crate::idempotency::{self, Answer};
use crate::live::EventId;
use crate::model::{MAX_BATCH, Metric, Reading};
use crate::pagination::{self, NoQuery};
use crate::problem::Problem;
use crate::server::App;
use crate::stations::{full, not_found, to_json};
use crate::store::Wanted;
use crate::validation::UncheckedReading;

/// The body of `POST /readings`, as a client sends it.
#[derive(Debug, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Batch<'a> {
    /// All of them are recorded, or none.
    #[schema(min_items = 1, max_items = 10_000)]
    pub readings: &'a [Reading],
}

/// The same as it arrives.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct UncheckedBatch {
    readings: Vec<Object<UncheckedReading>>,
}

/// The answer to `POST /readings`.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct Recorded {
    /// How many readings were accepted: all of the batch.
    pub accepted: usize,
}

/// The answer to `GET /readings`.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct ReadingList {
    /// The latest recorded first.
    pub readings: Vec<Reading>,
}

/// Record a batch
///
/// All of it or, on any error, nothing of it. Stations that are not known yet are created.
//
// The answer is 200 and not 201: a reading has no address of its own that a
// `Location` could name (RFC 9110, section 15.3.2).
#[utoipa::path(post, path = "/readings", operation_id = "record_readings", tag = "readings", request_body = Batch<'_>,
    params(("Idempotency-Key" = Option<String>, Header, description = "Makes the request safe to repeat",
        nullable = false, pattern = "^[!-~]{1,128}$")),
    responses(
        (status = 200, description = "Recorded", body = Recorded, example = json!({"accepted": 1})),
        (status = 400, description = "No JSON, or a bad Idempotency-Key"),
        (status = 409, description = "The first request with this key still runs"),
        (status = 412, description = "If-Match or If-None-Match is false"),
        (status = 413, description = "The body is too long"),
        (status = 415, description = "Not application/json, or compressed"),
        (status = 422, description = "Invalid readings, or the key was used with another body"),
        (status = 507, description = "No room for another station")))]
pub(crate) async fn record(
    State(app): State<App>,
    NoQuery: NoQuery,
    headers: HeaderMap,
    body: Body,
) -> Result<Answer, Problem> {
    body::require_type(&headers, JSON)?;
    Conditions::of(&headers)?.check(None)?;
    idempotency::once(&app, "/readings", &headers, body, |body| {
        let readings = check(body::parse(body)?)?;
        let accepted = app.store.record(readings).map_err(|_no_room| full())?;
        let headers = HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static(JSON))]);
        Ok(Answer { status: StatusCode::OK, headers, body: to_json(&Recorded { accepted })? })
    })
    .await
}

fn check(batch: UncheckedBatch) -> Result<Vec<Reading>, Problem> {
    let count = batch.readings.len();
    if !(1..=MAX_BATCH).contains(&count) {
        return Err(Problem::field(
            "#/readings",
            format!("a batch holds 1 to {MAX_BATCH} readings, not {count}"),
        ));
    }
    let mut errors = Vec::new();
    let mut readings = Vec::with_capacity(count);
    for (index, Object(reading)) in batch.readings.into_iter().enumerate() {
        readings.extend(reading.check(index, &mut errors));
    }
    if !errors.is_empty() {
        return Err(Problem::invalid_fields(errors));
    }
    Ok(readings)
}

/// The query string of `GET /readings`.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(crate) struct Filter {
    /// Whose readings.
    #[param(pattern = "^[a-z0-9-]{1,32}$")]
    station: String,
    /// Only this metric.
    #[param(nullable = false)]
    metric: Option<Metric>,
    /// Earliest `recorded_at`, in ms since the Unix epoch.
    #[param(nullable = false, maximum = 253_402_300_799_999_i64)]
    from: Option<u64>,
    /// Latest `recorded_at`, itself not included.
    #[param(nullable = false, maximum = 253_402_300_799_999_i64)]
    to: Option<u64>,
    /// Most readings on this page; 100 if not given.
    #[param(minimum = 1, maximum = 500, nullable = false)]
    limit: Option<usize>,
    /// From the `Link` header of the page before.
    #[param(nullable = false, pattern = "^[0-9a-f]{16}-[0-9a-f]{1,16}$")]
    cursor: Option<String>,
}

/// Read a station's readings, the latest recorded first
#[utoipa::path(get, path = "/readings", operation_id = "list_readings", tag = "readings", params(Filter), responses(
    (status = 200, description = "A page", body = ReadingList,
        headers(("Link" = String, description = "The next page, if there is one: `<…>; rel=\"next\"`"))),
    (status = 304, description = "If-None-Match: * excludes what exists"),
    (status = 400, description = "A parameter is missing, unknown or wrong"),
    (status = 404, description = "No such station, or no such page any more: the server was restarted"),
    (status = 412, description = "If-Match is false")))]
pub(crate) async fn list(
    State(app): State<App>,
    filter: Result<Query<Filter>, QueryRejection>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let Query(filter) = filter.map_err(|error| Problem::new(StatusCode::BAD_REQUEST, error.body_text()))?;
    let limit = pagination::limit(filter.limit)?;
    let cursor = filter.cursor.as_deref().map(|text| match EventId::parse(text) {
        None => {
            Err(Problem::new(StatusCode::BAD_REQUEST, "unknown cursor: use the one from the Link header"))
        }
        Some(id) if id.boot_id == app.store.boot_id => Ok(id.sequence),
        Some(_) => {
            Err(Problem::new(StatusCode::NOT_FOUND, "this page was lost when the server was restarted"))
        }
    });
    let Filter { station, metric, from, to, .. } = filter;
    let wanted = Wanted { metric, from, to, before: cursor.transpose()?, limit: limit + 1 };
    let mut found = app.store.readings(&station, &wanted).ok_or_else(|| not_found(&station))?;
    if Conditions::of(&headers)?.not_modified(None)? {
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
        next + &format!("&cursor={}", EventId { boot_id: app.store.boot_id, sequence: *sequence })
    });
    let readings = found.into_iter().map(|(_, reading)| reading).collect();
    Ok((pagination::next_link(next), Json(ReadingList { readings })).into_response())
}
