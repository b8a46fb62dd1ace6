//! Checks a broker's URL, and shows it without secrets.

use std::fmt;
use std::io::{self, ErrorKind};
use std::sync::Arc;

use tcp_socket::base::tls::{ClientOptions, fault};
use tokio_rustls::rustls::ClientConfig;
use url::Url;

use crate::error::Error;

/// The schemes of URLs that ask for TLS.
const WITH_TLS: [&str; 3] = ["amqps", "rediss", "valkeys"];

/// A broker's URL, and what a connection with TLS needs. One made from a string alone can't ask for
/// TLS. It is displayed without user, password, and query.
#[derive(Debug, Clone)]
pub struct BrokerUrl {
    pub(crate) text: String,
    /// `None` if the URL does not ask for TLS.
    pub(crate) tls: Option<Arc<ClientConfig>>,
}

impl<T: Into<String>> From<T> for BrokerUrl {
    fn from(url: T) -> Self {
        Self { text: url.into(), tls: None }
    }
}

impl fmt::Display for BrokerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&without_password(&self.text))
    }
}

impl BrokerUrl {
    /// Checks the files in `options` if the URL asks for TLS, such as `amqps://localhost`. They say
    /// which authority to trust and which certificate to show.
    ///
    /// # Errors
    /// If a file is missing or unusable, or an option is given for a URL without TLS.
    pub fn with_tls(url: &str, options: &ClientOptions) -> anyhow::Result<Self> {
        let encrypted = Url::parse(url).is_ok_and(|url| WITH_TLS.contains(&url.scheme()));
        let tls = options.config(encrypted, None)?;
        Ok(Self { text: url.to_owned(), tls })
    }

    /// Parses the URL and checks its scheme. If it has another one, the error recommends the first of
    /// `schemes`.
    ///
    /// # Errors
    /// [`Error::Url`]. That includes a URL that asks for TLS but has no files: a plaintext connection
    /// would expose the password.
    pub(crate) fn parse(&self, schemes: &[&str]) -> Result<Url, Error> {
        let parsed = Url::parse(&self.text).map_err(|error| self.refuse(error))?;
        if !schemes.contains(&parsed.scheme()) || parsed.cannot_be_a_base() {
            return Err(self.refuse(format!("it must begin with {}://", schemes[0])));
        }
        if WITH_TLS.contains(&parsed.scheme()) && self.tls.is_none() {
            return Err(self.refuse("it asks for TLS, which needs the certificate of an authority"));
        }
        Ok(parsed)
    }

    /// Returns the error for a URL that can't be used.
    pub(crate) fn refuse(&self, detail: impl fmt::Display) -> Error {
        Error::Url { url: self.to_string(), detail: detail.to_string() }
    }

    /// Returns the error if no broker answers. `reached` is as in [`Error::NoBroker`].
    pub(crate) fn no_broker(&self, detail: String, reached: bool) -> Error {
        Error::NoBroker { url: self.to_string(), detail, reached }
    }

    /// Returns the error for a connection that could not be opened, be it because of TCP or of TLS.
    pub(crate) fn not_opened(&self, error: &io::Error) -> Error {
        if let Some(text) = fault(error, false) {
            return Error::Unusable(text);
        }
        let reached = matches!(error.kind(), ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset);
        self.no_broker(error.to_string(), reached)
    }
}

/// Returns a URL that is safe to show: without user, password, and query.
pub fn without_password(url: &str) -> String {
    let (scheme, rest) = url.split_once("://").map_or(("", url), |(scheme, rest)| (scheme, rest));
    let rest = rest.rsplit_once('@').map_or(rest, |(_login, rest)| rest);
    // A query may hold a password, too.
    let rest = rest.split_once('?').map_or(rest, |(rest, _query)| rest);
    if scheme.is_empty() { rest.to_owned() } else { format!("{scheme}://{rest}") }
}
