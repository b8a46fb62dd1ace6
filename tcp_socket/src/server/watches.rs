//! The watches of one connection. Each one sends the readings of its station, from its own
//! position on, as fast as the client reads.

use std::sync::Arc;

use bytes::{BufMut, BytesMut};
use tokio::sync::Notify;

use crate::limits::{OUTPUT, READINGS_PER_FRAME};
use crate::protocol::frame::{FLAG_END, kind, put_frame};
use crate::protocol::message::{ErrorCode, Refusal, put_measurement};
use crate::server::store::{Store, Subscription};

/// The watches of one connection.
pub(crate) struct Watches {
    list: Vec<Watch>,
    max: usize,
    /// Notified when a watched station has something new.
    pub(crate) notify: Arc<Notify>,
}

/// One watch.
struct Watch {
    request_id: u32,
    readings: Subscription,
}

impl Watches {
    /// Starts without watches; there can be at most `max`.
    pub(crate) fn new(max: usize) -> Self {
        Self { list: Vec::new(), max, notify: Arc::default() }
    }

    /// Returns whether a watch has this request ID.
    pub(crate) fn has(&self, request_id: u32) -> bool {
        self.list.iter().any(|watch| watch.request_id == request_id)
    }

    /// Begins a watch.
    pub(crate) fn add(&mut self, store: &Arc<Store>, request_id: u32, station: &str) -> Result<(), Refusal> {
        if self.list.len() >= self.max {
            let text = format!("a connection may have at most {} watches", self.max);
            return Err(Refusal::new(ErrorCode::TooManyWatches, text));
        }
        let Some(readings) = store.watch(station, self.notify.clone()) else {
            return Err(Refusal::new(ErrorCode::UnknownStation, format!("no station {station:?}")));
        };
        self.list.push(Watch { request_id, readings });
        Ok(())
    }

    /// Ends the watch with this request ID. Returns whether there was one.
    pub(crate) fn remove(&mut self, request_id: u32) -> bool {
        let found = self.list.iter().position(|watch| watch.request_id == request_id);
        found.map(|at| self.list.remove(at)).is_some()
    }

    /// Ends all watches, and tells the client.
    pub(crate) fn end(&mut self, output: &mut BytesMut) {
        for watch in self.list.drain(..) {
            put_last_reading(output, watch.request_id);
        }
    }

    /// Appends the new readings of the watched stations, as far as there is room. Returns
    /// whether there may be more.
    pub(crate) fn put_readings(&mut self, backlog: usize, output: &mut BytesMut) -> bool {
        for watch in &mut self.list {
            let mut more = true;
            while more && output.len() < OUTPUT {
                let start = output.len();
                let mut count = 0;
                put_frame(output, kind::READING, 0, watch.request_id, |payload| {
                    let skipped_at = payload.len();
                    payload.put_u64(0);
                    let skipped = watch.readings.read_next(backlog, READINGS_PER_FRAME, |measurement| {
                        put_measurement(payload, &measurement);
                        count += 1;
                    });
                    payload[skipped_at..skipped_at + 8].copy_from_slice(&skipped.to_be_bytes());
                });
                if count == 0 {
                    output.truncate(start); // There is nothing new.
                }
                more = count == READINGS_PER_FRAME;
            }
        }
        let full = output.len() >= OUTPUT;
        if full && !self.list.is_empty() {
            self.list.rotate_left(1); // Another watch is first in the next round.
        }
        full
    }
}

/// Appends the last `READING` of a watch, with the flag END.
pub(crate) fn put_last_reading(output: &mut BytesMut, request_id: u32) {
    put_frame(output, kind::READING, FLAG_END, request_id, |payload| payload.put_u64(0));
}
