//! The address of a server.

use std::net::Ipv6Addr;

use crate::client::error::Error;

/// Port of a server if its address does not name one.
const DEFAULT_PORT: u16 = 7878;

/// How the address of a server with TLS begins.
pub(crate) const TLS: &str = "tls://";

/// Returns the host and port in a server's address, such as `tcp://[::1]:7878`, or
/// `tls://[::1]:7878` for a connection with TLS. The scheme is optional, and the default port
/// is 7878.
///
/// # Errors
/// [`Error::Address`] if the address has another form.
pub fn server_addr(url: &str) -> Result<String, Error> {
    let wrong = || Error::Address { url: url.to_owned() };
    let addr = url.strip_prefix("tcp://").or_else(|| url.strip_prefix(TLS)).unwrap_or(url);
    let addr = addr.strip_suffix('/').unwrap_or(addr);
    // Without brackets, an IPv6 address can't have a port: `::1:80` is an address itself.
    if let Ok(host) = addr.parse::<Ipv6Addr>() {
        return Ok(format!("[{host}]:{DEFAULT_PORT}"));
    }
    let (host, port) = match addr.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => {
            (host, port.parse().ok().filter(|_| !port.starts_with('+')).ok_or_else(wrong)?)
        }
        _ => (addr, DEFAULT_PORT),
    };
    let bracketed = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let ipv6 = bracketed.is_some_and(|host| host.parse::<Ipv6Addr>().is_ok());
    let name = |c: char| !c.is_whitespace() && !c.is_control() && !"/:[]@?#".contains(c);
    if ipv6 || (!host.is_empty() && host.chars().all(name)) {
        Ok(format!("{host}:{port}"))
    } else {
        Err(wrong())
    }
}
