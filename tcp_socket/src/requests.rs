//! What each kind of frame asks for, and its answer.

use std::sync::{Arc, PoisonError};

use bytes::{BufMut, BytesMut};

use crate::connection::{End, put_refusal};
use crate::frame::{CRITICAL_FLAGS, Frame, kind, put_frame};
use crate::message::{Batch, ErrorCode, Refusal, parse_station};
use crate::replies::{Known, SharedWindow};
use crate::server::Shared;
use crate::store::{Full, MAX_STATIONS};
use crate::watches::{Watches, put_last_reading};

/// What the frames of one connection can change; apart from its buffers, so that a
/// frame may stay in the one while its answer is put into the other.
pub(crate) struct Requests {
    pub(crate) shared: Arc<Shared>,
    pub(crate) window: SharedWindow,
    pub(crate) watches: Watches,
}

impl Requests {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared, window: SharedWindow::default(), watches: Watches::default() }
    }

    /// Does what one frame asks for, and appends the answer. An error is of the
    /// whole connection.
    pub(crate) fn take_up(&mut self, frame: &Frame<'_>, output: &mut BytesMut) -> Result<(), End> {
        let id = frame.request_id;
        let critical = frame.flags & CRITICAL_FLAGS != 0;
        if frame.kind == kind::GOODBYE {
            if id != 0 || critical || !frame.payload.is_empty() {
                let text = "GOODBYE has request id 0, no critical flag and no payload";
                return Err(Refusal::new(ErrorCode::BadGoodbye, text).into());
            }
            return Err(End::Goodbye);
        }
        if id == 0 {
            return Err(Refusal::new(ErrorCode::BadRequestId, "a request has an id other than 0").into());
        }
        // One id, two streams of answers: nobody could tell them apart.
        if frame.kind != kind::CANCEL && self.watches.has(id) {
            let text = format!("request id {id} is in use by a watch");
            return Err(Refusal::new(ErrorCode::BadRequestId, text).into());
        }
        let answered = match frame.kind {
            // It crossed with the end of its watch: nothing to do.
            kind::CANCEL if !self.watches.remove(id) => return Ok(()),
            _ if critical => {
                let text = format!("flags {:04x} of kind {:04x}", frame.flags, frame.kind);
                Err(Refusal::new(ErrorCode::UnknownFlag, text))
            }
            kind::RECORD => self.record(frame.payload).map(|accepted| {
                put_frame(output, kind::RECORDED, 0, id, |payload| payload.put_u32(accepted));
            }),
            kind::PING => empty(frame.payload).map(|()| put_frame(output, kind::PONG, 0, id, |_payload| {})),
            kind::WATCH => parse_station(frame.payload)
                .and_then(|station| self.watches.add(&self.shared, id, station))
                .map(|()| {
                    put_frame(output, kind::READING, 0, id, |payload| payload.put_u64(0));
                }),
            kind::CANCEL => empty(frame.payload).map(|()| put_last_reading(output, id)),
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
            Known::Invalid => {
                let text = format!("batch {} is 0 or too far ahead of the batches before it", batch.id());
                return Err(Refusal::new(ErrorCode::BadBatchId, text));
            }
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
}

fn empty(payload: &[u8]) -> Result<(), Refusal> {
    if payload.is_empty() {
        return Ok(());
    }
    Err(Refusal::new(ErrorCode::BadPayload, "this kind has no payload"))
}
