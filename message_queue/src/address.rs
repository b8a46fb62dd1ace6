//! Checks a broker's URL, and shows it without secrets.

use url::Url;

use crate::error::Error;

/// Parses a broker's URL and checks its scheme. An error recommends the first of `schemes`.
///
/// # Errors
/// [`Error::Url`], also if the URL asks for TLS, which this chapter does not support: a
/// plaintext connection would expose the password.
pub(crate) fn parse(url: &str, schemes: &[&str]) -> Result<Url, Error> {
    let parsed = Url::parse(url).map_err(|error| refuse(url, error))?;
    let scheme = parsed.scheme();
    if scheme.strip_suffix('s').is_some_and(|plain| schemes.contains(&plain)) {
        let usual = schemes[0];
        return Err(refuse(
            url,
            format!("it asks for TLS, which these programs don't support; use {usual}://"),
        ));
    }
    if !schemes.contains(&scheme) || parsed.cannot_be_a_base() {
        return Err(refuse(url, format!("it must begin with {}://", schemes[0])));
    }
    Ok(parsed)
}

/// Returns the error for a URL that can't be used.
pub(crate) fn refuse(url: &str, detail: impl std::fmt::Display) -> Error {
    Error::Url { url: without_password(url), detail: detail.to_string() }
}

/// Returns a URL that is safe to show: without user, password, and query.
pub fn without_password(url: &str) -> String {
    let (scheme, rest) = url.split_once("://").map_or(("", url), |(scheme, rest)| (scheme, rest));
    let rest = rest.rsplit_once('@').map_or(rest, |(_login, rest)| rest);
    // A query may hold a password too.
    let rest = rest.split_once('?').map_or(rest, |(rest, _query)| rest);
    if scheme.is_empty() { rest.to_owned() } else { format!("{scheme}://{rest}") }
}
