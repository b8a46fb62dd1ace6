//! Which requests the server accepts at all: `check_origin` decides which pages may connect, and
//! `check_host` checks the `Host` header.
//!
//! An origin (RFC 6454) is the scheme, host, and port of a web page. A browser lets any page
//! open a WebSocket to any server, and may send the user's cookies along. It also sends the
//! page's origin, so that the server can refuse foreign pages.

use std::fmt;
use std::net::{Ipv6Addr, SocketAddr};
use std::str::FromStr;

use axum::http::uri::Authority;
use axum::http::{HeaderMap, StatusCode, Version, header};
use axum::response::{IntoResponse, Response};
use tcp_socket::base::text::printable;
use thiserror::Error;
use tracing::warn;
use url::Url;

use crate::protocol::model::shorten;

/// An origin, such as `https://weather.example`.
///
/// It is stored in a normalized form, so that two origins can be compared: the scheme and the
/// host are in lower case, and the scheme's default port is left out, as browsers do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin(String);

/// The error for a text that is not an origin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error(
    "an origin is scheme://host or scheme://host:port without a path; for example, https://weather.example"
)]
pub struct InvalidOrigin;

impl FromStr for Origin {
    type Err = InvalidOrigin;

    /// Accepts a slash at the end, but no other path.
    fn from_str(text: &str) -> Result<Self, InvalidOrigin> {
        let url: Url = text.to_ascii_lowercase().parse().map_err(|_not_a_url| InvalidOrigin)?;
        let has_host = url.host_str().is_some_and(|host| !host.is_empty() && !host.contains('*'));
        let bare = matches!(url.path(), "" | "/") && url.query().is_none() && url.fragment().is_none();
        let anonymous = url.username().is_empty() && url.password().is_none() && !text.contains('@');
        // A page never has an origin with one of these schemes, so it would never match.
        let of_pages = !matches!(url.scheme(), "ws" | "wss" | "ftp" | "file");
        if !(has_host && bare && anonymous && of_pages && text.contains("://")) {
            return Err(InvalidOrigin);
        }
        // The parser has normalized the host and the port.
        Ok(Self(url.as_str().trim_end_matches('/').to_owned()))
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Returns the origins under which a browser may open the page of a server on this address. They
/// begin with `https` if the server is `encrypted`.
///
/// If the server compared `Origin` with `Host` instead, a foreign page could connect by making
/// its own domain name point to this machine (*DNS rebinding*).
pub fn own_origins(addr: SocketAddr, encrypted: bool) -> Vec<Origin> {
    let (scheme, port) = (if encrypted { "https" } else { "http" }, addr.port());
    let local = ["127.0.0.1", "localhost", "[::1]"].map(|host| format!("{scheme}://{host}:{port}"));
    let all = local.into_iter().chain([format!("{scheme}://{addr}")]);
    all.filter_map(|origin| origin.parse().ok()).collect()
}

/// Checks the origin of a page. Programs that are not browsers send no `Origin`, and may connect.
///
/// # Errors
/// If the page is refused, the error is the response: 403.
pub(super) fn check_origin(headers: &HeaderMap, allowed: &[Origin]) -> Result<(), Box<Response>> {
    if !headers.contains_key(header::ORIGIN) {
        return Ok(());
    }
    let origin: Option<Origin> = single(headers, header::ORIGIN).and_then(|origin| origin.parse().ok());
    if origin.as_ref().is_some_and(|origin| allowed.contains(origin)) {
        return Ok(());
    }
    Err(Box::new(refuse_page(headers, origin.as_ref())))
}

/// Refuses a page's request. The log and the response say how to allow its origin.
fn refuse_page(headers: &HeaderMap, origin: Option<&Origin>) -> Response {
    let what_to_do = origin.map_or("this origin cannot be allowed".to_owned(), |origin| {
        format!("to allow it, start the server with --allow-origin {origin}")
    });
    let sent: Vec<_> = headers.get_all(header::ORIGIN).iter().map(|value| value.as_bytes()).collect();
    let sent = shorten(&String::from_utf8_lossy(&sent.join(&b", "[..])));
    let reason =
        printable(&format!("pages from the origin {sent:?} may not connect; {what_to_do}")).into_owned();
    warn!("{reason}");
    (StatusCode::FORBIDDEN, format!("{reason}\n")).into_response()
}

/// Checks the `Host` header of a request. HTTP/1.1 requires exactly one, with a host and an
/// optional port (RFC 9112, section 3.2).
///
/// # Errors
/// If the request is refused, the error is the response: 400.
pub(super) fn check_host(version: Version, headers: &HeaderMap) -> Result<(), Box<Response>> {
    let valid = match single(headers, header::HOST) {
        Some(host) => is_host(host),
        None => version < Version::HTTP_11 && !headers.contains_key(header::HOST),
    };
    let why =
        "send exactly one Host header, with a host and an optional port, such as Host: 127.0.0.1:8081\n";
    if valid { Ok(()) } else { Err(Box::new((StatusCode::BAD_REQUEST, why).into_response())) }
}

/// Returns whether the value matches `uri-host [ ":" port ]` of RFC 9110, section 7.2.
fn is_host(value: &str) -> bool {
    let Ok(authority) = value.parse::<Authority>() else { return false };
    let host = authority.host();
    let port = value.strip_prefix(host).map(|rest| rest.strip_prefix(':').unwrap_or(rest));
    let port_is_valid = port.is_some_and(|port| {
        port.is_empty() || port.bytes().all(|b| b.is_ascii_digit()) && port.parse::<u16>().is_ok()
    });
    let address = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    !host.is_empty() && port_is_valid && address.is_none_or(|address| address.parse::<Ipv6Addr>().is_ok())
}

/// Returns the value of a header that must not be repeated, or `None` if it is missing or
/// repeated.
pub(super) fn single(headers: &HeaderMap, name: header::HeaderName) -> Option<&str> {
    let mut values = headers.get_all(name).iter();
    let first = values.next()?.to_str().ok()?;
    values.next().is_none().then_some(first)
}
