//! `/openapi.json`: a description of the interface for programs (OpenAPI 3.1). Each handler
//! describes itself. This file adds the errors that all of them share, and the limits.

use axum::Json;
use axum::http::StatusCode;
use axum::routing::{MethodRouter, get};
use utoipa::openapi::path::{Operation, Parameter, PathItem};
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{
    ComponentsBuilder, Content, InfoBuilder, OpenApi, OpenApiBuilder, Ref, RefOr, Response, Schema, Server,
};
use utoipa::{Number, PartialSchema, ToSchema};

use crate::limits::{
    MAX_BATCH, MAX_KEY, MAX_LATITUDE, MAX_LIMIT, MAX_LONGITUDE, MAX_NAME, MAX_RECORDED_AT, MAX_STATION_ID,
};
use crate::protocol::headers::PROBLEM_JSON;
use crate::protocol::model::Gap;
use crate::protocol::problem::Problem;

/// The errors that any request may get.
const COMMON: [(StatusCode, &str); 6] = [
    (
        StatusCode::BAD_REQUEST,
        "A malformed, missing, or repeated header, a malformed body, or an unknown parameter",
    ),
    (StatusCode::UNAUTHORIZED, "The server must know who is calling: send a valid token"),
    (StatusCode::FORBIDDEN, "The caller's role does not allow this"),
    (StatusCode::PRECONDITION_FAILED, "If-Match or, for a change, If-None-Match is false"),
    (StatusCode::REQUEST_TIMEOUT, "The request took too long to arrive or to be executed"),
    (StatusCode::SERVICE_UNAVAILABLE, "Too many requests in flight; try again after Retry-After"),
];

/// Further errors that a request with a body may get.
const OF_BODIES: [(StatusCode, &str); 3] = [
    (StatusCode::PAYLOAD_TOO_LARGE, "The body is too long"),
    (StatusCode::UNSUPPORTED_MEDIA_TYPE, "The media type is not accepted, or the body is compressed"),
    (StatusCode::UNPROCESSABLE_ENTITY, "Invalid fields"),
];

/// Returns the start of the description, before the handlers add theirs. Unless the server checks
/// its callers, they may also say nothing about who they are.
pub(crate) fn preamble(url: &str, checks_callers: bool) -> OpenApi {
    let info =
        InfoBuilder::new().title("Weather stations").version(env!("CARGO_PKG_VERSION")).description(Some(
            "Manages stations, and records their readings in batches. Errors are problem details (RFC 9457).",
        ));
    let anybody = (!checks_callers).then(SecurityRequirement::default);
    let security = ["token", "certificate"].map(|name| SecurityRequirement::new(name, [""; 0]));
    let token = SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer));
    let certificate = SecurityScheme::MutualTls { description: None, deprecated: None, extensions: None };
    OpenApiBuilder::new()
        .info(info)
        .servers(Some([Server::new(url)]))
        .components(Some(
            ComponentsBuilder::new()
                .security_scheme("token", token)
                .security_scheme("certificate", certificate)
                .build(),
        ))
        .security(Some(anybody.into_iter().chain(security)))
        .build()
}

/// Returns the route to the finished description.
pub(crate) fn route<S: Clone + Send + Sync + 'static>(mut description: OpenApi) -> MethodRouter<S> {
    let components = description.components.get_or_insert_default();
    let mut schemas = vec![(Problem::name().into(), Problem::schema()), (Gap::name().into(), Gap::schema())];
    Problem::schemas(&mut schemas);
    components.schemas.extend(schemas);
    for (owner, schema) in &mut components.schemas {
        if let RefOr::T(Schema::Object(object)) = schema {
            object.properties.iter_mut().for_each(|(name, field)| describe_limits(owner, name, field));
        }
    }
    for (path, item) in &mut description.paths.paths {
        for operation in operations(item) {
            describe_errors(operation);
            for parameter in operation.parameters.iter_mut().flatten() {
                if let RefOr::T(Parameter { name, schema: Some(schema), .. }) = parameter {
                    describe_limits(path, name, schema);
                }
            }
        }
    }
    get(async move || Json(description))
}

fn operations(item: &mut PathItem) -> impl Iterator<Item = &mut Operation> {
    [&mut item.get, &mut item.put, &mut item.post, &mut item.delete, &mut item.patch].into_iter().flatten()
}

/// Adds the shared errors to an operation, and a body to each of its errors.
fn describe_errors(operation: &mut Operation) {
    let responses = &mut operation.responses.responses;
    let of_bodies = operation.request_body.iter().flat_map(|_| OF_BODIES);
    for (status, description) in COMMON.into_iter().chain(of_bodies) {
        responses.entry(status.as_str().to_owned()).or_insert_with(|| RefOr::T(Response::new(description)));
    }
    for (status, response) in responses.iter_mut() {
        let (Ok(status), RefOr::T(response)) = (status.parse::<StatusCode>(), response) else { continue };
        if status.is_client_error() || status.is_server_error() {
            let mut content = Content::new(Some(Ref::from_schema_name(Problem::name())));
            content.example = serde_json::to_value(Problem::new(status, response.description.as_str())).ok();
            response.content.insert(PROBLEM_JSON.to_owned(), RefOr::T(content));
        }
    }
}

/// Describes the limits that the server checks in a field of a schema or a parameter of a path.
fn describe_limits(owner: &str, name: &str, schema: &mut RefOr<Schema>) {
    let object = match schema {
        RefOr::T(Schema::Object(object)) => object,
        RefOr::T(Schema::Array(array)) if owner == "Batch" => {
            (array.min_items, array.max_items) = (Some(1), Some(MAX_BATCH));
            return;
        }
        _ => return,
    };
    let mut range = |minimum: Number, maximum: Number| {
        (object.minimum, object.maximum) = (Some(minimum), Some(maximum));
    };
    match (owner, name) {
        (_, "id" | "station") | ("/stations", "cursor") => {
            object.pattern = Some(format!("^[a-z0-9-]{{1,{MAX_STATION_ID}}}$"));
        }
        (_, "Idempotency-Key") => object.pattern = Some(format!("^[!-~]{{1,{MAX_KEY}}}$")),
        ("Station" | "StationPatch", "name") => {
            (object.min_length, object.max_length) = (Some(1), Some(MAX_NAME));
        }
        (_, "limit") => range(1.into(), MAX_LIMIT.into()),
        (_, "recorded_at" | "from" | "to") => range(0.into(), MAX_RECORDED_AT.into()),
        (_, "latitude") => range((-MAX_LATITUDE).into(), MAX_LATITUDE.into()),
        (_, "longitude") => range((-MAX_LONGITUDE).into(), MAX_LONGITUDE.into()),
        _ => {}
    }
}
