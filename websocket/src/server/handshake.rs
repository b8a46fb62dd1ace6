//! The opening handshake (RFC 6455, section 4): an HTTP/1.1 request that asks to continue in
//! another protocol, and a response that proves that the server understood it.
//!
//! The client sends a random key. The server hashes it together with a fixed text and returns
//! the result. Without this proof, a server that doesn't know WebSocket, or a cache that
//! replays an old response, could seem to agree. The key is not a secret, and the proof
//! authenticates nobody.

use axum::http::{HeaderMap, Method, StatusCode, Version, header};
use axum::response::{IntoResponse, Response};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use super::origin::{Origin, check_origin, single};
use crate::protocol::SUBPROTOCOL;

/// Checks a request for an upgrade. Returns the response 101 with the proof; once it is sent,
/// both sides speak WebSocket. Pages from `allowed_origins` may connect.
///
/// # Errors
/// If the request is refused, the error is the response: 400, 403, 405, or 426.
pub(super) fn accept(
    method: &Method,
    version: Version,
    headers: &HeaderMap,
    allowed_origins: &[Origin],
) -> Result<Response, Box<Response>> {
    let refuse = |status: StatusCode, why: &'static str| Err(Box::new((status, why).into_response()));

    // This check comes before that of the method. A browser doesn't tell a page's script why a
    // handshake failed, so our page asks for the reason with a plain POST.
    check_origin(headers, allowed_origins)?;

    // The checks of section 4.2.1, in its order.
    if method != Method::GET {
        let allow = [(header::ALLOW, "GET")];
        return Err(Box::new((StatusCode::METHOD_NOT_ALLOWED, allow, "use GET\n").into_response()));
    }
    if version != Version::HTTP_11 {
        return refuse(StatusCode::BAD_REQUEST, "a WebSocket upgrade requires HTTP/1.1\n");
    }
    if !has_token(headers, header::UPGRADE, "websocket") || !has_token(headers, header::CONNECTION, "upgrade")
    {
        let upgrade = [(header::UPGRADE, "websocket"), (header::CONNECTION, "upgrade")];
        let why = "this is a WebSocket endpoint: send Connection: upgrade and Upgrade: websocket\n";
        return Err(Box::new((StatusCode::UPGRADE_REQUIRED, upgrade, why).into_response()));
    }
    // WebSocket frames follow the header section, and a body would be mistaken for frames.
    if headers.contains_key(header::CONTENT_LENGTH) || headers.contains_key(header::TRANSFER_ENCODING) {
        return refuse(StatusCode::BAD_REQUEST, "send the upgrade request without a body\n");
    }
    if single(headers, header::SEC_WEBSOCKET_VERSION) != Some("13") {
        let versions = [(header::SEC_WEBSOCKET_VERSION, "13")];
        let why = "send Sec-WebSocket-Version: 13, the version of RFC 6455\n";
        return Err(Box::new((StatusCode::UPGRADE_REQUIRED, versions, why).into_response()));
    }
    let Some(key) = single(headers, header::SEC_WEBSOCKET_KEY).filter(|key| is_key(key)) else {
        return refuse(StatusCode::BAD_REQUEST, "Sec-WebSocket-Key must be 16 bytes in base64\n");
    };

    // Section 4.2.2: the server picks one of the subprotocols that the client offers. If the
    // client offers none, the server uses its own but doesn't name it.
    let offers_some = headers.contains_key(header::SEC_WEBSOCKET_PROTOCOL);
    let offers_ours = list(headers, header::SEC_WEBSOCKET_PROTOCOL).any(|offered| offered == SUBPROTOCOL);
    if offers_some && !offers_ours {
        return refuse(
            StatusCode::BAD_REQUEST,
            "the only subprotocol here is weather.v1.json: offer it, or none\n",
        );
    }

    let mut response = StatusCode::SWITCHING_PROTOCOLS.into_response();
    let added = response.headers_mut();
    let proof = derive_accept_key(key.as_bytes());
    added.insert(header::UPGRADE, header::HeaderValue::from_static("websocket"));
    added.insert(header::CONNECTION, header::HeaderValue::from_static("upgrade"));
    if let Ok(proof) = header::HeaderValue::try_from(proof) {
        added.insert(header::SEC_WEBSOCKET_ACCEPT, proof);
    }
    if offers_ours {
        added.insert(header::SEC_WEBSOCKET_PROTOCOL, header::HeaderValue::from_static(SUBPROTOCOL));
    }
    Ok(response)
}

/// Returns the elements of a header that is a list. They are separated by commas, and may be
/// spread over several lines with the same name.
fn list(headers: &HeaderMap, name: header::HeaderName) -> impl Iterator<Item = &str> {
    let values = headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).map(str::trim)
}

fn has_token(headers: &HeaderMap, name: header::HeaderName, token: &str) -> bool {
    list(headers, name).any(|element| element.eq_ignore_ascii_case(token))
}

/// Returns whether the key is 16 bytes in base64: 22 characters, and two of padding.
fn is_key(key: &str) -> bool {
    key.len() == 24
        && key
            .strip_suffix("==")
            .is_some_and(|digits| digits.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'+' || b == b'/'))
}
