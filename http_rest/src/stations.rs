//! `/stations`: a resource with an address of its own for each station.

use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::rejection::QueryRejection;
use axum::extract::{FromRequestParts, Path, Query, State};
use axum::http::header::{CONTENT_TYPE, ETAG, LOCATION};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tcp_socket::base::text::check_name;
use utoipa::{IntoParams, ToSchema};

use crate::body::{self, JSON};
use crate::conditional::{Conditions, ETag};
use crate::idempotency::{self, Answer};
use crate::model::MAX_STATION_ID;
use crate::pagination::{self, NoQuery};
use crate::problem::{FieldError, Problem};
use crate::server::App;
use crate::store::{MAX_STATIONS, NotCreated};
use crate::validation::{is_station_id, shorten};

/// The media type of a patch (RFC 7396).
pub const MERGE_PATCH: &str = "application/merge-patch+json";

/// Longest name of a station, in characters.
pub const MAX_NAME: usize = 100;

/// A weather station.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"id": "oslo-1", "name": "Oslo, Blindern", "latitude": 59.94, "longitude": 10.72}))]
pub struct Station {
    /// Chosen by the client, never changes.
    #[schema(pattern = "^[a-z0-9-]{1,32}$")]
    pub id: String,
    /// For people. Its characters are those of a nickname (RFC 8266), and it does not mix
    /// scripts that look alike (Unicode Technical Standard 39, section 5.2).
    #[schema(min_length = 1, max_length = 100)]
    pub name: String,
    /// Degrees north, -90 to 90; `null` if it is not known.
    #[schema(minimum = -90, maximum = 90)]
    pub latitude: Option<f64>,
    /// Degrees east, -180 to 180; `null` if it is not known.
    #[schema(minimum = -180, maximum = 180)]
    pub longitude: Option<f64>,
}

impl Station {
    /// What a batch of readings creates for a station that nobody described.
    pub(crate) fn named_after_its_id(id: &str) -> Self {
        Self { id: id.to_owned(), name: id.to_owned(), latitude: None, longitude: None }
    }

    /// 422 with each field that is out of its range.
    pub(crate) fn check(&self) -> Result<(), Problem> {
        let mut errors = Vec::new();
        let mut wrong = |pointer: &str, detail: String| {
            errors.push(FieldError { pointer: pointer.to_owned(), detail });
        };
        if !is_station_id(&self.id) {
            wrong(
                "#/id",
                format!("{:?} is not of the form [a-z0-9-]{{1,{MAX_STATION_ID}}}", shorten(&self.id)),
            );
        }
        if !(1..=MAX_NAME).contains(&self.name.chars().count()) {
            wrong("#/name", format!("a name has 1 to {MAX_NAME} characters"));
        } else if let Err(reason) = check_name(&self.name) {
            wrong("#/name", format!("{:?}: {reason}", shorten(&self.name)));
        }
        if self.latitude.is_some_and(|degrees| !(-90.0..=90.0).contains(&degrees)) {
            wrong("#/latitude", "degrees north are -90 to 90".to_owned());
        }
        if self.longitude.is_some_and(|degrees| !(-180.0..=180.0).contains(&degrees)) {
            wrong("#/longitude", "degrees east are -180 to 180".to_owned());
        }
        if errors.is_empty() { Ok(()) } else { Err(Problem::invalid_fields(errors)) }
    }
}

/// A change to some fields of a station, as a JSON merge patch (RFC 7396): what
/// is absent stays as it is.
#[derive(Debug, Clone, Default, Serialize, ToSchema)]
#[schema(example = json!({"name": "Oslo, Blindern", "longitude": null}))]
pub struct StationPatch {
    /// A new name.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(min_length = 1, max_length = 100, nullable = false)]
    pub name: Option<String>,
    /// Another latitude; `null` (in Rust `Some(None)`) removes it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<f64>, minimum = -90, maximum = 90)]
    pub latitude: Option<Option<f64>>,
    /// Another longitude; `null` (in Rust `Some(None)`) removes it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<f64>, minimum = -180, maximum = 180)]
    pub longitude: Option<Option<f64>>,
}

/// The answer to `GET /stations`.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct StationList {
    /// In the order of their ids.
    pub stations: Vec<Station>,
}

/// The query string of `GET /stations`.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(crate) struct Page {
    /// Most stations on this page; 100 if not given.
    #[param(minimum = 1, maximum = 500, nullable = false)]
    limit: Option<usize>,
    /// From the `Link` header of the page before.
    #[param(nullable = false, pattern = "^[a-z0-9-]{1,32}$")]
    cursor: Option<String>,
}

/// List the stations, page by page
#[utoipa::path(get, path = "/stations", operation_id = "list_stations", tag = "stations", params(Page), responses(
    (status = 200, description = "A page", body = StationList,
        headers(("Link" = String, description = "The next page, if there is one: `<…>; rel=\"next\"`"))),
    (status = 304, description = "If-None-Match: * excludes what exists"),
    (status = 400, description = "A parameter is unknown or wrong"),
    (status = 412, description = "If-Match is false")))]
pub(crate) async fn list(
    State(app): State<App>,
    page: Result<Query<Page>, QueryRejection>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let Query(page) = page.map_err(|error| Problem::new(StatusCode::BAD_REQUEST, error.body_text()))?;
    let limit = pagination::limit(page.limit)?;
    // The cursor is the last id of the page before; clients take it as it comes.
    if page.cursor.as_deref().is_some_and(|cursor| !is_station_id(cursor)) {
        return Err(Problem::new(
            StatusCode::BAD_REQUEST,
            "unknown cursor: use the one from the Link header",
        ));
    }
    if Conditions::of(&headers)?.not_modified(None)? {
        return Ok(StatusCode::NOT_MODIFIED.into_response());
    }
    // One more than asked for tells whether there is a next page.
    let mut stations = app.store.stations(page.cursor.as_deref(), limit + 1);
    let more = stations.len() > limit;
    stations.truncate(limit);
    let last = stations.last().filter(|_| more);
    let next = last.map(|station| format!("/stations?limit={limit}&cursor={}", station.id));
    Ok((pagination::next_link(next), Json(StationList { stations })).into_response())
}

/// Create a station
#[utoipa::path(post, path = "/stations", operation_id = "create_station", tag = "stations", request_body = Station,
    params(("Idempotency-Key" = Option<String>, Header, description = "Makes the request safe to repeat",
        nullable = false, pattern = "^[!-~]{1,128}$")),
    responses(
        (status = 201, description = "Created", body = Station, headers(
            ("Location" = String, description = "The station's address"),
            ("ETag" = String, description = "Its version"))),
        (status = 400, description = "No JSON, or a bad Idempotency-Key"),
        (status = 409, description = "The id is taken, or the first request with this key still runs"),
        (status = 412, description = "If-Match or If-None-Match is false"),
        (status = 413, description = "The body is too long"),
        (status = 415, description = "Not application/json, or compressed"),
        (status = 422, description = "Invalid fields, or the key was used with another body"),
        (status = 507, description = "No room for another station")))]
pub(crate) async fn create(
    State(app): State<App>,
    NoQuery: NoQuery,
    headers: HeaderMap,
    body: Body,
) -> Result<Answer, Problem> {
    body::require_type(&headers, JSON)?;
    Conditions::of(&headers)?.check(None)?;
    idempotency::once(&app, "/stations", &headers, body, |body| {
        let station: Station = body::parse(body)?;
        station.check()?;
        let body = to_json(&station)?;
        let location = format!("/stations/{}", station.id);
        let tag = app.store.create(station).map_err(|reason| match reason {
            NotCreated::Exists => Problem::new(StatusCode::CONFLICT, "there is a station with this id"),
            NotCreated::Full => full(),
        })?;
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(JSON));
        headers.insert(ETAG, tag.into());
        headers.extend(HeaderValue::try_from(location).map(|location| (LOCATION, location)));
        Ok(Answer { status: StatusCode::CREATED, headers, body })
    })
    .await
}

/// Read a station
#[utoipa::path(get, path = "/stations/{id}", operation_id = "read_station", tag = "stations",
    params(StationId,
        ("If-None-Match" = Option<String>, Header, description = "`*` or the ETags that the client has",
            nullable = false, example = "*"),
        ("If-Match" = Option<String>, Header, description = "`*` or the ETags that the client insists on",
            nullable = false, example = "*")),
    responses(
        (status = 200, description = "The station", body = Station,
            headers(("ETag" = String, description = "Its version"))),
        (status = 304, description = "The client has this version"),
        (status = 404, description = "No such station"),
        (status = 412, description = "If-Match is false: the station is at another version")))]
pub(crate) async fn read(
    State(app): State<App>,
    StationId { id }: StationId,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let (station, tag) = app.store.station(&id).ok_or_else(|| not_found(&id))?;
    if Conditions::of(&headers)?.not_modified(Some(tag))? {
        return Ok((StatusCode::NOT_MODIFIED, [(ETAG, HeaderValue::from(tag))]).into_response());
    }
    Ok(with_tag(tag, &station))
}

/// Replace a station
#[utoipa::path(put, path = "/stations/{id}", operation_id = "replace_station", tag = "stations", request_body = Station,
    params(StationId, ("If-Match" = String, Header, description = "The ETag of the version to replace",
        pattern = "^(\\*|\"[!#-~]{1,40}\")$", example = "*")),
    responses(
        (status = 200, description = "As it is now", body = Station,
            headers(("ETag" = String, description = "Its new version"))),
        (status = 400, description = "No JSON"),
        (status = 404, description = "No such station: PUT creates none"),
        (status = 412, description = "The station is at another version, or If-None-Match excludes it"),
        (status = 413, description = "The body is too long"),
        (status = 415, description = "Not application/json, or compressed"),
        (status = 422, description = "Invalid fields"),
        (status = 428, description = "If-Match is missing")))]
pub(crate) async fn replace(
    State(app): State<App>,
    StationId { id }: StationId,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    change(&app, &id, &headers, body, JSON, |_current, body| body::parse(body)).await
}

/// Change some fields of a station
#[utoipa::path(patch, path = "/stations/{id}", operation_id = "patch_station", tag = "stations",
    request_body(content = StationPatch, content_type = "application/merge-patch+json"),
    params(StationId, ("If-Match" = String, Header, description = "The ETag of the version to change",
        pattern = "^(\\*|\"[!#-~]{1,40}\")$", example = "*")),
    responses(
        (status = 200, description = "As it is now", body = Station,
            headers(("ETag" = String, description = "Its new version"))),
        (status = 400, description = "No JSON"),
        (status = 404, description = "No such station"),
        (status = 412, description = "The station is at another version, or If-None-Match excludes it"),
        (status = 413, description = "The body is too long"),
        (status = 415, description = "Not application/merge-patch+json, or compressed"),
        (status = 422, description = "Invalid fields"),
        (status = 428, description = "If-Match is missing")))]
pub(crate) async fn patch(
    State(app): State<App>,
    StationId { id }: StationId,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    change(&app, &id, &headers, body, MERGE_PATCH, |current, body| {
        let mut merged = serde_json::to_value(current).map_err(|error| internal(&error))?;
        merge_patch(&mut merged, body::parse(body)?);
        body::shape(merged)
    })
    .await
}

/// Delete a station and its readings
#[utoipa::path(delete, path = "/stations/{id}", operation_id = "delete_station", tag = "stations",
    params(StationId, ("If-Match" = String, Header, description = "The ETag of the version to delete",
        pattern = "^(\\*|\"[!#-~]{1,40}\")$", example = "*")),
    responses(
        (status = 204, description = "Gone"),
        (status = 404, description = "No such station"),
        (status = 412, description = "The station is at another version, or If-None-Match excludes it"),
        (status = 428, description = "If-Match is missing")))]
pub(crate) async fn delete(
    State(app): State<App>,
    StationId { id }: StationId,
    headers: HeaderMap,
) -> Result<StatusCode, Problem> {
    app.store.station(&id).ok_or_else(|| not_found(&id))?;
    let conditions = Conditions::of(&headers)?;
    app.store.remove(&id, |tag| conditions.check_required(tag)).ok_or_else(|| not_found(&id))??;
    Ok(StatusCode::NO_CONTENT)
}

/// What `PUT` and `PATCH` share: the checks in the order 404, 415, 412, 428,
/// 422, from the cheapest to the one that needs the body.
async fn change(
    app: &App,
    id: &str,
    headers: &HeaderMap,
    body: Body,
    media_type: &str,
    new: impl FnOnce(&Station, &[u8]) -> Result<Station, Problem>,
) -> Result<Response, Problem> {
    let (_, tag) = app.store.station(id).ok_or_else(|| not_found(id))?;
    body::require_type(headers, media_type)?;
    let conditions = Conditions::of(headers)?;
    conditions.check_required(tag)?;
    let body = body::read(body, app.limits.max_body).await?;
    let changed = app.store.update(id, |current, tag| {
        // Once more, now that nobody can come between the check and the change.
        conditions.check_required(tag)?;
        let station = new(current, &body)?;
        station.check()?;
        if station.id != current.id {
            return Err(Problem::field("#/id", "an id never changes"));
        }
        Ok(station)
    });
    let (station, tag) = changed.ok_or_else(|| not_found(id))??;
    Ok(with_tag(tag, &station))
}

/// JSON merge patch (RFC 7396, section 2): an object changes the members that it
/// names, `null` removes one, anything else replaces the whole. The recursion is
/// as deep as the patch, which the JSON parser bounds at 128.
fn merge_patch(target: &mut Value, patch: Value) {
    let Value::Object(patch) = patch else {
        *target = patch;
        return;
    };
    if !target.is_object() {
        *target = Value::Object(serde_json::Map::new());
    }
    let Value::Object(target) = target else { return };
    for (name, value) in patch {
        if value.is_null() {
            target.remove(&name);
        } else {
            merge_patch(target.entry(name).or_insert(Value::Null), value);
        }
    }
}

/// A station's id out of the path. What can't be one names nothing: 404.
#[derive(IntoParams)]
#[into_params(parameter_in = Path)]
pub(crate) struct StationId {
    /// The station's id.
    #[param(pattern = "^[a-z0-9-]{1,32}$", example = "oslo-1")]
    id: String,
}

impl<S: Send + Sync> FromRequestParts<S> for StationId {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        NoQuery::from_request_parts(parts, state).await?;
        match Path::<String>::from_request_parts(parts, state).await {
            Ok(Path(id)) if is_station_id(&id) => Ok(Self { id }),
            _ => Err(Problem::new(StatusCode::NOT_FOUND, "no station has such an id")),
        }
    }
}

pub(crate) fn not_found(id: &str) -> Problem {
    Problem::new(StatusCode::NOT_FOUND, format!("no station {:?}", shorten(id)))
}

pub(crate) fn full() -> Problem {
    Problem::new(
        StatusCode::INSUFFICIENT_STORAGE,
        format!("this server keeps at most {MAX_STATIONS} stations"),
    )
}

pub(crate) fn to_json(value: &impl Serialize) -> Result<Bytes, Problem> {
    serde_json::to_vec(value).map(Bytes::from).map_err(|error| internal(&error))
}

fn with_tag(tag: ETag, station: &Station) -> Response {
    ([(ETAG, HeaderValue::from(tag))], Json(station)).into_response()
}

fn internal(error: &serde_json::Error) -> Problem {
    tracing::error!("a value of our own does not serialise: {error}");
    Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "")
}
