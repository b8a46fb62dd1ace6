//! What each status code means in this chapter: the statuses that the server makes, and a
//! translation of those that its libraries use differently from gRPC.

use std::collections::HashMap;

use heck::ToShoutySnakeCase;
use hyper::HeaderMap;
use hyper::header::HeaderValue;
use tcp_socket::base::principals::Denied;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, FieldViolation, StatusExt};

use super::model::shorten;
use crate::limits::{MAX_MESSAGE, MAX_STATIONS, MAX_VIOLATION_BYTES};

/// The domain of the reasons in `google.rpc.ErrorInfo`.
const DOMAIN: &str = "weather.v1";

/// Reason: the position has another instance ID, so its sequence number is from another
/// run of the server.
pub const SERVER_RESTARTED: &str = "SERVER_RESTARTED";

/// Reason: the next reading to send is no longer kept.
pub const FELL_BEHIND: &str = "FELL_BEHIND";

/// Returns the status of an invalid request: the client must correct it, not retry it.
/// Its `google.rpc.BadRequest` lists the first of the `total` invalid fields.
pub(crate) fn invalid(mut violations: Vec<FieldViolation>, total: usize) -> Status {
    let mut bytes = 0;
    let fits = |violation: &&FieldViolation| {
        // Protocol Buffers adds a tag and up to two bytes of length to each of the two
        // texts, and to the message that holds them.
        bytes += violation.field.len() + violation.description.len() + 9;
        bytes <= MAX_VIOLATION_BYTES
    };
    let listed = violations.iter().take_while(fits).count();
    violations.truncate(listed);
    let message = match total {
        1 => "one field is invalid".to_owned(),
        _ if total > violations.len() => format!(
            "{total} fields are invalid; the first {} are listed, and {} are left out",
            violations.len(),
            total - violations.len()
        ),
        _ => format!("{total} fields are invalid"),
    };
    let details = ErrorDetails::with_bad_request(violations);
    Status::with_error_details(Code::InvalidArgument, message, details)
}

pub(crate) fn no_station(id: &str) -> Status {
    Status::not_found(format!("no station {id:?}"))
}

pub(crate) fn restarted(instance_id: u64) -> Status {
    let metadata = HashMap::from([("boot_id".to_owned(), format!("{instance_id:016x}"))]);
    let details = ErrorDetails::with_error_info(SERVER_RESTARTED, DOMAIN, metadata);
    let message =
        "the position has another instance ID: the server restarted and has forgotten earlier readings";
    Status::with_error_details(Code::FailedPrecondition, message, details)
}

/// `oldest` is the number of the oldest reading that is kept.
pub(crate) fn fell_behind(oldest: u64) -> Status {
    let metadata = HashMap::from([("oldest".to_owned(), oldest.to_string())]);
    let details = ErrorDetails::with_error_info(FELL_BEHIND, DOMAIN, metadata);
    let message = format!("the reader fell behind: the oldest reading still kept is number {oldest}");
    Status::with_error_details(Code::ResourceExhausted, message, details)
}

/// Returns the status of a call that the caller may not make.
pub(crate) fn refused(denied: &Denied) -> Status {
    match denied {
        Denied::Unauthenticated(_) => Status::unauthenticated(
            "send the metadata \"authorization: Bearer TOKEN\" exactly once, with the server's token",
        ),
        Denied::Forbidden(text) => Status::permission_denied(text),
    }
}

pub(crate) fn store_full() -> Status {
    Status::resource_exhausted(format!("this server keeps at most {MAX_STATIONS} stations"))
}

pub(crate) fn too_much_metadata(max: u32) -> Status {
    Status::resource_exhausted(format!("the metadata is larger than {max} bytes"))
}

pub(crate) fn busy() -> Status {
    Status::resource_exhausted("too many calls in flight; try again later")
}

pub(crate) fn deadline_exceeded() -> Status {
    Status::deadline_exceeded("the deadline passed")
}

pub(crate) fn too_slow() -> Status {
    Status::deadline_exceeded("the client sent too slowly")
}

pub(crate) fn stopping() -> Status {
    Status::unavailable("the server is stopping")
}

/// Returns the code as the specification writes it, such as `NOT_FOUND`.
pub fn name(code: Code) -> String {
    format!("{code:?}").to_shouty_snake_case()
}

/// Translates the status in the headers or trailers of a response. Returns its code, if
/// there is a status.
///
/// The handlers of this chapter never use the two codes that it changes:
///
/// - tonic refuses an oversized message with `OUT_OF_RANGE`, which gRPC defines for
///   reading past the end of something. Other implementations send `RESOURCE_EXHAUSTED`.
/// - A call whose client broke off the request ends with `ABORTED`. The log should say
///   `CANCELLED` instead: the client, which gave up the call, no longer sees the code.
pub(crate) fn translate(headers: &mut HeaderMap) -> Option<Code> {
    let value = headers.get_mut(Status::GRPC_STATUS)?;
    let code = match Code::from_bytes(value.as_bytes()) {
        Code::Ok => return Some(Code::Ok),
        Code::OutOfRange => Code::ResourceExhausted,
        Code::Aborted => Code::Cancelled,
        code => code,
    };
    *value = HeaderValue::from(code as i32);
    limit_message(headers);
    Some(code)
}

/// Shortens a long status message, which could make the response larger than clients
/// accept.
///
/// The libraries that this server uses quote unknown encodings and symbols in full,
/// however long they are.
fn limit_message(headers: &mut HeaderMap) {
    // Percent-encoding turns a byte into at most three.
    if headers.get(Status::GRPC_MESSAGE).is_none_or(|message| message.len() <= 3 * MAX_MESSAGE) {
        return;
    }
    let Some(status) = Status::from_header_map(headers) else { return };
    let shortened = Status::new(status.code(), shorten(status.message(), MAX_MESSAGE));
    let mut encoded = HeaderMap::new();
    if shortened.add_header(&mut encoded).is_ok()
        && let Some(message) = encoded.remove(Status::GRPC_MESSAGE)
    {
        headers.insert(Status::GRPC_MESSAGE, message);
    }
}
