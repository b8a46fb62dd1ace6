//! TLS: encryption between TCP and the protocol.
//!
//! A server proves with a certificate who it is, and may ask clients for theirs. The two sides
//! agree on keys in a handshake. After that, the protocol reads and writes a stream as before.
//! `cargo run -- certificates` in the repository's root folder creates all files.
//!
//! Two things differ from a plain stream. A write only fills a buffer, so a message needs a
//! `flush`. And TLS marks the end of a stream with a message, *close_notify*: if TCP ends without
//! it, reading fails, because somebody on the way may have cut off the rest.

use std::error::Error;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow, ensure};
use clap::Args;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, timeout_at};
use tokio_rustls::rustls::pki_types::pem::{self, PemObject};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{
    self, AlertDescription as Alert, CertificateError, ClientConfig, KeyLogFile, RootCertStore, ServerConfig,
};
use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream};
use tokio_util::either::Either;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

use super::linger::{LingerLimits, linger};
use super::principals::Principals;
use super::text::printable;
use super::token::{Token, client_token};

/// Folder with the certificates that the lab's command writes.
pub const FOLDER: &str = "certificates";

/// The ALPN name of HTTP/1.1 (RFC 7301, section 6).
pub const HTTP_1_1: &str = "http/1.1";

/// The ALPN name of HTTP/2 over TLS (RFC 9113, section 3.1).
pub const H2: &str = "h2";

/// Command that creates the certificates.
const CREATE: &str = "cargo run -- certificates";

/// First byte from a client that speaks TLS: the type of a handshake record (RFC 8446, section 5.1).
const HANDSHAKE: u8 = 0x16;

/// The stream of a connection: without TLS or with it.
pub type Socket<T = TcpStream> = Either<T, Box<TlsStream<T>>>;

/// TLS as command-line options of a server.
#[derive(Debug, Clone, Default, Args)]
pub struct ServerOptions {
    /// Encrypt all connections with TLS
    #[arg(long)]
    pub tls: bool,
    /// The server's certificate, a PEM file
    #[arg(long, value_name = "FILE", default_value = "certificates/server.pem", requires = "tls")]
    pub certificate: PathBuf,
    /// The certificate's private key, a PEM file
    #[arg(long, value_name = "FILE", default_value = "certificates/server-key.pem", requires = "tls")]
    pub key: PathBuf,
    /// Accept only clients with a certificate from this authority, such as certificates/ca.pem
    #[arg(long, value_name = "FILE", requires = "tls")]
    pub client_ca: Option<PathBuf>,
}

impl ServerOptions {
    /// Reads the files. Without `--tls`, returns `None`. `alpn` names the protocol inside TLS (RFC
    /// 7301), such as `http/1.1`. A client that offers only other names is refused.
    ///
    /// # Errors
    /// If a file is missing or unusable. The error says how to create it.
    pub fn config(&self, alpn: Option<&str>) -> anyhow::Result<Option<Arc<ServerConfig>>> {
        if !self.tls {
            return Ok(None);
        }
        let builder = match &self.client_ca {
            None => ServerConfig::builder().with_no_client_auth(),
            Some(ca) => {
                let verifier = WebPkiClientVerifier::builder(roots(ca)?.into()).build()?;
                ServerConfig::builder().with_client_cert_verifier(verifier)
            }
        };
        let (certificates, key) = identity(&self.certificate, &self.key, CREATE)?;
        let config = builder.with_single_cert(certificates, key);
        let mut config = config.with_context(|| format!("cannot use {}", self.key.display()))?;
        config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        config.key_log = Arc::new(KeyLogFile::new()); // Wireshark reads it. Off unless SSLKEYLOGFILE is set.
        Ok(Some(Arc::new(config)))
    }
}

/// TLS as command-line options of a client, and who it is.
#[derive(Debug, Clone, Default, Args)]
pub struct ClientOptions {
    /// Trust servers with a certificate from this authority, a PEM file [default:
    /// certificates/ca.pem]
    #[arg(long, value_name = "FILE", global = true)]
    pub ca: Option<PathBuf>,
    /// Show this certificate to the server: a name, such as oslo-1 for
    /// certificates/client-oslo-1.pem, or the path of a PEM file; its key is in …-key.pem
    #[arg(long, value_name = "NAME", global = true)]
    pub identity: Option<String>,
    /// Say who you are with the token in this file [default: the environment variable TOKEN]
    #[arg(long, value_name = "FILE", global = true)]
    pub token_file: Option<PathBuf>,
    /// Used in place of the files. Clients with the same one share the sessions that it remembers.
    #[arg(skip)]
    pub prepared: Option<ClientConfig>,
}

impl ClientOptions {
    /// Returns the token to send, if any.
    ///
    /// # Errors
    /// If the file or the environment variable holds no token.
    pub fn token(&self) -> anyhow::Result<Option<Token>> {
        client_token(self.token_file.as_deref())
    }

    /// Reads the files. `encrypted` says whether the server's address asks for TLS. If it does not,
    /// returns `None`. `alpn` names the protocol inside TLS, as for a server.
    ///
    /// # Errors
    /// If a file is missing or unusable, or an option is given for an address without TLS.
    pub fn config(&self, encrypted: bool, alpn: Option<&str>) -> anyhow::Result<Option<Arc<ClientConfig>>> {
        if !encrypted {
            let unused = self.ca.is_none() && self.identity.is_none();
            ensure!(unused, "--ca and --identity need an address with TLS, such as https:// or amqps://");
            return Ok(None);
        }
        let default = Path::new(FOLDER).join("ca.pem");
        let roots = || roots(self.ca.as_ref().unwrap_or(&default));
        let builder = || anyhow::Ok(ClientConfig::builder().with_root_certificates(roots()?));
        let mut config = match (&self.prepared, &self.identity) {
            (Some(prepared), _) => prepared.clone(),
            (None, None) => builder()?.with_no_client_auth(),
            (None, Some(name)) => {
                let builder = builder()?;
                let (stem, create) = match name.strip_suffix(".pem") {
                    Some(stem) => (stem.to_owned(), CREATE.to_owned()),
                    None => (format!("{FOLDER}/client-{name}"), format!("{CREATE} --station {name}")),
                };
                let (path, key) = (format!("{stem}.pem"), format!("{stem}-key.pem"));
                let (certificates, private) = identity(path.as_ref(), key.as_ref(), &create)?;
                let config = builder.with_client_auth_cert(certificates, private);
                config.with_context(|| format!("cannot use {key}"))?
            }
        };
        config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        config.key_log = Arc::new(KeyLogFile::new());
        Ok(Some(Arc::new(config)))
    }
}

/// Returns a configuration that trusts no server, for a library that wants one even if it
/// never connects to an address with TLS.
pub fn trust_nobody() -> ClientConfig {
    ClientConfig::builder().with_root_certificates(RootCertStore::empty()).with_no_client_auth()
}

fn roots(path: &Path) -> anyhow::Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path, CREATE)? {
        roots.add(certificate).with_context(|| format!("cannot use {}", path.display()))?;
    }
    Ok(roots)
}

fn certificates(path: &Path, create: &str) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let certificates = read.map_err(|error| unreadable(path, error, create))?;
    ensure!(!certificates.is_empty(), "{} holds no certificate", path.display());
    Ok(certificates)
}

fn identity(
    path: &Path,
    key: &Path,
    create: &str,
) -> anyhow::Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)> {
    let certificates = certificates(path, create)?;
    Ok((certificates, PrivateKeyDer::from_pem_file(key).map_err(|error| unreadable(key, error, create))?))
}

fn unreadable(path: &Path, error: pem::Error, create: &str) -> anyhow::Error {
    match error {
        pem::Error::Io(error) if error.kind() == io::ErrorKind::NotFound => {
            anyhow!("there is no file {}; to create it, run: {create}", path.display())
        }
        error => anyhow!("cannot read {}: {error}", path.display()),
    }
}

/// A listener, whether its connections speak TLS, and who may call.
#[derive(Debug)]
pub struct Listener {
    /// Where connections arrive.
    pub tcp: TcpListener,
    /// The server's side of TLS, unless connections are plain.
    pub tls: Option<Arc<ServerConfig>>,
    /// Those who may call, unless everybody may.
    pub principals: Option<Arc<Principals>>,
}

impl From<TcpListener> for Listener {
    fn from(tcp: TcpListener) -> Self {
        Self { tcp, tls: None, principals: None }
    }
}

/// Does the TLS handshake for a server's connections.
#[derive(Clone)]
pub struct Acceptor {
    tls: Option<TlsAcceptor>,
    timeout: Duration,
    linger: LingerLimits,
    plaintext_reply: Arc<[u8]>,
}

impl Acceptor {
    /// Returns an acceptor. Without `tls`, its connections are plain. A handshake may take up to
    /// `timeout`. A client that does not speak TLS gets `plaintext_reply`, an error in the words of
    /// the protocol.
    pub fn new(
        tls: Option<Arc<ServerConfig>>,
        timeout: Duration,
        linger: LingerLimits,
        plaintext_reply: &[u8],
    ) -> Self {
        Self { tls: tls.map(TlsAcceptor::from), timeout, linger, plaintext_reply: plaintext_reply.into() }
    }

    /// Returns a future that does the handshake and then runs the future of `serve`. If the
    /// handshake fails, it sends the client the reason, logs it, and closes the connection. If
    /// the server stops, the handshake ends early.
    ///
    /// Without TLS, it calls `serve` at once and returns its future as it is, so TLS costs plain
    /// connections neither time nor memory. `wrap` turns the TCP stream into the one that TLS, or
    /// `serve` without TLS, reads and writes.
    pub fn handshake_then<T, F>(
        &self,
        stream: TcpStream,
        wrap: impl FnOnce(TcpStream) -> T + Send + 'static,
        stopping: CancellationToken,
        serve: impl FnOnce(Socket<T>, CancellationToken) -> F + Send + 'static,
    ) -> Either<F, Pin<Box<dyn Future<Output = ()> + Send>>>
    where
        T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        let Some(tls) = self.tls.clone() else {
            return Either::Left(serve(Either::Left(wrap(stream)), stopping));
        };
        let acceptor = self.clone();
        Either::Right(Box::pin(async move {
            let handshake = acceptor.handshake(&tls, stream, wrap);
            if let Some(Some(stream)) = stopping.run_until_cancelled(handshake).await {
                serve(stream, stopping).await;
            }
        }))
    }

    async fn handshake<T: AsyncRead + AsyncWrite + Unpin>(
        &self,
        tls: &TlsAcceptor,
        mut stream: TcpStream,
        wrap: impl FnOnce(TcpStream) -> T,
    ) -> Option<Socket<T>> {
        let peer = stream.peer_addr().ok()?;
        let deadline = Instant::now() + self.timeout;
        let mut first = [0];
        match timeout_at(deadline, stream.peek(&mut first)).await {
            Ok(Ok(1..)) if first[0] == HANDSHAKE => {}
            Ok(Ok(1..)) => {
                info!("{peer} refused: it does not speak TLS");
                if stream.write_all(&self.plaintext_reply).await.is_ok() {
                    linger(stream, self.linger).await;
                }
                return None;
            }
            _ => {
                debug!("{peer} ended before a TLS handshake");
                return None;
            }
        }
        match timeout_at(deadline, tls.accept(wrap(stream)).into_fallible()).await {
            Ok(Ok(stream)) => Some(Either::Right(Box::new(stream.into()))),
            Ok(Err((error, stream))) => {
                match tls_error(&error) {
                    Some(error) => info!("{peer} refused: {}", client_fault(error)),
                    None => debug!("{peer} ended during the TLS handshake: {error}"),
                }
                linger(stream, self.linger).await; // rustls has sent the reason, an alert.
                None
            }
            Err(_elapsed) => {
                debug!("{peer} took longer than {:?} for the TLS handshake", self.timeout);
                None
            }
        }
    }
}

/// Returns whether both sides named the protocol `alpn` in the handshake. A side that names none
/// is not refused there. Without TLS, there is no handshake, and the result is `true`.
pub fn agreed_on<T>(stream: &Socket<T>, alpn: &str) -> bool {
    match stream {
        Either::Left(_plain) => true,
        Either::Right(tls) => tls.get_ref().1.alpn_protocol() == Some(alpn.as_bytes()),
    }
}

/// Does a client's handshake with the server `host`, a name or an IP address.
///
/// # Errors
/// Those of the stream and of the handshake: see [`fault`].
pub async fn connect<T: AsyncRead + AsyncWrite + Unpin>(
    config: Arc<ClientConfig>,
    host: &str,
    stream: T,
) -> io::Result<Socket<T>> {
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
    let stream = TlsConnector::from(config).connect(name, stream).await?;
    Ok(Either::Right(Box::new(stream.into())))
}

/// Returns the TLS error in a chain of causes, if there is one.
pub fn tls_error<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a rustls::Error> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        // Some libraries, such as redis, share an error.
        if let Some(shared) = error.downcast_ref::<Arc<dyn Error + Send + Sync>>() {
            next = Some(&**shared);
            continue;
        }
        // The source of an `io::Error` is not the error in it, but that error's source.
        let inner = error.downcast_ref().and_then(io::Error::get_ref);
        next = inner.map(|inner| inner as _).or_else(|| error.source());
    }
    None
}

/// Returns the error whose text this is, if it is an alert about a certificate. The HTTP/2 library
/// keeps only the text of a stream's error.
pub fn alert_from_text(text: &str) -> Option<rustls::Error> {
    [Alert::CertificateRequired, Alert::CertificateExpired, Alert::UnknownCA, Alert::BadCertificate]
        .into_iter()
        .map(rustls::Error::AlertReceived)
        .find(|error| error.to_string() == text)
}

/// Returns a sentence for the user if a connection failed because of TLS. In that case, the server
/// has executed nothing, and another attempt would fail in the same way.
///
/// `connected` says whether the handshake was complete. After that, only an alert from the server
/// counts: in TLS 1.3, the client learns only then that the server refuses its certificate.
pub fn fault(error: &(dyn Error + 'static), connected: bool) -> Option<String> {
    use CertificateError::{Expired, ExpiredContext, UnknownIssuer};
    use rustls::Error::{AlertReceived, InappropriateHandshakeMessage, InvalidCertificate, InvalidMessage};
    let text = match tls_error(error)? {
        AlertReceived(Alert::CertificateRequired) => {
            "the server asks for a client certificate; choose one, for example with --identity oslo-1"
        }
        AlertReceived(Alert::CertificateExpired) => {
            "this client's certificate has expired; to renew it, run: cargo run -- certificates --renew"
        }
        AlertReceived(Alert::UnknownCA) => {
            "the server does not trust the authority of this client's certificate; choose another with --identity"
        }
        AlertReceived(Alert::NoApplicationProtocol) => "the server speaks another protocol over TLS",
        AlertReceived(alert @ (Alert::BadCertificate | Alert::HandshakeFailure | Alert::ProtocolVersion)) => {
            return Some(format!("the server refuses the TLS handshake: {alert:?}"));
        }
        _ if connected => return None,
        InvalidCertificate(UnknownIssuer) => {
            "this client does not trust the authority of the server's certificate; give the authority's with --ca"
        }
        InvalidCertificate(Expired | ExpiredContext { .. }) => {
            "the server's certificate has expired; to renew it, run: cargo run -- certificates --renew"
        }
        InvalidCertificate(reason) => {
            let reason = printable(&reason.to_string()).to_string();
            return Some(format!("the server's certificate does not fit: {reason}"));
        }
        InvalidMessage(_) | InappropriateHandshakeMessage { .. } => {
            "the server does not speak TLS on this port; start it with --tls, or use an address without TLS"
        }
        _ => return None,
    };
    Some(text.to_owned())
}

/// Returns why a server refuses a client, for the log.
fn client_fault(error: &rustls::Error) -> String {
    use rustls::Error::{AlertReceived, InvalidCertificate, NoCertificatesPresented};
    match error {
        NoCertificatesPresented => "it showed no certificate, which --client-ca requires".to_owned(),
        InvalidCertificate(reason) => format!("its certificate does not fit --client-ca: {reason}"),
        AlertReceived(alert) => format!("it does not accept this server's certificate: {alert:?}"),
        error => format!("the TLS handshake failed: {error}"),
    }
}
