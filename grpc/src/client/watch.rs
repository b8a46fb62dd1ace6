//! `Watch`: a stream of readings that outlives its connection.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures::stream::{self, BoxStream, Stream, StreamExt, TryStreamExt};
use tcp_socket::base::retry::Pauses;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tonic::{Code, Status, Streaming};
use tonic_types::StatusExt;

use super::channel::Channel;
use super::error::Error;
use super::retry::retry;
use crate::limits::{GRACE, MAX_PAUSE, MIN_PAUSE};
use crate::protocol::proto::watch_request::Start;
use crate::protocol::proto::{Position, RecordedReading, WatchRequest, WatchResponse, watch_response};
use crate::protocol::status::{FELL_BEHIND, deadline_exceeded};

/// The client's side of a `Watch`: a stream of [`Event`]s. When the connection breaks or
/// the server stops, it reconnects and goes on after the last reading seen.
///
/// The stream ends when the server ends the call with `OK`, and after an error that a new
/// connection cannot fix. Such an error is an [`Error::Status`]. Its code is
/// `DEADLINE_EXCEEDED` if the deadline passed, `RESOURCE_EXHAUSTED` if this reader fell
/// behind, or, for example, `UNAUTHENTICATED` if the token is missing or wrong.
///
/// Dropping the stream cancels the call.
pub struct Watching {
    events: BoxStream<'static, Result<(Event, Position), Error>>,
    position: Position,
}

/// An item of the stream [`Watching`].
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// A reading was recorded.
    Recorded(RecordedReading),
    /// The connection was lost for this reason. The stream reconnects when it is next
    /// polled.
    Disconnected(String),
    /// The connection is back.
    Reconnected(Missed),
}

/// What happened to the readings that were recorded while the connection was lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Missed {
    /// There were none.
    Nothing,
    /// They follow.
    Following,
    /// This many readings are no longer kept. The rest follow.
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

impl Watching {
    pub(super) async fn open(
        channel: Channel,
        station: &str,
        start: Option<Start>,
        deadline: Option<Instant>,
    ) -> Result<Self, Error> {
        let opened = channel.open_watch(station, start, deadline).await;
        let (responses, position) = opened.map_err(|status| channel.error(status))?;
        let subscription = Subscription {
            channel,
            station: station.to_owned(),
            responses: Some(responses),
            position,
            deadline,
            pauses: Pauses::new(MIN_PAUSE, MAX_PAUSE),
            disconnected: false,
        };
        let events = stream::try_unfold(subscription, async |mut subscription| {
            let event = subscription.next_event().await?;
            Ok(event.map(|event| ((event, subscription.position), subscription)))
        });
        Ok(Watching { events: events.boxed(), position })
    }

    /// Returns the position of the last reading seen. The stream goes on after it.
    pub fn position(&self) -> Position {
        self.position
    }

    /// Returns the next reading, or `None` at the end of the stream. Silently reconnects
    /// when the connection is lost. Cancel safe.
    ///
    /// # Errors
    /// The errors of the stream: see [`Watching`].
    pub async fn next_reading(&mut self) -> Result<Option<RecordedReading>, Error> {
        while let Some(event) = self.try_next().await? {
            if let Event::Recorded(recorded) = event {
                return Ok(Some(recorded));
            }
        }
        Ok(None)
    }
}

impl Stream for Watching {
    type Item = Result<Event, Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.events.poll_next_unpin(cx).map_ok(|(event, position)| {
            self.position = position;
            event
        })
    }
}

impl fmt::Debug for Watching {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watching").field("position", &self.position).finish_non_exhaustive()
    }
}

impl Channel {
    /// Opens a `Watch` and waits for its first response. Retries while that is safe.
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

    /// One attempt of [`Channel::open_watch`].
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
            _ => Err(Status::internal("the first response of Watch does not say where the stream starts")),
        }
    }
}

/// The state of a [`Watching`] between two events.
struct Subscription {
    channel: Channel,
    station: String,
    /// `None` while the stream is interrupted.
    responses: Option<Streaming<WatchResponse>>,
    position: Position,
    deadline: Option<Instant>,
    pauses: Pauses,
    /// Whether [`Event::Disconnected`] was reported, but not yet [`Event::Reconnected`].
    disconnected: bool,
}

impl Subscription {
    async fn next_event(&mut self) -> Result<Option<Event>, Error> {
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
                    return Ok(Some(Event::Recorded(recorded)));
                }
                Ok(Some(_)) => {} // Skips an event that this client does not know.
                Err(status) => {
                    let error = self.channel.error(status);
                    let reason = error.disconnect_reason().ok_or(error)?;
                    (self.responses, self.disconnected) = (None, true);
                    return Ok(Some(Event::Disconnected(reason)));
                }
            }
        }
    }

    /// Pauses, then tries once to open the stream again. Returns an event if there is one
    /// to report.
    async fn reconnect(&mut self) -> Result<Option<Event>, Error> {
        let pause = self.pauses.next_pause();
        let attempt = async {
            sleep(pause).await;
            let resumed = timeout(self.channel.deadline, self.resume()).await;
            resumed.unwrap_or_else(|_elapsed| Err(Status::unavailable("the server does not respond")))
        };
        let resumed = match self.deadline {
            None => attempt.await,
            Some(deadline) => match timeout_at(deadline, attempt).await {
                Ok(resumed) => resumed,
                Err(_elapsed) => return Err(self.channel.error(deadline_exceeded())),
            },
        };
        match resumed {
            Ok((responses, position, missed)) => {
                (self.responses, self.position) = (Some(responses), position);
                Ok(std::mem::take(&mut self.disconnected).then_some(Event::Reconnected(missed)))
            }
            // The station had readings before, so the server has restarted. Keep asking
            // until it has readings of this station again.
            Err(status) if status.code() == Code::NotFound => {
                self.position = Position::default();
                Ok(std::mem::take(&mut self.disconnected).then_some(Event::Reconnected(Missed::Restarted)))
            }
            // The server has too many calls in flight, or it restarted between the two
            // calls of `resume`.
            Err(status) if matches!(status.code(), Code::ResourceExhausted | Code::FailedPrecondition) => {
                Ok(None)
            }
            Err(status) => {
                let error = self.channel.error(status);
                let reason = error.disconnect_reason().ok_or(error)?;
                let is_new = !std::mem::replace(&mut self.disconnected, true);
                Ok(is_new.then_some(Event::Disconnected(reason)))
            }
        }
    }

    /// Opens the stream again, after the last reading received.
    async fn resume(&self) -> Result<(Streaming<WatchResponse>, Position, Missed), Status> {
        let open = async |start| self.channel.try_watch(&self.station, start, self.deadline).await;
        // A stream that starts after the newest reading reports that reading's number and
        // the server's instance ID, which says whether older numbers are still valid.
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

/// Returns the number of the oldest reading that is kept, if the status says that the
/// client asked for an older one.
fn oldest_kept(status: &Status) -> Option<u64> {
    let info = status.get_details_error_info().filter(|info| info.reason == FELL_BEHIND)?;
    info.metadata.get("oldest")?.parse().ok().filter(|oldest| *oldest > 0)
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
