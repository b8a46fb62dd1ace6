//! The opening handshake (RFC 6455, section 4): an HTTP/1.1 request that asks to
//! go on in another protocol, and a response that proves it was understood.
//!
//! The client sends a random key; the server hashes it together with a fixed
//! text and returns the result. That keeps a server that knows nothing of
//! WebSocket, and a cache that replays an old response, from seeming to agree. It
//! is not a secret, and it authenticates nobody.

use axum::http::{HeaderMap, Method, StatusCode, Version, header};
use axum::response::{IntoResponse, Response};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use super::origin::{Origin, refuse_page, single};
use crate::protocol::SUBPROTOCOL;

/// Checks a request for an upgrade and makes the response to it: 101 with the
/// proof, after which both sides speak WebSocket, or the error. `is_allowed` decides
/// about the page's `Origin`, if there is one.
///
/// # Errors
/// The response to a request that is refused: 400, 403, 405, or 426.
pub(super) fn accept(
    method: &Method,
    version: Version,
    headers: &HeaderMap,
    is_allowed: impl Fn(&Origin) -> bool,
) -> Result<Response, Box<Response>> {
    let refuse = |status: StatusCode, why: &'static str| Err(Box::new((status, why).into_response()));

    // This check comes first: a browser does not tell a page's script why its handshake
    // failed, so our page asks with a plain POST.
    if headers.contains_key(header::ORIGIN) {
        let origin = single(headers, header::ORIGIN).and_then(|origin| origin.parse().ok());
        if !origin.as_ref().is_some_and(is_allowed) {
            return Err(Box::new(refuse_page(headers, origin.as_ref())));
        }
    }

    // Section 4.2.1, in its order.
    if method != Method::GET {
        let allow = [(header::ALLOW, "GET")];
        return Err(Box::new((StatusCode::METHOD_NOT_ALLOWED, allow, "use GET\n").into_response()));
    }
    if version != Version::HTTP_11 {
        return refuse(StatusCode::BAD_REQUEST, "an upgrade takes HTTP/1.1\n");
    }
    if !has_token(headers, header::UPGRADE, "websocket") || !has_token(headers, header::CONNECTION, "upgrade")
    {
        let upgrade = [(header::UPGRADE, "websocket"), (header::CONNECTION, "upgrade")];
        let why = "this is a WebSocket endpoint: send Connection: upgrade and Upgrade: websocket\n";
        return Err(Box::new((StatusCode::UPGRADE_REQUIRED, upgrade, why).into_response()));
    }
    // WebSocket frames follow the header; a body would be mistaken for them.
    if headers.contains_key(header::CONTENT_LENGTH) || headers.contains_key(header::TRANSFER_ENCODING) {
        return refuse(StatusCode::BAD_REQUEST, "an upgrade has no body\n");
    }
    if single(headers, header::SEC_WEBSOCKET_VERSION) != Some("13") {
        let versions = [(header::SEC_WEBSOCKET_VERSION, "13")];
        let why = "only version 13, that of RFC 6455, is spoken here\n";
        return Err(Box::new((StatusCode::UPGRADE_REQUIRED, versions, why).into_response()));
    }
    let Some(key) = single(headers, header::SEC_WEBSOCKET_KEY).filter(|key| is_key(key)) else {
        return refuse(StatusCode::BAD_REQUEST, "Sec-WebSocket-Key must be 16 bytes in base64\n");
    };

    // Section 4.2.2: of the subprotocols that the client offers the server picks
    // one. A client that offers none gets ours without naming it.
    let offers_some = headers.contains_key(header::SEC_WEBSOCKET_PROTOCOL);
    let offers_ours = list(headers, header::SEC_WEBSOCKET_PROTOCOL).any(|offered| offered == SUBPROTOCOL);
    if offers_some && !offers_ours {
        return refuse(StatusCode::BAD_REQUEST, "the only subprotocol is weather.v1.json\n");
    }

    let mut response = StatusCode::SWITCHING_PROTOCOLS.into_response();
    let answer = response.headers_mut();
    let proof = derive_accept_key(key.as_bytes());
    answer.insert(header::UPGRADE, header::HeaderValue::from_static("websocket"));
    answer.insert(header::CONNECTION, header::HeaderValue::from_static("upgrade"));
    if let Ok(proof) = header::HeaderValue::try_from(proof) {
        answer.insert(header::SEC_WEBSOCKET_ACCEPT, proof);
    }
    if offers_ours {
        answer.insert(header::SEC_WEBSOCKET_PROTOCOL, header::HeaderValue::from_static(SUBPROTOCOL));
    }
    Ok(response)
}

/// Returns the elements of a header that is a list: between commas, perhaps in several lines.
fn list(headers: &HeaderMap, name: header::HeaderName) -> impl Iterator<Item = &str> {
    let values = headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).map(str::trim)
}

fn has_token(headers: &HeaderMap, name: header::HeaderName, token: &str) -> bool {
    list(headers, name).any(|element| element.eq_ignore_ascii_case(token))
}

/// Returns whether the key is 16 bytes in base64: 22 characters and two of padding.
fn is_key(key: &str) -> bool {
    key.len() == 24
        && key
            .strip_suffix("==")
            .is_some_and(|digits| digits.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'+' || b == b'/'))
}
