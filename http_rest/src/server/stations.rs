//! `/stations`: each station is a resource with an address of its own.

use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::{FromRequestParts, Path, Query, Request, State};
use axum::http::header::{CONTENT_TYPE, ETAG, LOCATION};
use axum::http::request::Parts;
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::{Map, Value};
use utoipa::IntoParams;

use super::conditional::Conditions;
use super::pagination;
use super::request_layer::{NoQuery, read_body, require_type};
use super::store::{CreateError, Representation, Store};
use crate::limits::{Limits, MAX_STATIONS};
use crate::protocol::headers::{JSON, MERGE_PATCH};
use crate::protocol::model::{Station, StationList, StationPatch};
use crate::protocol::problem::Problem;
use crate::protocol::validation::{is_station_id, parse, shape, shorten};

/// The query string of `GET /stations`.
#[derive(Deserialize, IntoParams, FromRequestParts)]
#[from_request(via(Query), rejection(Problem))]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(crate) struct Page {
    /// Maximum number of stations on this page; 100 by default.
    #[param(nullable = false)]
    limit: Option<usize>,
    /// The cursor in the `Link` header of the previous page.
    #[param(nullable = false)]
    cursor: Option<String>,
}

/// List the stations, page by page
#[utoipa::path(get, path = "/stations", operation_id = "list_stations", tag = "stations", params(Page), responses(
    (status = 200, description = "A page", body = StationList,
        headers(("Link" = String, description = "The next page, if there is one: `<…>; rel=\"next\"`"))),
    (status = 304, description = "If-None-Match is `*`, which matches every existing resource"),
    (status = 400, description = "A parameter is unknown or invalid")))]
pub(crate) async fn list(
    State(store): State<Arc<Store>>,
    page: Page,
    request: Request,
) -> Result<Response, Problem> {
    let limit = pagination::limit(page.limit)?;
    // The cursor is the last ID of the previous page, but clients don't need to know that.
    if page.cursor.as_deref().is_some_and(|cursor| !is_station_id(cursor)) {
        return Err(Problem::bad_request("unknown cursor: use the one from the Link header"));
    }
    if Conditions::of(request.headers())?.not_modified(None)? {
        return Ok(StatusCode::NOT_MODIFIED.into_response());
    }
    let mut stations = store.stations(page.cursor.as_deref(), limit + 1);
    let next = |last: &Station| format!("/stations?limit={limit}&cursor={}", last.id);
    Ok((pagination::cut(&mut stations, limit, next), Json(StationList { stations })).into_response())
}

/// Create a station
#[utoipa::path(post, path = "/stations", operation_id = "create_station", tag = "stations", request_body = Station,
    params(("Idempotency-Key" = Option<String>, Header, description = "Makes the request safe to repeat",
        nullable = false)),
    responses(
        (status = 201, description = "Created", body = Station, headers(
            ("Location" = String, description = "The station's address"),
            ("ETag" = String, description = "Its version"))),
        (status = 409, description = "The ID is taken, or the first request with this key is still running"),
        (status = 422, description = "Invalid fields, or the key was used with another body"),
        (status = 507, description = "No room for another station")))]
pub(crate) async fn create(State(store): State<Arc<Store>>, body: Bytes) -> Result<Response, Problem> {
    let station: Station = parse(&body)?;
    station.check()?;
    let location = [(LOCATION, format!("/stations/{}", station.id))];
    let created = store.create(station)?;
    Ok((StatusCode::CREATED, location, created).into_response())
}

/// Read a station
#[utoipa::path(get, path = "/stations/{id}", operation_id = "read_station", tag = "stations",
    params(StationId,
        ("If-None-Match" = Option<String>, Header, description = "`*` or the ETags that the client has",
            nullable = false, example = "*"),
        ("If-Match" = Option<String>, Header, description = "`*` or the ETags that the client requires",
            nullable = false, example = "*")),
    responses(
        (status = 200, description = "The station", body = Station,
            headers(("ETag" = String, description = "Its version"))),
        (status = 304, description = "The client has this version"),
        (status = 404, description = "No such station")))]
pub(crate) async fn read(
    State(store): State<Arc<Store>>,
    StationId { id }: StationId,
    request: Request,
) -> Result<Response, Problem> {
    let station = store.station(&id).ok_or_else(|| not_found(&id))?;
    if Conditions::of(request.headers())?.not_modified(Some(&station.tag))? {
        return Ok((StatusCode::NOT_MODIFIED, [(ETAG, station.tag.0)]).into_response());
    }
    Ok(station.into_response())
}

/// Replace a station
#[utoipa::path(put, path = "/stations/{id}", operation_id = "replace_station", tag = "stations", request_body = Station,
    params(StationId, ("If-Match" = String, Header, description = "The ETag of the version to replace",
        pattern = "^(\\*|\"[!#-~]{1,40}\")$", example = "*")),
    responses(
        (status = 200, description = "The station after the change", body = Station,
            headers(("ETag" = String, description = "Its new version"))),
        (status = 404, description = "No such station: PUT does not create one"),
        (status = 428, description = "If-Match is missing")))]
pub(crate) async fn replace(
    State(store): State<Arc<Store>>,
    State(limits): State<Arc<Limits>>,
    StationId { id }: StationId,
    request: Request,
) -> Result<Response, Problem> {
    change(&store, &limits, &id, request, JSON, |_current, body| parse(body)).await
}

/// Change some fields of a station
#[utoipa::path(patch, path = "/stations/{id}", operation_id = "patch_station", tag = "stations",
    request_body(content = StationPatch, content_type = "application/merge-patch+json"),
    params(StationId, ("If-Match" = String, Header, description = "The ETag of the version to change",
        pattern = "^(\\*|\"[!#-~]{1,40}\")$", example = "*")),
    responses(
        (status = 200, description = "The station after the change", body = Station,
            headers(("ETag" = String, description = "Its new version"))),
        (status = 404, description = "No such station"),
        (status = 428, description = "If-Match is missing")))]
pub(crate) async fn patch(
    State(store): State<Arc<Store>>,
    State(limits): State<Arc<Limits>>,
    StationId { id }: StationId,
    request: Request,
) -> Result<Response, Problem> {
    change(&store, &limits, &id, request, MERGE_PATCH, |current, body| {
        let mut station = serde_json::to_value(current).map_err(|error| Problem::internal(&error))?;
        let patch: Map<String, Value> = parse(body)?;
        // RFC 7396, for an object without nested objects: `null` removes a member, and any
        // other value replaces it.
        if let Some(members) = station.as_object_mut() {
            members.extend(patch);
            members.retain(|_name, value| !value.is_null());
        }
        shape(station)
    })
    .await
}

/// Delete a station and its readings
#[utoipa::path(delete, path = "/stations/{id}", operation_id = "delete_station", tag = "stations",
    params(StationId, ("If-Match" = String, Header, description = "The ETag of the version to delete",
        pattern = "^(\\*|\"[!#-~]{1,40}\")$", example = "*")),
    responses(
        (status = 204, description = "Deleted"),
        (status = 404, description = "No such station"),
        (status = 428, description = "If-Match is missing")))]
pub(crate) async fn delete(
    State(store): State<Arc<Store>>,
    StationId { id }: StationId,
    request: Request,
) -> Result<StatusCode, Problem> {
    store.station(&id).ok_or_else(|| not_found(&id))?;
    let conditions = Conditions::of(request.headers())?;
    store.remove(&id, |tag| conditions.check_required(tag)).ok_or_else(|| not_found(&id))??;
    Ok(StatusCode::NO_CONTENT)
}

/// Changes a station by `PUT` or `PATCH`. The checks that need only the header come first:
/// 404, 415, 400 (a malformed condition), 412, 428. Those of the body follow: 413, 400, 422.
async fn change(
    store: &Store,
    limits: &Limits,
    id: &str,
    request: Request,
    media_type: &str,
    new: impl FnOnce(&Station, &[u8]) -> Result<Station, Problem>,
) -> Result<Response, Problem> {
    let before = store.station(id).ok_or_else(|| not_found(id))?;
    let (parts, body) = request.into_parts();
    require_type(&parts.headers, media_type)?;
    let conditions = Conditions::of(&parts.headers)?;
    conditions.check_required(&before.tag)?;
    let body = read_body(body, limits.max_body).await?;
    let changed = store.update(id, |current, tag| {
        // Check once more: the body took time to arrive, and the station may have changed. From here
        // on, nobody else can change it.
        conditions.check_required(tag)?;
        let station = new(current, &body)?;
        station.check()?;
        if station.id != current.id {
            return Err(Problem::field("#/id", "a station's ID cannot be changed"));
        }
        Ok(station)
    });
    Ok(changed.ok_or_else(|| not_found(id))??.into_response())
}

/// A station's ID from the path. A path with anything else gets 404.
#[derive(IntoParams)]
#[into_params(parameter_in = Path)]
pub(crate) struct StationId {
    /// The station's ID.
    #[param(example = "oslo-1")]
    id: String,
}

impl<S: Send + Sync> FromRequestParts<S> for StationId {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        NoQuery::from_request_parts(parts, state).await?;
        match Path::<String>::from_request_parts(parts, state).await {
            Ok(Path(id)) if is_station_id(&id) => Ok(Self { id }),
            _ => Err(Problem::new(
                StatusCode::NOT_FOUND,
                "a station ID has 1 to 32 characters: a-z, 0-9, and -",
            )),
        }
    }
}

pub(crate) fn not_found(id: &str) -> Problem {
    Problem::new(StatusCode::NOT_FOUND, format!("no station {:?}", shorten(id)))
}

impl From<CreateError> for Problem {
    fn from(error: CreateError) -> Self {
        match error {
            CreateError::Exists => Self::new(StatusCode::CONFLICT, "a station with this ID already exists"),
            CreateError::Full => Self::new(
                StatusCode::INSUFFICIENT_STORAGE,
                format!("this server keeps at most {MAX_STATIONS} stations"),
            ),
        }
    }
}

impl IntoResponse for Representation {
    fn into_response(self) -> Response {
        ([(CONTENT_TYPE, HeaderValue::from_static(JSON)), (ETAG, self.tag.0)], self.json).into_response()
    }
}
