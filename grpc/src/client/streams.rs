//! The calls whose responses are a stream: `Watch` and `Monitor`.

use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout_at};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};

use super::{Client, Error};
use crate::proto::monitor_request::Action;
use crate::proto::watch_request::Start;
use crate::proto::{
    MonitorRequest, MonitorResponse, Position, RecordedReading, Threshold, WatchRequest, WatchResponse,
    monitor_response, watch_response,
};
use crate::retry::{MIN_PAUSE, retry};
use crate::status::{Local, deadline_exceeded, local_cause};

/// How long this side waits beyond a stream's deadline for the server's own
/// word on it: the two clocks do not start at the same moment.
const GRACE: Duration = Duration::from_secs(1);

/// Requests of [`Monitoring`] that wait for the connection; more make the caller wait.
const REQUESTS_AHEAD: usize = 16;

/// The client's end of a `Watch`. When the connection breaks or the server
/// stops, it is opened again after the last reading seen. Dropping it cancels
/// the call.
#[derive(Debug)]
pub struct Watching {
    client: Client,
    station: String,
    /// `None` while the stream is interrupted.
    responses: Option<Streaming<WatchResponse>>,
    position: Position,
    deadline: Option<Instant>,
}

/// The client's end of a `Monitor`. Dropping it cancels the call.
#[derive(Debug)]
pub struct Monitoring {
    client: Client,
    requests: Option<mpsc::Sender<MonitorRequest>>,
    responses: Streaming<MonitorResponse>,
}

impl Client {
    /// Watches a station's readings until `deadline`, or without end.
    ///
    /// # Errors
    /// [`Error::Status`] with `NOT_FOUND` if there is no such station, and with
    /// `FAILED_PRECONDITION` or `RESOURCE_EXHAUSTED` if `start` is a position
    /// that the server cannot go on from.
    pub async fn watch(
        &self,
        station: &str,
        start: Option<Start>,
        deadline: Option<Instant>,
    ) -> Result<Watching, Error> {
        let opened = self.open_watch(station, start, deadline).await;
        let (responses, position) = opened.map_err(|status| self.error(status))?;
        let (client, station, responses) = (self.clone(), station.to_owned(), Some(responses));
        Ok(Watching { client, station, responses, position, deadline })
    }

    /// A `Watch` up to and with its first response. To ask for readings has no
    /// effect on the server, so that this is tried again.
    async fn open_watch(
        &self,
        station: &str,
        start: Option<Start>,
        deadline: Option<Instant>,
    ) -> Result<(Streaming<WatchResponse>, Position), Status> {
        let patience = Instant::now() + self.deadline;
        let attempt = async || {
            let message = WatchRequest { station: station.to_owned(), start };
            let response = self.stub.clone().watch(self.request(message, deadline)).await?;
            let mut responses = response.into_inner();
            match responses.message().await?.and_then(|response| response.event) {
                Some(watch_response::Event::Started(position)) => Ok((responses, position)),
                _ => Err(Status::internal("the first response of Watch says where it starts")),
            }
        };
        retry(deadline.map_or(patience, |deadline| patience.min(deadline + GRACE)), attempt).await
    }

    /// Opens a stream on which thresholds go out and alerts come in.
    ///
    /// # Errors
    /// [`Error::Unreachable`] if there is no server.
    pub async fn monitor(&self) -> Result<Monitoring, Error> {
        let patience = Instant::now() + self.deadline;
        let attempt = async || {
            let (requests, outgoing) = mpsc::channel(REQUESTS_AHEAD);
            let request = self.request(ReceiverStream::new(outgoing), None);
            Ok((requests, self.stub.clone().monitor(request).await?.into_inner()))
        };
        let opened = retry(patience, attempt).await;
        let (requests, responses) = opened.map_err(|status| self.error(status))?;
        Ok(Monitoring { client: self.clone(), requests: Some(requests), responses })
    }
}

impl Watching {
    /// After which place the stream goes on: that of the last reading seen.
    pub fn position(&self) -> Position {
        self.position
    }

    /// The next reading; `None` when the server ended the stream with `OK`.
    /// Cancel safe.
    ///
    /// # Errors
    /// [`Error::Status`] with `DEADLINE_EXCEEDED` when the deadline passed, with
    /// `RESOURCE_EXHAUSTED` when this reader fell behind.
    pub async fn next(&mut self) -> Result<Option<RecordedReading>, Error> {
        loop {
            let Some(responses) = &mut self.responses else {
                // Also where connections open and break at once, this is no busy loop.
                sleep(MIN_PAUSE).await;
                let start = Some(Start::After(self.position));
                let opened = self.client.open_watch(&self.station, start, self.deadline).await;
                self.responses = Some(opened.map_err(|status| self.client.error(status))?.0);
                continue;
            };
            match receive(responses, self.deadline).await {
                Ok(None) => return Ok(None),
                Ok(Some(WatchResponse { event: Some(watch_response::Event::Recorded(recorded)) })) => {
                    self.position.sequence = recorded.sequence;
                    return Ok(Some(recorded));
                }
                Ok(Some(_)) => {} // An event that this client does not know.
                Err(status) if is_interruption(&status) => self.responses = None,
                Err(status) => return Err(self.client.error(status)),
            }
        }
    }
}

async fn receive(
    responses: &mut Streaming<WatchResponse>,
    deadline: Option<Instant>,
) -> Result<Option<WatchResponse>, Status> {
    match deadline {
        None => responses.message().await,
        Some(deadline) => timeout_at(deadline + GRACE, responses.message())
            .await
            .unwrap_or_else(|_elapsed| Err(deadline_exceeded())),
    }
}

/// Whether a stream of readings may go on elsewhere or later.
fn is_interruption(status: &Status) -> bool {
    match local_cause(status) {
        None => status.code() == Code::Unavailable,
        Some(local) => matches!(local, Local::NotConnected | Local::NotProcessed | Local::Broken),
    }
}

impl Monitoring {
    /// Asks to be alerted of readings beyond a threshold. The acknowledgement
    /// comes by [`Monitoring::next`].
    ///
    /// # Errors
    /// [`Error::Ended`] if the call has; `next` says why.
    pub async fn add(&self, threshold: Threshold) -> Result<(), Error> {
        self.send(Action::Add(threshold)).await
    }

    /// Asks not to be alerted any more.
    ///
    /// # Errors
    /// [`Error::Ended`] if the call has; `next` says why.
    pub async fn remove(&self, id: &str) -> Result<(), Error> {
        self.send(Action::Remove(id.to_owned())).await
    }

    async fn send(&self, action: Action) -> Result<(), Error> {
        let requests = self.requests.as_ref().ok_or(Error::Ended)?;
        requests.send(MonitorRequest { action: Some(action) }).await.map_err(|_closed| Error::Ended)
    }

    /// Says that there will be no more requests; the server then ends the call.
    pub fn finish(&mut self) {
        self.requests = None;
    }

    /// The next acknowledgement or alert; `None` when the call ended with `OK`.
    /// Cancel safe.
    ///
    /// # Errors
    /// [`Error::Broken`] if the connection breaks: thresholds live no longer
    /// than the call.
    pub async fn next(&mut self) -> Result<Option<monitor_response::Event>, Error> {
        loop {
            match self.responses.message().await.map_err(|status| self.client.error(status))? {
                None => return Ok(None),
                Some(MonitorResponse { event: Some(event) }) => return Ok(Some(event)),
                Some(MonitorResponse { event: None }) => {} // An event that this client does not know.
            }
        }
    }
}
