//! How the client connects: TCP, then TLS if the address asks for it, then the handshake.

use std::io;
use std::sync::Arc;

use bytes::{BufMut, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};
use tokio_rustls::rustls::ClientConfig;
use tokio_util::either::Either;
use tracing::debug;

use crate::base::retry::Pauses;
use crate::base::tls::{self, Socket};
use crate::base::token::Token;
use crate::base::write_timeout::WriteTimeout;
use crate::client::address::{TLS, server_addr};
use crate::client::error::Error;
use crate::limits::{CONNECT_TIMEOUT, MAX_IN_FLIGHT, MAX_SERVER_PAYLOAD, WRITE_TIMEOUT};
use crate::protocol::frame::{FrameBuffer, kind, put_frame};
use crate::protocol::handshake::{Hello, Id, VERSION, VERSION_WITH_TOKEN, WELCOME, Welcome, random_id};
use crate::protocol::message::Refusal;

/// The stream of a connection. The client needs nothing of it but reading and writing.
pub type Transport = Socket<WriteTimeout>;

/// A connection after its handshake.
pub(crate) struct Connection {
    pub(crate) stream: Transport,
    pub(crate) input: FrameBuffer,
    pub(crate) welcome: Welcome,
    /// Whether a whole frame has arrived on it. Only then do the pauses between attempts to
    /// connect start over.
    pub(crate) useful: bool,
}

/// Connects to one server.
pub(crate) struct Connector {
    addr: String,
    tls: Option<Arc<ClientConfig>>,
    hello: Hello,
    token: Option<Token>,
}

impl Connector {
    pub(crate) fn new(url: &str, tls: &tls::ClientOptions) -> Result<Self, Error> {
        let addr = server_addr(url)?;
        let token = tls.token().map_err(|error| Error::Token(format!("{error:#}")))?;
        let tls = tls.config(url.starts_with(TLS), None);
        let tls = tls.map_err(|error| Error::Tls(format!("{error:#}")))?;
        // Version 2 has nothing but the token that version 1 lacks.
        let highest = if token.is_some() { VERSION_WITH_TOKEN } else { VERSION };
        let hello = Hello { lowest: VERSION, highest, client_id: Id::default() };
        let connector = Self { addr, tls, hello, token };
        let client_id = random_id().map_err(|source| connector.unreachable(source))?;
        Ok(Self { hello: Hello { client_id, ..hello }, ..connector })
    }

    /// Connects and does the handshake, within [`CONNECT_TIMEOUT`].
    pub(crate) async fn connect(&self) -> Result<Connection, Error> {
        let connect = async {
            let stream = self.open().await?;
            let failed = |source| self.failed(source, true);
            let mut connection = handshake(stream, &self.hello, failed).await?;
            if let (Some(token), VERSION_WITH_TOKEN) = (&self.token, connection.welcome.version) {
                connection.send(token, failed).await?;
            }
            Ok(connection)
        };
        timeout(CONNECT_TIMEOUT, connect)
            .await
            .unwrap_or_else(|_elapsed| Err(self.unreachable(io::ErrorKind::TimedOut.into())))
    }

    /// Opens a connection on which nothing of this protocol has been sent yet.
    async fn open(&self) -> Result<Transport, Error> {
        let stream = TcpStream::connect(&self.addr).await.map_err(|source| self.unreachable(source))?;
        // Otherwise, a request could wait for the acknowledgement of the one before.
        stream.set_nodelay(true).map_err(|source| self.unreachable(source))?;
        let stream = WriteTimeout::new(stream, WRITE_TIMEOUT);
        let Some(tls) = &self.tls else { return Ok(Either::Left(stream)) };
        let host = self.addr.rsplit_once(':').map_or("", |(host, _port)| host);
        tls::connect(tls.clone(), host, stream).await.map_err(|source| self.failed(source, false))
    }

    fn failed(&self, source: io::Error, connected: bool) -> Error {
        tls::fault(&source, connected).map_or_else(|| self.unreachable(source), Error::Tls)
    }

    fn unreachable(&self, source: io::Error) -> Error {
        let scheme = if self.tls.is_some() { TLS } else { "tcp://" };
        Error::Unreachable { url: format!("{scheme}{}", self.addr), source: source.into() }
    }

    /// Connects, however many attempts it takes. An error means that no further attempt can
    /// succeed.
    pub(crate) async fn reconnect(&self, pauses: &mut Pauses) -> Result<Connection, Error> {
        loop {
            sleep(pauses.next_pause()).await;
            match self.connect().await {
                Err(error) if !error.is_permanent() => debug!("cannot connect: {error}"),
                result => return result,
            }
        }
    }
}

/// Opens a connection to the server at `url`, up to the TLS handshake if there is one, for a
/// program that speaks the protocol itself.
///
/// # Errors
/// [`Error::Address`], [`Error::Unreachable`], or [`Error::Tls`].
pub async fn open(url: &str, tls: &tls::ClientOptions) -> Result<Transport, Error> {
    Connector::new(url, tls)?.open().await
}

async fn handshake(
    mut stream: Transport,
    hello: &Hello,
    failed: impl Fn(io::Error) -> Error,
) -> Result<Connection, Error> {
    // A full server may already have refused and closed the connection, so that the write
    // fails. Read its refusal anyway.
    let _ = stream.write_all(&hello.encode()).await;
    let _ = stream.flush().await;
    let mut bytes = [0; WELCOME];
    stream.read_exact(&mut bytes).await.map_err(&failed)?;
    let welcome =
        Welcome::decode(&bytes).ok_or_else(|| Error::Protocol("it did not send a WELCOME".into()))?;
    let mut input = FrameBuffer::new(MAX_SERVER_PAYLOAD);
    match welcome.version {
        version if version > hello.highest => Err(Error::Protocol(format!("it chose version {version}"))),
        0 => loop {
            let frame = input.next_frame().map_err(|bad| Error::Protocol(bad.to_string()))?;
            if let Some(refusal) = frame.and_then(|frame| Refusal::parse(frame.payload)) {
                return Err(Error::Refused(refusal));
            }
            if input.read_from(&mut stream).await.map_err(&failed)? == 0 {
                return Err(Error::Protocol("it refused the connection without a reason".into()));
            }
        },
        // With fewer replies, the server could have forgotten a batch by the time it is resent.
        _ if (welcome.window as usize) < MAX_IN_FLIGHT => {
            let text = format!("it keeps {} replies, but this client needs {MAX_IN_FLIGHT}", welcome.window);
            Err(Error::Protocol(text))
        }
        _ => Ok(Connection { stream, input, welcome, useful: false }),
    }
}

impl Connection {
    /// Sends the token, and waits until the server has accepted it. No call has sent anything yet,
    /// so any request ID is free.
    async fn send(&mut self, token: &Token, failed: impl Fn(io::Error) -> Error) -> Result<(), Error> {
        let mut frame = BytesMut::new();
        put_frame(&mut frame, kind::TOKEN, 0, 1, |payload| payload.put_slice(token.secret().as_bytes()));
        self.stream.write_all(&frame).await.map_err(&failed)?;
        self.stream.flush().await.map_err(&failed)?;
        loop {
            let answer = self.input.next_frame().map_err(|bad| Error::Protocol(bad.to_string()))?;
            match answer.map(|frame| (frame.kind, Refusal::parse(frame.payload))) {
                Some((kind::CALLER, _)) => return Ok(()),
                Some((kind::ERROR, Some(refusal))) => return Err(Error::Refused(refusal)),
                Some(_) => {} // Nothing that a client has to know.
                None if self.input.read_from(&mut self.stream).await.map_err(&failed)? > 0 => {}
                None => return Err(failed(io::ErrorKind::UnexpectedEof.into())),
            }
        }
    }
}
