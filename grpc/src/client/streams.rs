//! The calls whose responses are a stream: `Watch` and `Monitor`.

use std::collections::VecDeque;
use std::fmt;
use std::time::Duration;

use tcp_socket::base::retry::Pauses;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};
use tonic_types::StatusExt;

use super::{Client, Error};
use crate::proto::monitor_request::Action;
use crate::proto::monitor_response::Event;
use crate::proto::watch_request::Start;
use crate::proto::{
    MonitorRequest, MonitorResponse, Position, RecordedReading, Threshold, WatchRequest, WatchResponse,
    watch_response,
};
use crate::retry::{MIN_PAUSE, retry};
use crate::status::{FELL_BEHIND, deadline_exceeded};

/// How long this side waits beyond a stream's deadline for the server's own
/// word on it: the two clocks do not start at the same moment.
const GRACE: Duration = Duration::from_secs(1);

/// Maximum pause between two attempts to open a stream again.
const MAX_PAUSE: Duration = Duration::from_secs(5);

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
    pauses: Pauses,
    /// [`Watched::Lost`] was the last that was said about the connection.
    lost: bool,
}

/// What happens in a [`Watching`].
#[derive(Debug, Clone, PartialEq)]
pub enum Watched {
    /// A reading was recorded.
    Recorded(RecordedReading),
    /// The connection was lost for this reason, and is being opened again.
    Lost(String),
    /// The connection is back.
    Back(Missed),
}

/// What became of the readings that were recorded while the connection was lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Missed {
    /// There were none.
    Nothing,
    /// They follow.
    Following,
    /// So many are no longer kept. The rest follow.
    Gone(u64),
    /// The server restarted. The readings that it has recorded since then follow.
    Restarted,
}

impl fmt::Display for Missed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nothing => f.write_str("nothing was missed"),
            Self::Following => f.write_str("here is what was missed"),
            Self::Gone(1) => f.write_str("1 reading was missed"),
            Self::Gone(count) => write!(f, "{count} readings were missed"),
            Self::Restarted => f.write_str("the server restarted and has forgotten earlier readings"),
        }
    }
}

/// The client's end of a `Monitor`. Dropping it cancels the call.
#[derive(Debug)]
pub struct Monitoring {
    client: Client,
    requests: Option<mpsc::Sender<MonitorRequest>>,
    responses: Streaming<MonitorResponse>,
    /// The thresholds that the server has acknowledged.
    thresholds: Vec<Threshold>,
    /// The requests without an acknowledgement, which come in the same order, and
    /// whether the caller waits for it.
    pending: VecDeque<(Action, bool)>,
    pauses: Pauses,
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
        Ok(Watching { client, station, responses, position, deadline, pauses: pauses(), lost: false })
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
        let attempt = async || self.try_watch(station, start, deadline).await;
        retry(deadline.map_or(patience, |deadline| patience.min(deadline + GRACE)), attempt).await
    }

    /// One attempt of [`Client::open_watch`].
    async fn try_watch(
        &self,
        station: &str,
        start: Option<Start>,
        deadline: Option<Instant>,
    ) -> Result<(Streaming<WatchResponse>, Position), Status> {
        let message = WatchRequest { station: station.to_owned(), start };
        let response = self.stub.clone().watch(self.request(message, deadline)).await?;
        let mut responses = response.into_inner();
        match responses.message().await?.and_then(|response| response.event) {
            Some(watch_response::Event::Started(position)) => Ok((responses, position)),
            _ => Err(Status::internal("the first response of Watch says where it starts")),
        }
    }

    /// Opens a stream on which thresholds go out and alerts come in.
    ///
    /// # Errors
    /// [`Error::Unreachable`] if there is no server.
    pub async fn monitor(&self) -> Result<Monitoring, Error> {
        let opened = retry(Instant::now() + self.deadline, async || self.try_monitor().await).await;
        let (requests, responses) = opened.map_err(|status| self.error(status))?;
        let (thresholds, pending) = (Vec::new(), VecDeque::new());
        let (client, requests, pauses) = (self.clone(), Some(requests), pauses());
        Ok(Monitoring { client, requests, responses, thresholds, pending, pauses })
    }

    async fn try_monitor(
        &self,
    ) -> Result<(mpsc::Sender<MonitorRequest>, Streaming<MonitorResponse>), Status> {
        let (requests, outgoing) = mpsc::channel(REQUESTS_AHEAD);
        let request = self.request(ReceiverStream::new(outgoing), None);
        Ok((requests, self.stub.clone().monitor(request).await?.into_inner()))
    }
}

impl Watching {
    /// After which place the stream goes on: that of the last reading seen.
    pub fn position(&self) -> Position {
        self.position
    }

    /// The next reading; `None` when the server ended the stream with `OK`. A lost
    /// connection is opened again without a word. Cancel safe.
    ///
    /// # Errors
    /// As [`Watching::next_event`].
    pub async fn next(&mut self) -> Result<Option<RecordedReading>, Error> {
        loop {
            match self.next_event().await? {
                None => return Ok(None),
                Some(Watched::Recorded(recorded)) => return Ok(Some(recorded)),
                Some(Watched::Lost(_) | Watched::Back(_)) => {}
            }
        }
    }

    /// The next reading, or what became of the connection; `None` when the server ended
    /// the stream with `OK`. Cancel safe.
    ///
    /// # Errors
    /// [`Error::Status`] with `DEADLINE_EXCEEDED` when the deadline passed, with
    /// `RESOURCE_EXHAUSTED` when this reader fell behind.
    pub async fn next_event(&mut self) -> Result<Option<Watched>, Error> {
        loop {
            let Some(responses) = &mut self.responses else {
                match self.reconnect().await? {
                    Some(event) => return Ok(Some(event)),
                    None => continue,
                }
            };
            match receive(responses, self.deadline).await {
                Ok(None) => return Ok(None),
                Ok(Some(WatchResponse { event: Some(watch_response::Event::Recorded(recorded)) })) => {
                    self.position.sequence = recorded.sequence;
                    self.pauses.reset();
                    return Ok(Some(Watched::Recorded(recorded)));
                }
                Ok(Some(_)) => {} // An event that this client does not know.
                Err(status) => {
                    let error = self.client.error(status);
                    let reason = error.disconnect_reason().ok_or(error)?;
                    (self.responses, self.lost) = (None, true);
                    return Ok(Some(Watched::Lost(reason)));
                }
            }
        }
    }

    /// Tries once to open the stream again, after a pause. Returns what there is to say.
    async fn reconnect(&mut self) -> Result<Option<Watched>, Error> {
        let pause = self.pauses.next_pause();
        let attempt = async {
            sleep(pause).await;
            let resumed = timeout(self.client.deadline, self.resume()).await;
            resumed.unwrap_or_else(|_elapsed| Err(Status::unavailable("the server does not answer")))
        };
        let resumed = match self.deadline {
            None => attempt.await,
            Some(deadline) => match timeout_at(deadline, attempt).await {
                Ok(resumed) => resumed,
                Err(_elapsed) => return Err(self.client.error(deadline_exceeded())),
            },
        };
        match resumed {
            Ok((responses, position, missed)) => {
                (self.responses, self.position) = (Some(responses), position);
                Ok(std::mem::take(&mut self.lost).then_some(Watched::Back(missed)))
            }
            // The station had readings, so this is another run of the server. It is asked
            // until it has some, too.
            Err(status) if status.code() == Code::NotFound => {
                self.position = Position::default();
                Ok(std::mem::take(&mut self.lost).then_some(Watched::Back(Missed::Restarted)))
            }
            // The server is full, or restarted between the two calls of `resume`.
            Err(status) if matches!(status.code(), Code::ResourceExhausted | Code::FailedPrecondition) => {
                Ok(None)
            }
            Err(status) => {
                let error = self.client.error(status);
                let reason = error.disconnect_reason().ok_or(error)?;
                let is_new = !std::mem::replace(&mut self.lost, true);
                Ok(is_new.then_some(Watched::Lost(reason)))
            }
        }
    }

    /// Opens the stream again where it broke off.
    async fn resume(&self) -> Result<(Streaming<WatchResponse>, Position, Missed), Status> {
        let open = async |start| self.client.try_watch(&self.station, start, self.deadline).await;
        // A stream that starts after the newest reading says its number, and whether
        // numbers of before still count.
        let (_, newest) = open(None).await?;
        let restarted = newest.boot_id != self.position.boot_id;
        let mut position = if restarted { Position { sequence: 0, ..newest } } else { self.position };
        let mut gone = 0;
        let responses = loop {
            match open(Some(Start::After(position))).await {
                Ok((responses, _)) => break responses,
                Err(status) => {
                    let oldest = oldest_kept(&status).ok_or(status)?;
                    gone += (oldest - 1).saturating_sub(position.sequence);
                    position.sequence = oldest - 1;
                }
            }
        };
        let missed = match gone {
            _ if restarted => Missed::Restarted,
            0 if newest.sequence > position.sequence => Missed::Following,
            0 => Missed::Nothing,
            _ => Missed::Gone(gone),
        };
        Ok((responses, position, missed))
    }
}

/// Returns the number of the oldest reading kept, if the status says that an older one
/// was asked for.
fn oldest_kept(status: &Status) -> Option<u64> {
    let info = status.get_details_error_info().filter(|info| info.reason == FELL_BEHIND)?;
    info.metadata.get("oldest")?.parse().ok().filter(|oldest| *oldest > 0)
}

/// The pauses before attempts to open a stream again.
fn pauses() -> Pauses {
    Pauses::new(MIN_PAUSE, MAX_PAUSE)
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

impl Monitoring {
    /// Asks to be alerted of readings beyond a threshold. The acknowledgement
    /// comes by [`Monitoring::next`].
    ///
    /// # Errors
    /// [`Error::Ended`] if the call has; `next` says why.
    pub async fn add(&mut self, threshold: Threshold) -> Result<(), Error> {
        self.send(Action::Add(threshold)).await
    }

    /// Asks not to be alerted any more.
    ///
    /// # Errors
    /// [`Error::Ended`] if the call has; `next` says why.
    pub async fn remove(&mut self, id: &str) -> Result<(), Error> {
        self.send(Action::Remove(id.to_owned())).await
    }

    async fn send(&mut self, action: Action) -> Result<(), Error> {
        self.pending.push_back((action.clone(), true));
        self.transmit(action).await
    }

    async fn transmit(&self, action: Action) -> Result<(), Error> {
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
    /// than the call. [`Monitoring::reconnect`] adds them again.
    pub async fn next(&mut self) -> Result<Option<Event>, Error> {
        loop {
            let response = self.responses.message().await.map_err(|status| self.client.error(status))?;
            let Some(response) = response else { return Ok(None) };
            self.pauses.reset();
            match response.event {
                Some(event @ Event::Alert(_)) => return Ok(Some(event)),
                Some(event) => {
                    let asked = self.pending.pop_front();
                    let is_shown = asked.as_ref().is_none_or(|(_, is_shown)| *is_shown);
                    match (&event, asked) {
                        (Event::Added(_), Some((Action::Add(threshold), _))) => {
                            self.thresholds.push(threshold);
                        }
                        (Event::Removed(id), _) => self.thresholds.retain(|kept| kept.id != *id),
                        _ => {}
                    }
                    if is_shown || matches!(event, Event::Refused(_)) {
                        return Ok(Some(event));
                    }
                }
                None => {} // An event that this client does not know.
            }
        }
    }

    /// Opens the call again, for as long as it takes, and adds the thresholds that it
    /// had. Alerts of the time in between are lost.
    ///
    /// # Errors
    /// An error that another attempt would not cure.
    pub async fn reconnect(&mut self) -> Result<(), Error> {
        loop {
            sleep(self.pauses.next_pause()).await;
            let opened = timeout(self.client.deadline, self.client.try_monitor()).await;
            match opened.unwrap_or_else(|_elapsed| Err(deadline_exceeded())) {
                Ok((requests, responses)) => {
                    (self.requests, self.responses) = (Some(requests), responses);
                    break;
                }
                Err(status) if matches!(status.code(), Code::ResourceExhausted | Code::DeadlineExceeded) => {}
                Err(status) => {
                    let error = self.client.error(status);
                    error.disconnect_reason().ok_or(error)?;
                }
            }
        }
        let kept = std::mem::take(&mut self.thresholds);
        let again = kept.into_iter().map(|threshold| (Action::Add(threshold), false));
        self.pending = again.chain(std::mem::take(&mut self.pending)).collect();
        for (action, _) in self.pending.clone() {
            // If the connection is lost once more, `next` says so.
            let _ = self.transmit(action).await;
        }
        Ok(())
    }
}
