//! Live readings from the client's side: subscribes again after a broken
//! connection, and tells how many readings it missed.

use std::collections::HashMap;

use tokio::select;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::sleep;

use super::link::{Link, Target, pauses};
use super::{Client, Error, refused};
use crate::message::{LiveRequest, Numbered, Series, ServerMessage};
use crate::model::{Metric, Reading};

/// Readings that wait for their reader; beyond it the connection is not read
/// further, and the server skips.
const EVENTS: usize = 1024;

/// What comes from a subscription.
#[derive(Debug, Clone, PartialEq)]
pub enum LiveEvent {
    /// A reading was recorded.
    Reading {
        /// Its number in its series (one metric of one station), from 1.
        sequence: u64,
        /// It.
        reading: Reading,
    },
    /// So many were recorded and are not shown: this client reads slowly, or was
    /// cut off. The newest of each series follow.
    Skipped {
        /// How many.
        readings: u64,
    },
    /// The connection broke; it is being made anew.
    Disconnected {
        /// Why.
        reason: String,
    },
    /// The subscription goes on.
    Resubscribed {
        /// It is still the same run of the server; another one counts anew, and
        /// what was missed is unknown.
        same_server: bool,
    },
}

/// A subscription. Ends when it is dropped.
#[derive(Debug)]
pub struct LiveEvents {
    subscriber: JoinHandle<()>,
    events: mpsc::Receiver<Result<LiveEvent, Error>>,
}

impl Client {
    /// Subscribes to these metrics of these stations, over a connection of its
    /// own; none means all.
    ///
    /// # Errors
    /// [`Error::Refused`] says what is wrong with the stations.
    pub async fn live(&self, stations: &[&str], metrics: &[Metric]) -> Result<LiveEvents, Error> {
        let stations = stations.iter().map(|&station| station.to_owned()).collect();
        let series = Series { id: 0, stations, metrics: metrics.to_vec() };
        let (events, receiver) = mpsc::channel(EVENTS);
        let mut subscriber = Subscriber {
            target: self.target.clone(),
            series,
            boot_id: String::new(),
            seen: HashMap::new(),
            before: HashMap::new(),
            events,
        };
        let link = subscriber.subscribe().await?;
        Ok(LiveEvents { subscriber: tokio::spawn(subscriber.run(link)), events: receiver })
    }
}

impl LiveEvents {
    /// The next event; `None` after the end. Cancel safe.
    ///
    /// # Errors
    /// Why it ended, if the server refuses to go on.
    pub async fn next(&mut self) -> Option<Result<LiveEvent, Error>> {
        self.events.recv().await
    }

    /// Ends the subscription and waits until its connection is closed.
    pub async fn close(self) {
        drop(self.events);
        let _ = self.subscriber.await;
    }
}

/// The newest sequence number by station and metric.
type Sequences = HashMap<(String, &'static str), u64>;

/// A subscription over all its connections.
struct Subscriber {
    target: Target,
    series: Series,
    boot_id: String,
    /// Over this connection.
    seen: Sequences,
    /// Over earlier ones, of series not seen over this one.
    before: Sequences,
    events: mpsc::Sender<Result<LiveEvent, Error>>,
}

impl Subscriber {
    async fn subscribe(&mut self) -> Result<Link, Error> {
        let mut link = Link::connect(&self.target, "/live").await?;
        link.send(&LiveRequest::Subscribe(self.series.clone()));
        match refused(link.next().await?)? {
            ServerMessage::Subscribed { boot_id, .. } => {
                self.before.extend(self.seen.drain());
                if boot_id != self.boot_id {
                    self.before.clear();
                    self.boot_id = boot_id;
                }
                Ok(link)
            }
            other => Err(Error::Unexpected(format!("{other:?}"))),
        }
    }

    async fn run(mut self, mut link: Link) {
        loop {
            // None: nobody listens any more.
            let Some(error) = self.connected(link).await else { return };
            let _ = self.events.send(Ok(LiveEvent::Disconnected { reason: error.to_string() })).await;
            let boot_id = self.boot_id.clone();
            let listener = self.events.clone();
            // Cancel safe enough: what is given up is a connection in the making.
            let again = select! {
                again = self.resubscribe() => again,
                () = listener.closed() => return,
            };
            link = match again {
                Ok(link) => link,
                Err(error) => {
                    let _ = self.events.send(Err(error)).await;
                    return;
                }
            };
            let same_server = boot_id == self.boot_id;
            let _ = self.events.send(Ok(LiveEvent::Resubscribed { same_server })).await;
        }
    }

    async fn resubscribe(&mut self) -> Result<Link, Error> {
        for pause in pauses() {
            match self.subscribe().await {
                Err(error @ Error::Refused { .. }) => return Err(error),
                Ok(link) => return Ok(link),
                Err(_) => sleep(pause).await,
            }
        }
        Err(Error::Gone)
    }

    /// Passes readings on until the connection breaks (why) or nobody listens.
    async fn connected(&mut self, mut link: Link) -> Option<Error> {
        loop {
            // Cancel safe, both.
            let message = select! {
                message = link.next() => message,
                () = self.events.closed() => {
                    link.close().await;
                    return None;
                }
            };
            let event = match message {
                Ok(ServerMessage::Reading(Numbered { sequence, reading })) => {
                    let series = (reading.station.clone(), reading.metric.name());
                    let missed =
                        self.before.remove(&series).map_or(0, |last| sequence.saturating_sub(last + 1));
                    self.seen.insert(series, sequence);
                    if missed > 0 {
                        let _ = self.events.send(Ok(LiveEvent::Skipped { readings: missed })).await;
                    }
                    LiveEvent::Reading { sequence, reading }
                }
                Ok(ServerMessage::Skipped { readings }) => LiveEvent::Skipped { readings },
                Ok(_) => continue,
                Err(error) => return Some(error),
            };
            let _ = self.events.send(Ok(event)).await;
        }
    }
}
