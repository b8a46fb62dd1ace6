//! What each kind of frame asks for, and its answer.

use std::sync::{Arc, PoisonError};

use bytes::{BufMut, BytesMut};
use tokio::sync::Notify;

use crate::connection::{End, OUTPUT, put_refusal};
use crate::frame::{CRITICAL_FLAGS, FLAG_END, Frame, kind, put_frame};
use crate::message::{Batch, ErrorCode, Refusal, parse_station, put_measurement};
use crate::replies::{Known, SharedWindow};
use crate::server::Shared;
use crate::store::{Full, MAX_STATIONS, Subscription};

/// Readings in one `READING` at most.
const READINGS_PER_FRAME: usize = 256;

/// What the frames of one connection can change; apart from its buffers, so that a
/// frame may stay in the one while its answer is put into the other.
pub(crate) struct Requests {
    pub(crate) shared: Arc<Shared>,
    pub(crate) window: SharedWindow,
    watches: Vec<Watch>,
    /// Rung when a watched station has something new.
    pub(crate) bell: Arc<Notify>,
}

/// One watch.
struct Watch {
    request_id: u32,
    readings: Subscription,
}

impl Requests {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared, window: SharedWindow::default(), watches: Vec::new(), bell: Arc::default() }
    }

    /// Does what one frame asks for, and appends the answer. An error is of the
    /// whole connection.
    pub(crate) fn take_up(&mut self, frame: &Frame<'_>, output: &mut BytesMut) -> Result<(), End> {
        let id = frame.request_id;
        let bad = |code, text| Err(End::Refused(Refusal::new(code, text)));
        if id == 0 && frame.kind != kind::GOODBYE {
            return bad(ErrorCode::BadRequestId, "a request has an id other than 0".to_owned());
        }
        if frame.flags & CRITICAL_FLAGS != 0 {
            let text = format!("flags {:04x} of kind {:04x}", frame.flags, frame.kind);
            if id == 0 {
                return bad(ErrorCode::UnknownFlag, text);
            }
            put_refusal(output, id, &Refusal::new(ErrorCode::UnknownFlag, text));
            return Ok(());
        }
        if frame.kind == kind::GOODBYE {
            return Err(End::Goodbye);
        }
        // One id, two streams of answers: nobody could tell them apart.
        if frame.kind != kind::CANCEL && self.watches.iter().any(|watch| watch.request_id == id) {
            return bad(ErrorCode::BadRequestId, format!("request id {id} is in use by a watch"));
        }
        let answered = match frame.kind {
            kind::RECORD => self.record(frame.payload).map(|accepted| {
                put_frame(output, kind::RECORDED, 0, id, |payload| payload.put_u32(accepted));
            }),
            kind::PING => empty(frame.payload).map(|()| put_frame(output, kind::PONG, 0, id, |_payload| {})),
            kind::WATCH => self.watch(id, frame.payload).map(|()| {
                put_frame(output, kind::READING, 0, id, |payload| payload.put_u64(0));
            }),
            kind::CANCEL => empty(frame.payload).map(|()| self.cancel(id, output)),
            other => Err(Refusal::new(ErrorCode::UnknownKind, format!("kind {other:04x}"))),
        };
        if let Err(refusal) = answered {
            put_refusal(output, id, &refusal);
        }
        Ok(())
    }

    fn record(&self, payload: &[u8]) -> Result<u32, Refusal> {
        let batch = Batch::parse(payload)?;
        let mut window = self.window.lock().unwrap_or_else(PoisonError::into_inner);
        match window.look_up(batch.id()) {
            Known::Recorded(accepted) => return Ok(accepted),
            Known::No => {}
            Known::TooOld => {
                let text = format!("batch {} is below the window; it was not recorded now", batch.id());
                return Err(Refusal::new(ErrorCode::UnknownOutcome, text));
            }
        }
        let accepted = self.shared.store.record(&batch).map_err(|Full| {
            Refusal::new(ErrorCode::StoreFull, format!("this server keeps at most {MAX_STATIONS} stations"))
        })?;
        window.remember(batch.id(), accepted);
        Ok(accepted)
    }

    fn watch(&mut self, request_id: u32, payload: &[u8]) -> Result<(), Refusal> {
        let station = parse_station(payload)?;
        let most = self.shared.limits.max_watches;
        if self.watches.len() >= most {
            return Err(Refusal::new(ErrorCode::TooManyWatches, format!("at most {most} of a connection")));
        }
        let Some(readings) = self.shared.store.watch(station, self.bell.clone()) else {
            return Err(Refusal::new(ErrorCode::UnknownStation, format!("no station {station:?}")));
        };
        self.watches.push(Watch { request_id, readings });
        Ok(())
    }

    /// A `CANCEL` without a watch has crossed with its end: nothing to do.
    fn cancel(&mut self, request_id: u32, output: &mut BytesMut) {
        if let Some(found) = self.watches.iter().position(|watch| watch.request_id == request_id) {
            self.watches.remove(found);
            put_last_reading(output, request_id);
        }
    }

    pub(crate) fn end_watches(&mut self, output: &mut BytesMut) {
        for watch in &self.watches {
            put_last_reading(output, watch.request_id);
        }
    }

    /// Appends what is new at the watched stations, as far as there is room;
    /// returns whether there may be more.
    pub(crate) fn put_readings(&mut self, output: &mut BytesMut) -> bool {
        let backlog = self.shared.limits.watch_backlog;
        for watch in &mut self.watches {
            let mut more = true;
            while more && output.len() < OUTPUT {
                let start = output.len();
                let mut count = 0;
                put_frame(output, kind::READING, 0, watch.request_id, |payload| {
                    let skipped_at = payload.len();
                    payload.put_u64(0);
                    let skipped = watch.readings.read_on(backlog, READINGS_PER_FRAME, |measurement| {
                        put_measurement(payload, &measurement);
                        count += 1;
                    });
                    payload[skipped_at..skipped_at + 8].copy_from_slice(&skipped.to_be_bytes());
                });
                if count == 0 {
                    output.truncate(start); // Nothing is new.
                }
                more = count == READINGS_PER_FRAME;
            }
        }
        let full = output.len() >= OUTPUT;
        if full && !self.watches.is_empty() {
            self.watches.rotate_left(1); // Another one is first in the next round.
        }
        full
    }
}

fn empty(payload: &[u8]) -> Result<(), Refusal> {
    if payload.is_empty() {
        return Ok(());
    }
    Err(Refusal::new(ErrorCode::BadPayload, "this kind has no payload"))
}

fn put_last_reading(output: &mut BytesMut, request_id: u32) {
    put_frame(output, kind::READING, FLAG_END, request_id, |payload| payload.put_u64(0));
}
