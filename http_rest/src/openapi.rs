//! `/openapi.json`: the interface described for machines (OpenAPI 3.1). It is
//! put together from the handlers' own descriptions; here the parts are added
//! that all of them share.

use axum::Json;
use axum::http::StatusCode;
use axum::routing::{MethodRouter, get};
use utoipa::openapi::path::{Operation, PathItem};
use utoipa::openapi::{Content, InfoBuilder, OpenApi, OpenApiBuilder, Ref, RefOr, Response};
use utoipa::{PartialSchema, ToSchema};

use crate::live::Gap;
use crate::problem::{PROBLEM_JSON, Problem};
use crate::server::App;

/// What any request may be answered with.
const COMMON: [(StatusCode, &str); 3] = [
    (StatusCode::BAD_REQUEST, "A malformed, missing or repeated header, or an unknown parameter"),
    (StatusCode::REQUEST_TIMEOUT, "The request took too long to arrive or to be answered"),
    (StatusCode::SERVICE_UNAVAILABLE, "Too many requests in flight; try again after Retry-After"),
];

/// The description before the handlers add theirs.
pub(crate) fn preamble() -> OpenApi {
    let info = InfoBuilder::new().title("Weather stations").version(env!("CARGO_PKG_VERSION")).description(
        Some("Stations as resources, their readings in batches. Errors are problem details (RFC 9457)."),
    );
    OpenApiBuilder::new().info(info).build()
}

/// The route that answers with the finished description.
pub(crate) fn route(mut description: OpenApi) -> MethodRouter<App> {
    let components = description.components.get_or_insert_default();
    let mut schemas = vec![(Problem::name().into(), Problem::schema()), (Gap::name().into(), Gap::schema())];
    Problem::schemas(&mut schemas);
    components.schemas.extend(schemas);
    for item in description.paths.paths.values_mut() {
        for operation in operations(item) {
            describe_errors(operation);
        }
    }
    get(async move || Json(description))
}

fn operations(item: &mut PathItem) -> impl Iterator<Item = &mut Operation> {
    [&mut item.get, &mut item.put, &mut item.post, &mut item.delete, &mut item.patch].into_iter().flatten()
}

/// Adds the errors that every operation has, and to each error its body.
fn describe_errors(operation: &mut Operation) {
    let responses = &mut operation.responses.responses;
    for (status, description) in COMMON {
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
