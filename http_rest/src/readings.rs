//! `/readings`: record a batch, read a station's newest back.

use axum::Json;
use axum::body::Body;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::{HeaderMap, StatusCode};
use serde::{Deserialize, Serialize};

use crate::model::{MAX_BATCH, Reading, UncheckedReading};
use crate::problem::Problem;
use crate::server::{App, read_json};
use crate::store::MAX_STATIONS;

/// Most readings in one answer, and how many when the client names no number.
pub const MAX_LIMIT: usize = 500;

/// The body of `POST /readings`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct UncheckedBatch {
    readings: Vec<UncheckedReading>,
}

/// The answer to `POST /readings`.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recorded {
    /// How many readings were accepted: all of the batch.
    pub accepted: usize,
}

/// The answer to `GET /readings`.
#[derive(Debug, Serialize, Deserialize)]
pub struct ReadingList {
    /// In the order in which they were recorded, the oldest first.
    pub readings: Vec<Reading>,
}

/// `POST /readings`: all of the batch or, on any error, nothing of it.
///
/// The answer is 200 and not 201: a reading has no address of its own that a
/// `Location` could name (RFC 9110, section 15.3.2).
pub(crate) async fn record(
    State(app): State<App>,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<Recorded>, Problem> {
    let batch: UncheckedBatch = read_json(&headers, body, app.limits.max_body).await?;
    let readings = check(batch)?;
    let accepted = app.store.record(readings).map_err(|_full| {
        Problem::new(
            StatusCode::INSUFFICIENT_STORAGE,
            format!("this server keeps at most {MAX_STATIONS} stations"),
        )
    })?;
    Ok(Json(Recorded { accepted }))
}

fn check(batch: UncheckedBatch) -> Result<Vec<Reading>, Problem> {
    let count = batch.readings.len();
    if !(1..=MAX_BATCH).contains(&count) {
        let detail = format!("a batch holds 1 to {MAX_BATCH} readings, this one {count}");
        return Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, detail));
    }
    let mut errors = Vec::new();
    let mut readings = Vec::with_capacity(count);
    for (index, reading) in batch.readings.into_iter().enumerate() {
        readings.extend(reading.check(index, &mut errors));
    }
    if !errors.is_empty() {
        return Err(Problem::invalid_fields(errors));
    }
    Ok(readings)
}

/// The query string of `GET /readings`.
#[derive(Debug, Deserialize)]
pub(crate) struct Filter {
    station: String,
    limit: Option<usize>,
}

/// `GET /readings?station=…&limit=…`: the newest readings of a station.
pub(crate) async fn list(
    State(app): State<App>,
    filter: Result<Query<Filter>, QueryRejection>,
) -> Result<Json<ReadingList>, Problem> {
    let Query(filter) = filter.map_err(|e| Problem::new(StatusCode::BAD_REQUEST, e.body_text()))?;
    let limit = filter.limit.unwrap_or(MAX_LIMIT);
    if !(1..=MAX_LIMIT).contains(&limit) {
        return Err(Problem::new(StatusCode::BAD_REQUEST, format!("limit is 1 to {MAX_LIMIT}, not {limit}")));
    }
    match app.store.readings(&filter.station, limit) {
        Some(readings) => Ok(Json(ReadingList { readings })),
        None => Err(Problem::new(StatusCode::NOT_FOUND, format!("no station {:?}", filter.station))),
    }
}
