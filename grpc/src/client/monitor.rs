//! `Monitor`: requests go out while acknowledgements and alerts come in.

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures::stream::{Stream, StreamExt};
use tcp_socket::base::retry::Pauses;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};

use super::channel::Channel;
use super::error::Error;
use super::retry::retry;
use crate::limits::{MAX_PAUSE, MIN_PAUSE, REQUESTS_AHEAD};
use crate::protocol::proto::monitor_request::Action;
use crate::protocol::proto::monitor_response::Event;
use crate::protocol::proto::{MonitorRequest, MonitorResponse, Threshold};
use crate::protocol::status::deadline_exceeded;

/// The client's side of a `Monitor`: a stream of acknowledgements and alerts. It ends
/// when the call ends with `OK`. Dropping it cancels the call.
///
/// The server forgets the thresholds when the call ends. After an error with a
/// [disconnect reason](Error::disconnect_reason), [`Monitoring::reconnect`] adds them
/// again.
#[derive(Debug)]
pub struct Monitoring {
    channel: Channel,
    requests: Option<mpsc::Sender<MonitorRequest>>,
    responses: Streaming<MonitorResponse>,
    /// The thresholds that the server has acknowledged.
    thresholds: Vec<Threshold>,
    /// The requests that wait for an acknowledgement, oldest first, and whether the
    /// caller should see it.
    pending: VecDeque<(Action, bool)>,
    pauses: Pauses,
}

impl Channel {
    async fn try_monitor(
        &self,
    ) -> Result<(mpsc::Sender<MonitorRequest>, Streaming<MonitorResponse>), Status> {
        let (requests, outgoing) = mpsc::channel(REQUESTS_AHEAD);
        let request = self.request(ReceiverStream::new(outgoing), None);
        Ok((requests, self.stub.clone().monitor(request).await?.into_inner()))
    }
}

impl Monitoring {
    pub(super) async fn open(channel: Channel) -> Result<Self, Error> {
        let opened = retry(Instant::now() + channel.deadline, async || channel.try_monitor().await).await;
        let (requests, responses) = opened.map_err(|status| channel.error(status))?;
        Ok(Self {
            channel,
            requests: Some(requests),
            responses,
            thresholds: Vec::new(),
            pending: VecDeque::new(),
            pauses: Pauses::new(MIN_PAUSE, MAX_PAUSE),
        })
    }

    /// Asks for alerts about readings beyond a threshold. The acknowledgement arrives on
    /// the stream.
    ///
    /// # Errors
    /// [`Error::Ended`] if the call has ended; the stream says why.
    pub async fn add(&mut self, threshold: Threshold) -> Result<(), Error> {
        self.send(Action::Add(threshold)).await
    }

    /// Asks the server to remove the threshold with this ID.
    ///
    /// # Errors
    /// [`Error::Ended`] if the call has ended; the stream says why.
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

    /// Tells the server that there are no more requests; it then ends the call.
    pub fn finish(&mut self) {
        self.requests = None;
    }

    /// Returns the event in a response, unless the caller should not see it.
    fn event(&mut self, response: MonitorResponse) -> Option<Event> {
        let event = response.event?; // Skips an event that this client does not know.
        if matches!(event, Event::Alert(_)) {
            return Some(event);
        }
        let asked = self.pending.pop_front();
        let is_shown = asked.as_ref().is_none_or(|(_, is_shown)| *is_shown);
        match (&event, asked) {
            (Event::Added(_), Some((Action::Add(threshold), _))) => self.thresholds.push(threshold),
            (Event::Removed(id), _) => self.thresholds.retain(|kept| kept.id != *id),
            _ => {}
        }
        (is_shown || matches!(event, Event::Refused(_))).then_some(event)
    }

    /// Opens the call again, however many attempts that needs, and adds its thresholds
    /// again. Alerts for readings recorded in the meantime are missed. A server that does
    /// not know a threshold's station, for example after a restart, refuses the threshold:
    /// the stream yields the refusal, and the client forgets the threshold.
    ///
    /// # Errors
    /// An error that another attempt would not fix.
    pub async fn reconnect(&mut self) -> Result<(), Error> {
        loop {
            sleep(self.pauses.next_pause()).await;
            let opened = timeout(self.channel.deadline, self.channel.try_monitor()).await;
            match opened.unwrap_or_else(|_elapsed| Err(deadline_exceeded())) {
                Ok((requests, responses)) => {
                    (self.requests, self.responses) = (Some(requests), responses);
                    break;
                }
                Err(status) if matches!(status.code(), Code::ResourceExhausted | Code::DeadlineExceeded) => {}
                Err(status) => {
                    let error = self.channel.error(status);
                    error.disconnect_reason().ok_or(error)?;
                }
            }
        }
        let kept = std::mem::take(&mut self.thresholds);
        let again = kept.into_iter().map(|threshold| (Action::Add(threshold), false));
        self.pending = again.chain(std::mem::take(&mut self.pending)).collect();
        for (action, _) in self.pending.clone() {
            // If the connection is lost again, the stream yields the error.
            let _ = self.transmit(action).await;
        }
        Ok(())
    }
}

impl Stream for Monitoring {
    type Item = Result<Event, Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            let Some(response) = ready!(self.responses.poll_next_unpin(cx)) else {
                return Poll::Ready(None);
            };
            let response = match response {
                Ok(response) => response,
                Err(status) => return Poll::Ready(Some(Err(self.channel.error(status)))),
            };
            self.pauses.reset();
            if let Some(event) = self.event(response) {
                return Poll::Ready(Some(Ok(event)));
            }
        }
    }
}
