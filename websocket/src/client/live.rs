//! Live readings from the client's side: subscribes again after a broken
//! connection, and reads back what it missed.

use std::collections::{HashMap, HashSet};

use tokio::select;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::link::{Link, Reconnect, Target, is_permanent};
use super::{Client, Error, refused};
use crate::live::MAX_READ_BACK;
use crate::message::{LiveRequest, Numbered, ReadBack, Series, ServerMessage};
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
    /// The server left out readings because this client reads slowly. The newest of each
    /// series follow.
    Skipped {
        /// Number of readings left out.
        readings: u64,
    },
    /// The connection broke; it is being made anew.
    Disconnected {
        /// Why.
        reason: String,
    },
    /// The subscription goes on. The readings that were missed and that the server still
    /// has follow.
    Resubscribed {
        /// Whether it is still the same run of the server. Another one has forgotten
        /// everything recorded before.
        same_server: bool,
        /// Number of missed readings that follow.
        recovered: u64,
        /// Number of missed readings that don't.
        lost: u64,
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
            counted: 0,
            seen: HashMap::new(),
            known: HashSet::new(),
            reconnect: Reconnect::new(),
            events,
        };
        let (link, subscribed) = subscriber.subscribe().await?;
        let Subscribed { boot_id, stations, recorded } = subscribed;
        (subscriber.boot_id, subscriber.counted) = (boot_id, recorded);
        subscriber.known = stations.into_iter().collect();
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

/// What the server answers to a subscription.
struct Subscribed {
    boot_id: String,
    /// The stations of the subscription that exist.
    stations: Vec<String>,
    /// Number of readings that the subscription's series ever had.
    recorded: u64,
}

/// A subscription over all its connections.
struct Subscriber {
    target: Target,
    series: Series,
    boot_id: String,
    /// Of the `recorded` readings: those before the subscription, shown, skipped, or missed.
    counted: u64,
    seen: Sequences,
    /// Stations that existed before the subscription. As long as nothing was seen of a
    /// series of theirs, nobody knows which of its readings are older.
    known: HashSet<String>,
    reconnect: Reconnect,
    events: mpsc::Sender<Result<LiveEvent, Error>>,
}

impl Subscriber {
    async fn subscribe(&mut self) -> Result<(Link, Subscribed), Error> {
        let mut link = Link::connect(&self.target, "/live").await?;
        link.send(&LiveRequest::Subscribe(self.series.clone()));
        match refused(link.next().await?)? {
            ServerMessage::Subscribed { boot_id, stations, recorded, .. } => {
                self.reconnect.on_connect();
                Ok((link, Subscribed { boot_id, stations, recorded }))
            }
            other => Err(Error::Unexpected(format!("{other:?}"))),
        }
    }

    async fn run(mut self, mut link: Link) {
        loop {
            // None: nobody listens any more.
            let Some(error) = self.connected(link).await else { return };
            let _ = self.events.send(Ok(LiveEvent::Disconnected { reason: error.to_string() })).await;
            let listener = self.events.clone();
            // Cancel safe enough: what is given up is a connection in the making.
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
            link = again;
        }
    }

    /// Subscribes again, as often as it takes. Returns what to tell about it.
    async fn reconnect(&mut self) -> Result<(Link, Vec<LiveEvent>), Error> {
        loop {
            self.reconnect.pause().await;
            match self.resubscribe().await {
                Err(error) if !is_permanent(&error) => {}
                result => return result,
            }
        }
    }

    async fn resubscribe(&mut self) -> Result<(Link, Vec<LiveEvent>), Error> {
        let (link, Subscribed { boot_id, stations, recorded }) = self.subscribe().await?;
        let same_server = boot_id == self.boot_id;
        if !same_server {
            self.counted = 0; // Another run of the server counts from 1 again.
            self.seen.clear();
            self.known.clear();
        }
        let missed = recorded.saturating_sub(self.counted);
        let readings = if missed > 0 { self.read_back(stations, missed).await? } else { Vec::new() };
        (self.boot_id, self.counted) = (boot_id, recorded);
        let recovered = readings.len() as u64;
        let mut events =
            vec![LiveEvent::Resubscribed { same_server, recovered, lost: missed.saturating_sub(recovered) }];
        for Numbered { sequence, reading } in readings {
            self.seen.insert((reading.station.clone(), reading.metric.name()), sequence);
            events.push(LiveEvent::Reading { sequence, reading });
        }
        Ok((link, events))
    }

    /// Reads what was missed over a connection of its own. On the other one readings
    /// arrive already.
    async fn read_back(&self, stations: Vec<String>, missed: u64) -> Result<Vec<Numbered>, Error> {
        let limit = usize::try_from(missed).map_or(MAX_READ_BACK, |missed| missed.min(MAX_READ_BACK));
        let mut link = Link::connect(&self.target, "/live").await?;
        let count = stations.len();
        for (id, station) in (0..).zip(stations) {
            link.send(&LiveRequest::Readings(ReadBack { id, station, limit }));
        }
        let mut readings = Vec::new();
        for _ in 0..count {
            match refused(link.next().await?)? {
                ServerMessage::Readings { readings: more, .. } => {
                    readings.extend(more.into_iter().filter(|numbered| self.is_new(numbered)));
                }
                other => return Err(Error::Unexpected(format!("{other:?}"))),
            }
        }
        link.close().await;
        Ok(readings)
    }

    fn is_new(&self, Numbered { sequence, reading }: &Numbered) -> bool {
        let wanted = self.series.metrics.is_empty() || self.series.metrics.contains(&reading.metric);
        let seen = self.seen.get(&(reading.station.clone(), reading.metric.name()));
        wanted && seen.map_or(!self.known.contains(&reading.station), |seen| sequence > seen)
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
                    self.counted += 1;
                    let seen = self.seen.entry((reading.station.clone(), reading.metric.name())).or_default();
                    if sequence <= *seen {
                        continue; // It was read back already.
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
