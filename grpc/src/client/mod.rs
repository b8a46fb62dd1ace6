//! The client: one method per call of the service, each with a typed error.

use futures::{Stream, StreamExt};
use tokio::time::Instant;

use crate::protocol::proto::watch_request::Start;
use crate::protocol::proto::{Reading, RecordRequest, UploadRequest, UploadResponse};
use channel::Channel;
use retry::retry;

mod balance;
mod channel;
mod error;
mod monitor;
mod retry;
mod watch;

pub use channel::Options;
pub use error::{Error, Failure};
pub use monitor::Monitoring;
pub use watch::{Event, Missed, Watching};

/// A client of one server, or of several. Clones share its connections. Calls can run at the
/// same time, each on its own HTTP/2 stream.
#[derive(Debug, Clone)]
pub struct Client {
    channel: Channel,
}

impl Client {
    /// Returns a client of the server at `url`, such as `http://127.0.0.1:50051`, or
    /// with `https` for TLS. It connects at its first call, and again at the first call after the connection
    /// broke. Needs a tokio runtime.
    ///
    /// # Errors
    /// [`Error::Address`] if `url` is not of that form, [`Error::Tls`] if the files for TLS
    /// are not usable, [`Error::Token`] if the token is not valid: see [`is_token`](crate::protocol::is_token).
    pub fn new(url: &str, options: &Options) -> Result<Self, Error> {
        Self::balanced(&[url], options)
    }

    /// Returns a client of several servers. Each call goes to one of them. A server that fails
    /// its health check gets no calls until it passes again. A retry may go to another server.
    ///
    /// The checks end when the last clone of the client is dropped.
    ///
    /// # Errors
    /// See [`Client::new`]. [`Error::Address`] also if there is no URL.
    pub fn balanced(urls: &[impl AsRef<str>], options: &Options) -> Result<Self, Error> {
        Ok(Self { channel: Channel::new(urls, options)? })
    }

    /// Records a batch, all of it or nothing, and returns how many readings were accepted.
    /// Retries while that is safe.
    ///
    /// # Errors
    /// [`Error::Status`] with `INVALID_ARGUMENT` if the batch is invalid; it names the
    /// first invalid fields.
    pub async fn record(&self, readings: &[Reading]) -> Result<usize, Error> {
        let deadline = Instant::now() + self.channel.deadline;
        let attempt = async || {
            let message = RecordRequest { readings: readings.to_vec() };
            self.channel.stub.clone().record(self.channel.request(message, Some(deadline))).await
        };
        let response = retry(deadline, attempt).await.map_err(|status| self.channel.error(status))?;
        Ok(usize::try_from(response.into_inner().accepted).unwrap_or(usize::MAX))
    }

    /// Streams readings to the server, no faster than it accepts them, and returns its
    /// summary. Gives up at `deadline`, if there is one. Never retries, since the server
    /// may have kept some of the readings.
    ///
    /// # Errors
    /// [`Error::Broken`] if the connection breaks; the server keeps what it has recorded.
    pub async fn upload(
        &self,
        readings: impl Stream<Item = Reading> + Send + 'static,
        deadline: Option<Instant>,
    ) -> Result<UploadResponse, Error> {
        let requests = readings.map(|reading| UploadRequest { reading: Some(reading) });
        let response = self.channel.stub.clone().upload(self.channel.request(requests, deadline)).await;
        Ok(response.map_err(|status| self.channel.error(status))?.into_inner())
    }

    /// Watches a station's readings until `deadline`, or indefinitely.
    ///
    /// # Errors
    /// [`Error::Status`] with `NOT_FOUND` if there is no such station, and with
    /// `FAILED_PRECONDITION` or `RESOURCE_EXHAUSTED` if the server cannot go on from the
    /// position in `start`.
    pub async fn watch(
        &self,
        station: &str,
        start: Option<Start>,
        deadline: Option<Instant>,
    ) -> Result<Watching, Error> {
        Watching::open(self.channel.clone(), station, start, deadline).await
    }

    /// Opens a stream that sends thresholds and receives alerts.
    ///
    /// # Errors
    /// [`Error::Unreachable`] if there is no server.
    pub async fn monitor(&self) -> Result<Monitoring, Error> {
        Monitoring::open(self.channel.clone()).await
    }
}
