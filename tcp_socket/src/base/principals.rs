//! Who is calling, and what may they do?
//!
//! With `--principals`, a server knows its callers from a file: each has a name, a role, and a
//! way to prove who it is, which is a token or a TLS certificate. The file holds only the SHA-256
//! of a token, so reading it doesn't help a thief. Each protocol has its own way to carry a token
//! and to refuse a caller. What a role may do is the same everywhere: [`Operation::roles`].

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, anyhow};
use clap::{Args, ValueEnum};
use serde::Deserialize;
use subtle::ConstantTimeEq;
use thiserror::Error;
use tokio_rustls::TlsStream;
use tokio_util::either::Either;
use toml::Spanned;
use webpki::EndEntityCert;

use super::token::{Hash, bearer};

/// The stream of a connection, which [`tls`](super::tls) calls a `Socket`.
type MaybeTls<T> = Either<T, Box<TlsStream<T>>>;

const MALFORMED: Denied = Denied::Unauthenticated("send one header of the form Authorization: Bearer TOKEN");

/// What a caller may do: [`Operation::roles`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// A weather station: it records its own readings, and nothing else.
    Station,
    /// A person or program that may do everything.
    Operator,
    /// A person or program that reads and subscribes.
    Reader,
}

/// What a server can be asked to do. Everything else, such as a health check, needs no
/// permission.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// Read stations and stored readings.
    Read,
    /// Get readings as they are recorded.
    Subscribe,
    /// Record readings of the station that has the caller's name.
    RecordOwn,
    /// Record readings of any other station.
    RecordOther,
    /// Create, change, and delete stations.
    Manage,
    /// Join the chat.
    Chat,
}

impl Operation {
    /// All operations.
    pub const ALL: [Self; 6] =
        [Self::Read, Self::Subscribe, Self::RecordOwn, Self::RecordOther, Self::Manage, Self::Chat];

    /// Returns the roles that may do this. `docs/security.md` shows the same table.
    pub const fn roles(self) -> &'static [Role] {
        match self {
            Self::Read | Self::Subscribe => &[Role::Reader, Role::Operator],
            Self::RecordOwn => &[Role::Station, Role::Operator],
            Self::RecordOther | Self::Manage | Self::Chat => &[Role::Operator],
        }
    }

    /// Returns the operation in words, as in "may not record readings of other stations".
    pub const fn words(self) -> &'static str {
        match self {
            Self::Read => "read stations and readings",
            Self::Subscribe => "subscribe to readings",
            Self::RecordOwn => "record readings of its own station",
            Self::RecordOther => "record readings of other stations",
            Self::Manage => "create, change, or delete stations",
            Self::Chat => "join the chat",
        }
    }
}

/// Why an operation was refused.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Denied {
    /// The server doesn't know who is calling.
    #[error("{0}")]
    Unauthenticated(&'static str),
    /// The caller's role does not allow it.
    #[error("{0}")]
    Forbidden(String),
}

/// A known caller.
#[derive(Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Principal {
    /// Its name. A station has its ID as its name.
    pub name: String,
    /// What it may do.
    pub role: Role,
    /// The SHA-256 of its token.
    pub token_sha256: Option<Hash>,
    /// The DNS name in its certificate.
    pub certificate: Option<String>,
}

/// The callers that a server knows.
#[derive(Debug)]
pub struct Principals(Vec<Arc<Principal>>);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    principal: Vec<Spanned<Principal>>,
}

impl Principals {
    /// Reads a file such as `principals.toml`.
    ///
    /// # Errors
    /// If the file is unreadable or has a mistake. The error names the line.
    pub fn read(path: &Path) -> anyhow::Result<Self> {
        let name = path.display();
        let text = fs::read_to_string(path).with_context(|| format!("cannot read {name}"))?;
        Self::parse(&text).map_err(|(line, error)| anyhow!("{name}, line {line}: {error}"))
    }

    /// Reads the text of such a file.
    ///
    /// # Errors
    /// The number of a line, and what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, (usize, String)> {
        let line = |at: usize| text[..at].lines().count().max(1) + usize::from(text[..at].ends_with('\n'));
        let file: File = toml::from_str(text).map_err(|error| {
            // The first line of the message only. The others list what a parser expects.
            let message = error.message().lines().next().unwrap_or_default().to_owned();
            (line(error.span().map_or(0, |span| span.start)), message)
        })?;
        let mut principals: Vec<Arc<Principal>> = Vec::new();
        for entry in file.principal {
            let at = line(entry.span().start);
            let new = entry.into_inner();
            let fault = if !is_name(&new.name) {
                "a name has 1 to 32 characters: a-z, 0-9, and -"
            } else if new.token_sha256.is_none() && new.certificate.is_none() {
                "give each principal a token_sha256 or a certificate"
            } else if principals.iter().any(|known| known.clashes_with(&new)) {
                "an earlier principal has the same name, token, or certificate"
            } else {
                principals.push(Arc::new(new));
                continue;
            };
            return Err((at, fault.to_owned()));
        }
        Ok(Self(principals))
    }

    /// Returns the principals of a server that knows only one operator, who has this token.
    pub fn operator(token: &str) -> Self {
        let token_sha256 = Some(Hash::of(token.as_bytes()));
        let (name, role) = ("operator".to_owned(), Role::Operator);
        Self(vec![Arc::new(Principal { name, role, token_sha256, certificate: None })])
    }

    /// Returns all of them.
    pub fn all(&self) -> &[Arc<Principal>] {
        &self.0
    }

    /// Returns the principal with this token.
    ///
    /// How long this takes says nothing about the right tokens: it compares hashes, each of them
    /// to the last byte and with every principal, and a hash doesn't reveal how much of the token
    /// was right.
    pub fn by_token(&self, token: &[u8]) -> Option<&Arc<Principal>> {
        let hash = Hash::of(token);
        let mut found = None;
        for principal in &self.0 {
            if let Some(expected) = &principal.token_sha256
                && bool::from(expected.0.ct_eq(&hash.0))
            {
                found = Some(principal);
            }
        }
        found
    }

    fn by_certificate<T>(&self, stream: &MaybeTls<T>) -> Option<&Arc<Principal>> {
        let Either::Right(tls) = stream else { return None };
        // TLS has checked the certificate: the first is the client's own.
        let certificate = EndEntityCert::try_from(tls.get_ref().1.peer_certificates()?.first()?).ok()?;
        let named = |name| self.0.iter().find(|principal| principal.certificate.as_deref() == Some(name));
        certificate.valid_dns_names().find_map(named)
    }
}

impl Principal {
    fn clashes_with(&self, other: &Self) -> bool {
        let same_certificate = self.certificate.is_some() && self.certificate == other.certificate;
        let same_token = self.token_sha256.is_some() && self.token_sha256 == other.token_sha256;
        self.name == other.name || same_certificate || same_token
    }
}

/// Returns whether a principal can have this name. The same names are valid as station IDs.
pub fn is_name(name: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=32).contains(&name.len()) && name.bytes().all(allowed)
}

/// The other side of a connection, as far as a server knows it.
#[derive(Debug, Clone, Default)]
pub struct Caller(Option<Known>);

#[derive(Debug, Clone)]
struct Known {
    principals: Arc<Principals>,
    /// `None` if the caller has not said who it is.
    principal: Option<Arc<Principal>>,
}

impl Caller {
    /// Returns the caller on a new connection. Without `principals`, it may do everything.
    /// Otherwise, it is the principal that the certificate names, or a stranger.
    pub fn new<T>(principals: Option<&Arc<Principals>>, stream: &MaybeTls<T>) -> Self {
        Self(principals.map(|principals| Known {
            principal: principals.by_certificate(stream).cloned(),
            principals: principals.clone(),
        }))
    }

    /// Returns whether the server checks its callers.
    pub fn is_checked(&self) -> bool {
        self.0.is_some()
    }

    /// Returns the caller's name, if the server knows it.
    pub fn name(&self) -> Option<&str> {
        Some(&self.0.as_ref()?.principal.as_ref()?.name)
    }

    /// Returns the caller that has this token. A server without principals ignores it.
    ///
    /// # Errors
    /// If no principal has this token.
    pub fn with_token(&self, token: &[u8]) -> Result<Self, Denied> {
        let Some(known) = &self.0 else { return Ok(Self(None)) };
        let found = known.principals.by_token(token);
        let principal =
            Some(found.ok_or(Denied::Unauthenticated("the server does not know this token"))?.clone());
        Ok(Self(Some(Known { principal, principals: known.principals.clone() })))
    }

    /// Returns the caller of a request with these `Authorization` headers (RFC 6750, section
    /// 2.1). Without any, it is the caller of the connection.
    ///
    /// # Errors
    /// If there are several, if one does not have the form `Bearer TOKEN`, or if the token is unknown.
    pub fn with_authorization<'a>(
        &self,
        mut headers: impl Iterator<Item = &'a [u8]>,
    ) -> Result<Self, Denied> {
        match (headers.next(), headers.next()) {
            _ if self.0.is_none() => Ok(Self(None)),
            (None, _) => Ok(self.clone()),
            (Some(header), None) => self.with_token(bearer(header).ok_or(MALFORMED)?),
            _ => Err(MALFORMED),
        }
    }

    /// Checks that the caller may do this.
    ///
    /// # Errors
    /// If it may not.
    pub fn may(&self, operation: Operation) -> Result<(), Denied> {
        let Some(known) = &self.0 else { return Ok(()) };
        let Some(Principal { name, role, .. }) = known.principal.as_deref() else {
            return Err(Denied::Unauthenticated("the server wants to know who is calling: send a token"));
        };
        if operation.roles().contains(role) {
            return Ok(());
        }
        let (role, operation) = (format!("{role:?}").to_lowercase(), operation.words());
        Err(Denied::Forbidden(format!("{name} is a {role} and may not {operation}")))
    }

    /// Checks that the caller may record readings of all these stations.
    ///
    /// # Errors
    /// If it may not.
    pub fn may_record<'a>(&self, stations: impl IntoIterator<Item = &'a str>) -> Result<(), Denied> {
        if self.0.is_none() {
            return Ok(());
        }
        self.may(Operation::RecordOwn)?;
        let name = self.name();
        let mut stations = stations.into_iter();
        if stations.any(|station| Some(station) != name) { self.may(Operation::RecordOther) } else { Ok(()) }
    }
}

/// Who may call a server, as a command-line option.
#[derive(Debug, Clone, Default, Args)]
pub struct Options {
    /// Serve only the callers in this file, such as principals.toml, each as its role allows
    #[arg(long, value_name = "FILE")]
    pub principals: Option<PathBuf>,
}

impl Options {
    /// Reads the file; `None` without the option.
    ///
    /// # Errors
    /// The same as for [`Principals::read`].
    pub fn read(&self) -> anyhow::Result<Option<Arc<Principals>>> {
        self.principals.as_deref().map(Principals::read).transpose().map(|read| read.map(Arc::new))
    }
}

/// Logs a warning if other machines can reach this address and there is no TLS or no check of
/// the callers.
pub fn warn_if_open(addr: SocketAddr, tls: bool, principals: bool) {
    let missing = match (tls, principals) {
        _ if addr.ip().is_loopback() => return,
        (true, true) => return,
        (true, false) => "--principals",
        (false, true) => "--tls",
        (false, false) => "--tls and --principals",
    };
    tracing::warn!("other machines can reach {addr}, which is not fully protected; add {missing}");
}
