//! What each kind of frame asks for, and its answer.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::{BufMut, BytesMut};

use crate::limits::MAX_STATIONS;
use crate::protocol::frame::{CRITICAL_FLAGS, Frame, kind, put_frame};
use crate::protocol::message::{Batch, ErrorCode, Refusal, parse_station};
use crate::server::close_reason::CloseReason;
use crate::server::replies::{DedupWindow, Lookup, SharedWindow};
use crate::server::store::{Full, Store};
use crate::server::watches::{Watches, put_last_reading};

/// What the frames of one connection can change; apart from its buffers, so that a
/// frame may stay in the one while its answer is put into the other.
pub(crate) struct Requests {
    store: Arc<Store>,
    pub(crate) window: SharedWindow,
    pub(crate) watches: Watches,
}

impl Requests {
    pub(crate) fn new(store: Arc<Store>, max_watches: usize) -> Self {
        Self { store, window: SharedWindow::default(), watches: Watches::new(max_watches) }
    }

    /// Does what one frame asks for, and appends the answer. An error concerns the
    /// whole connection.
    pub(crate) fn handle_frame(
        &mut self,
        frame: &Frame<'_>,
        output: &mut BytesMut,
    ) -> Result<(), CloseReason> {
        let id = frame.request_id;
        let critical = frame.flags & CRITICAL_FLAGS != 0;
        if frame.kind == kind::GOODBYE {
            if id != 0 || critical || !frame.payload.is_empty() {
                let text = "GOODBYE has request id 0, no critical flag and no payload";
                return Err(Refusal::new(ErrorCode::BadGoodbye, text).into());
            }
            return Err(CloseReason::Goodbye);
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
            kind::RECORD => record(frame.payload, &self.window, &self.store).map(|accepted| {
                put_frame(output, kind::RECORDED, 0, id, |payload| payload.put_u32(accepted));
            }),
            kind::PING => empty(frame.payload).map(|()| put_frame(output, kind::PONG, 0, id, |_payload| {})),
            kind::WATCH => parse_station(frame.payload)
                .and_then(|station| self.watches.add(&self.store, id, station))
                .map(|()| {
                    put_frame(output, kind::READING, 0, id, |payload| payload.put_u64(0));
                }),
            kind::CANCEL => empty(frame.payload).map(|()| put_last_reading(output, id)),
            other => Err(Refusal::new(ErrorCode::UnknownKind, format!("kind {other:04x}"))),
        };
        if let Err(refusal) = answered {
            refusal.put_frame(output, id);
        }
        Ok(())
    }
}

/// Records a batch, unless the client's window knows it.
fn record(payload: &[u8], window: &Mutex<DedupWindow>, store: &Store) -> Result<u32, Refusal> {
    let batch = Batch::parse(payload)?;
    let mut window = window.lock().unwrap_or_else(PoisonError::into_inner);
    match window.look_up(batch.id()) {
        Lookup::Recorded(accepted) => return Ok(accepted),
        Lookup::New => {}
        Lookup::Invalid => {
            let text = format!("batch {} is 0 or too far ahead of the batches before it", batch.id());
            return Err(Refusal::new(ErrorCode::BadBatchId, text));
        }
        Lookup::TooOld => {
            let text = format!("batch {} is below the window; it was not recorded now", batch.id());
            return Err(Refusal::new(ErrorCode::UnknownOutcome, text));
        }
    }
    let accepted = store.record(&batch).map_err(|Full| {
        Refusal::new(ErrorCode::StoreFull, format!("this server keeps at most {MAX_STATIONS} stations"))
    })?;
    window.remember(batch.id(), accepted);
    Ok(accepted)
}

fn empty(payload: &[u8]) -> Result<(), Refusal> {
    if payload.is_empty() {
        return Ok(());
    }
    Err(Refusal::new(ErrorCode::BadPayload, "this kind has no payload"))
}
