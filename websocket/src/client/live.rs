//! Live readings from the client's side. When its connection breaks, the client subscribes again
//! and reads back the readings that it missed.

use std::collections::{HashMap, HashSet};
use std::pin::Pin;
use std::task::{Context, Poll};

use futures::Stream;
use tokio::select;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::connection::{Connection, Target};
use super::error::{Error, unless_refused};
use super::reconnect::{Reconnect, is_permanent};
use crate::limits::{EVENTS, MAX_READ_BACK};
use crate::protocol::message::{LiveRequest, Numbered, ReadBack, Series, ServerMessage};
use crate::protocol::model::{Metric, Reading};

/// An event of a subscription.
#[derive(Debug, Clone, PartialEq)]
pub enum LiveEvent {
    /// A reading was recorded.
    Reading {
        /// Number of the reading in its series (one metric of one station), from 1.
        sequence: u64,
        /// The reading.
        reading: Reading,
    },
    /// The server left out readings because this client reads too slowly. The newest reading of
    /// each series follows.
    Skipped {
        /// Number of readings left out.
        readings: u64,
    },
    /// The connection broke. The client is reconnecting.
    Disconnected {
        /// Why the connection broke.
        reason: String,
    },
    /// The client has subscribed again. Missed readings follow, but at most 500 of each station.
    Resubscribed {
        /// Whether this is still the same run of the server. Another run doesn't have the
        /// earlier readings.
        same_server: bool,
        /// Number of missed readings that follow.
        recovered: u64,
        /// Number of missed readings that do not follow.
        lost: u64,
    },
}

/// A subscription. It ends when it is dropped.
#[derive(Debug)]
pub struct LiveEvents {
    subscriber: JoinHandle<()>,
    events: mpsc::Receiver<Result<LiveEvent, Error>>,
}

/// Subscribes: see [`Client::live`](super::Client::live).
pub(super) async fn subscribe(
    target: Target,
    stations: &[&str],
    metrics: &[Metric],
) -> Result<LiveEvents, Error> {
    let stations = stations.iter().map(|&station| station.to_owned()).collect();
    let (events, receiver) = mpsc::channel(EVENTS);
    let mut subscriber = Subscriber {
        target,
        series: Series { id: 0, stations, metrics: metrics.to_vec() },
        instance_id: String::new(),
        counted: 0,
        seen: HashMap::new(),
        known: HashSet::new(),
        reconnect: Reconnect::new(),
        events,
    };
    let (connection, subscribed) = subscriber.subscribe().await?;
    let Subscribed { instance_id, stations, recorded } = subscribed;
    (subscriber.instance_id, subscriber.counted) = (instance_id, recorded);
    subscriber.known = stations.into_iter().collect();
    Ok(LiveEvents { subscriber: tokio::spawn(subscriber.run(connection)), events: receiver })
}

impl LiveEvents {
    /// Ends the subscription and waits until its connection is closed.
    pub async fn close(self) {
        drop(self.events);
        let _ = self.subscriber.await;
    }
}

/// If the subscription ends for good, the last item is an error that says why.
impl Stream for LiveEvents {
    type Item = Result<LiveEvent, Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.events.poll_recv(cx)
    }
}

/// The newest sequence number seen, by station and metric.
type Sequences = HashMap<(String, &'static str), u64>;

/// The server's response to a subscription.
struct Subscribed {
    instance_id: String,
    /// The stations of the subscription that exist.
    stations: Vec<String>,
    /// Number of readings ever recorded in the subscription's series.
    recorded: u64,
}

/// A subscription, across all its connections.
struct Subscriber {
    target: Target,
    series: Series,
    instance_id: String,
    /// How many of the `recorded` readings are accounted for: they were recorded before the
    /// subscription, delivered, skipped, or missed.
    counted: u64,
    seen: Sequences,
    /// Stations that existed before the subscription. Until a reading of one of their series has
    /// arrived, nobody knows which readings of that series are older than the subscription.
    known: HashSet<String>,
    reconnect: Reconnect,
    events: mpsc::Sender<Result<LiveEvent, Error>>,
}

impl Subscriber {
    async fn subscribe(&mut self) -> Result<(Connection, Subscribed), Error> {
        let mut connection = Connection::connect(&self.target, "/live").await?;
        connection.send(&LiveRequest::Subscribe(self.series.clone()));
        match unless_refused(connection.next().await?)? {
            ServerMessage::Subscribed { instance_id, stations, recorded, .. } => {
                self.reconnect.on_connect();
                Ok((connection, Subscribed { instance_id, stations, recorded }))
            }
            other => Err(Error::Unexpected(format!("{other:?}"))),
        }
    }

    async fn run(mut self, mut connection: Connection) {
        loop {
            // `None` means that nobody listens anymore.
            let Some(error) = self.connected(connection).await else { return };
            let _ = self.events.send(Ok(LiveEvent::Disconnected { reason: error.to_string() })).await;
            let listener = self.events.clone();
            // Not cancel safe, but only a connection that is still being made is lost.
            let again = select! {
                again = self.reconnect() => again,
                () = listener.closed() => return,
            };
            let (again, events) = match again {
                Ok(again) => again,
                Err(error) => {
                    let _ = self.events.send(Err(error)).await;
                    return;
                }
            };
            for event in events {
                let _ = self.events.send(Ok(event)).await;
            }
            connection = again;
        }
    }

    /// Tries to subscribe again until it succeeds or fails for good. Returns the events to report.
    async fn reconnect(&mut self) -> Result<(Connection, Vec<LiveEvent>), Error> {
        loop {
            self.reconnect.pause().await;
            match self.resubscribe().await {
                Err(error) if !is_permanent(&error) => {}
                result => return result,
            }
        }
    }

    async fn resubscribe(&mut self) -> Result<(Connection, Vec<LiveEvent>), Error> {
        let (connection, Subscribed { instance_id, stations, recorded }) = self.subscribe().await?;
        let same_server = instance_id == self.instance_id;
        if !same_server {
            self.counted = 0; // Another run of the server starts counting from 1.
            self.seen.clear();
            self.known.clear();
        }
        let missed = recorded.saturating_sub(self.counted);
        let readings = if missed > 0 { self.read_back(stations, missed).await? } else { Vec::new() };
        (self.instance_id, self.counted) = (instance_id, recorded);
        let recovered = readings.len() as u64;
        let mut events =
            vec![LiveEvent::Resubscribed { same_server, recovered, lost: missed.saturating_sub(recovered) }];
        for Numbered { sequence, reading } in readings {
            self.seen.insert((reading.station.clone(), reading.metric.name()), sequence);
            events.push(LiveEvent::Reading { sequence, reading });
        }
        Ok((connection, events))
    }

    /// Reads back the missed readings over a second connection, because new readings are already
    /// arriving on the first one.
    async fn read_back(&self, stations: Vec<String>, missed: u64) -> Result<Vec<Numbered>, Error> {
        let limit = usize::try_from(missed).map_or(MAX_READ_BACK, |missed| missed.min(MAX_READ_BACK));
        let mut connection = Connection::connect(&self.target, "/live").await?;
        let count = stations.len();
        for (id, station) in (0..).zip(stations) {
            connection.send(&LiveRequest::Readings(ReadBack { id, station, limit }));
        }
        let mut readings = Vec::new();
        for _ in 0..count {
            match unless_refused(connection.next().await?)? {
                ServerMessage::Readings { readings: more, .. } => {
                    readings.extend(more.into_iter().filter(|numbered| self.is_new(numbered)));
                }
                other => return Err(Error::Unexpected(format!("{other:?}"))),
            }
        }
        connection.close().await;
        Ok(readings)
    }

    fn is_new(&self, Numbered { sequence, reading }: &Numbered) -> bool {
        let wanted = self.series.metrics.is_empty() || self.series.metrics.contains(&reading.metric);
        let seen = self.seen.get(&(reading.station.clone(), reading.metric.name()));
        wanted && seen.map_or(!self.known.contains(&reading.station), |seen| sequence > seen)
    }

    /// Passes readings on. Returns why the connection broke, or `None` once nobody listens.
    async fn connected(&mut self, mut connection: Connection) -> Option<Error> {
        loop {
            // Both are cancel safe.
            let message = select! {
                message = connection.next() => message,
                () = self.events.closed() => {
                    connection.close().await;
                    return None;
                }
            };
            let event = match message {
                Ok(ServerMessage::Reading(Numbered { sequence, reading })) => {
                    self.counted += 1;
                    let seen = self.seen.entry((reading.station.clone(), reading.metric.name())).or_default();
                    if sequence <= *seen {
                        continue; // It was already read back.
                    }
                    *seen = sequence;
                    LiveEvent::Reading { sequence, reading }
                }
                Ok(ServerMessage::Skipped { readings }) => {
                    self.counted = self.counted.saturating_add(readings);
                    LiveEvent::Skipped { readings }
                }
                Ok(_) => continue,
                Err(error) => return Some(error),
            };
            let _ = self.events.send(Ok(event)).await;
        }
    }
}
