//! Where a web page comes from (RFC 6454): scheme, host, and port.
//!
//! A browser lets any page open a WebSocket to any server, and sends the user's cookies
//! along. It also sends the page's origin, so that the server can refuse foreign pages.

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;

use thiserror::Error;
use url::Url;

/// An origin, such as `https://weather.example`.
///
/// Origins are compared by their parts and not as text: the scheme and host in any
/// case, and the port also where it is left out because it is the scheme's default.
/// Browsers always leave out that one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    scheme: String,
    host: String,
    port: Option<u16>,
}

/// A text that is not an origin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error(
    "an origin is written as scheme://host or scheme://host:port and has no path, such as https://weather.example"
)]
pub struct InvalidOrigin;

impl FromStr for Origin {
    type Err = InvalidOrigin;

    /// A slash at the end is accepted, but no longer path.
    fn from_str(text: &str) -> Result<Self, InvalidOrigin> {
        let url: Url = text.parse().map_err(|_not_a_url| InvalidOrigin)?;
        let host =
            url.host_str().filter(|host| !host.is_empty() && !host.contains('*')).ok_or(InvalidOrigin)?;
        let bare = matches!(url.path(), "" | "/") && url.query().is_none() && url.fragment().is_none();
        let anonymous = url.username().is_empty() && url.password().is_none() && !text.contains('@');
        // A page is not loaded over these, so such an origin would never match.
        let of_pages = !matches!(url.scheme(), "ws" | "wss" | "ftp" | "file");
        if !(bare && anonymous && of_pages && text.contains("://")) {
            return Err(InvalidOrigin);
        }
        let (scheme, host) = (url.scheme().to_owned(), host.to_ascii_lowercase());
        Ok(Self { scheme, host, port: url.port_or_known_default() })
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.scheme, self.host)?;
        match (self.scheme.as_str(), self.port) {
            ("http", Some(80)) | ("https", Some(443)) | (_, None) => Ok(()),
            (_, Some(port)) => write!(f, ":{port}"),
        }
    }
}

/// Returns the origins of the page that a server on this address serves.
///
/// Comparing `Origin` with `Host` instead would admit any page whose name was made to
/// resolve to this machine (*DNS rebinding*).
pub fn own_origins(addr: SocketAddr) -> Vec<Origin> {
    let port = addr.port();
    let local = ["127.0.0.1", "localhost", "[::1]"].map(|host| format!("http://{host}:{port}"));
    let all = local.into_iter().chain([format!("http://{addr}")]);
    all.filter_map(|origin| origin.parse().ok()).collect()
}
