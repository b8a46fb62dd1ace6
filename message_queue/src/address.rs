//! Checks the URLs of a broker or a cluster, and shows them without secrets.

use std::fmt;
use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::ensure;
use tcp_socket::base::tls::{ClientOptions, fault};
use tokio_rustls::rustls::ClientConfig;
use url::Url;

use crate::error::Error;

/// The schemes of URLs that ask for TLS.
const WITH_TLS: [&str; 3] = ["amqps", "rediss", "valkeys"];

/// Where a broker is: its URL, or the URLs of all nodes of a cluster, separated by commas. Each
/// attempt to connect begins with the next URL. It is displayed without users, passwords, and queries.
#[derive(Debug, Clone)]
pub struct BrokerUrl {
    addresses: Arc<[Address]>,
    /// Number of addresses tried so far. All clones share it.
    tried: Arc<AtomicUsize>,
}

impl<T: Into<String>> From<T> for BrokerUrl {
    /// Such a URL is usable only without TLS.
    fn from(urls: T) -> Self {
        Self::new(&urls.into(), None)
    }
}

impl fmt::Display for BrokerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown: Vec<_> = self.addresses.iter().map(Address::to_string).collect();
        f.write_str(&shown.join(","))
    }
}

impl BrokerUrl {
    /// Checks the files in `options` if a URL asks for TLS, such as `amqps://localhost`. They say
    /// which authority to trust and which certificate to show.
    /// Its token is the password of a user without one, as in `redis://oslo-1@127.0.0.1`.
    ///
    /// # Errors
    /// If a file is missing or unusable, or an option is given for URLs that don't need it.
    pub fn with_tls(urls: &str, options: &ClientOptions) -> anyhow::Result<Self> {
        let mut urls = split(urls);
        let encrypted = urls.iter().any(|url| asks_for_tls(url));
        if let Some(token) = options.token()? {
            let logins = urls.iter_mut().filter_map(|url| Some((with_password(url, token.secret())?, url)));
            let count = logins.map(|(login, url)| *url = login).count();
            let used = count > 0 || options.token_file.is_none();
            ensure!(used, "--token-file needs a URL with a user, such as redis://oslo-1@127.0.0.1");
        }
        Ok(Self::new(&urls.join(","), options.config(encrypted, None)?.as_ref()))
    }

    fn new(urls: &str, tls: Option<&Arc<ClientConfig>>) -> Self {
        let address = |text: String| Address { tls: tls.filter(|_| asks_for_tls(&text)).cloned(), text };
        Self { addresses: split(urls).into_iter().map(address).collect(), tried: Arc::default() }
    }

    /// Makes one attempt: calls `open` with one address after the other until a broker answers.
    ///
    /// # Errors
    /// [`Error::NoBroker`] if none answers, or the error of the one that did.
    pub(crate) async fn open<'a, T, F: Future<Output = Result<T, Error>>>(
        &'a self,
        open: impl Fn(&'a Address) -> F,
    ) -> Result<T, Error> {
        let mut last = Error::Disconnected;
        for _ in 0..self.addresses.len() {
            let next = self.tried.fetch_add(1, Ordering::Relaxed) % self.addresses.len();
            match open(&self.addresses[next]).await {
                Err(Error::NoBroker { detail, reached, .. }) => {
                    last = Error::NoBroker { url: self.to_string(), detail, reached };
                }
                answered => return answered,
            }
        }
        Err(last)
    }
}

/// Splits a list of URLs. A comma inside a password does not separate two of them.
fn split(list: &str) -> Vec<String> {
    let mut urls: Vec<String> = Vec::new();
    for part in list.split(',') {
        match urls.last_mut() {
            Some(url) if !part.contains("://") => *url += &format!(",{part}"),
            _ => urls.push(part.trim().to_owned()),
        }
    }
    urls
}

/// Returns the URL with this password if it has a user without one.
fn with_password(url: &str, password: &str) -> Option<String> {
    let mut url =
        Url::parse(url).ok().filter(|url| !url.username().is_empty() && url.password().is_none())?;
    url.set_password(Some(password)).ok()?;
    Some(url.into())
}

fn asks_for_tls(url: &str) -> bool {
    Url::parse(url).is_ok_and(|url| WITH_TLS.contains(&url.scheme()))
}

/// The URL of one broker, and what a connection with TLS needs. It is displayed without user, password,
/// and query.
#[derive(Debug, Clone)]
pub(crate) struct Address {
    pub(crate) text: String,
    /// `None` if the URL does not ask for TLS.
    pub(crate) tls: Option<Arc<ClientConfig>>,
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&without_password(&self.text))
    }
}

impl Address {
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
fn without_password(url: &str) -> String {
    let (scheme, rest) = url.split_once("://").map_or(("", url), |(scheme, rest)| (scheme, rest));
    let rest = rest.rsplit_once('@').map_or(rest, |(_login, rest)| rest);
    // A query may hold a password, too.
    let rest = rest.split_once('?').map_or(rest, |(rest, _query)| rest);
    if scheme.is_empty() { rest.to_owned() } else { format!("{scheme}://{rest}") }
}
