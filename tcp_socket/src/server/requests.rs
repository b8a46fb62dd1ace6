//! What each kind of frame asks the server to do, and the response.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::{BufMut, BytesMut};

use crate::limits::MAX_STATIONS;
use crate::protocol::frame::{CRITICAL_FLAGS, Frame, kind, put_frame};
use crate::protocol::message::{Batch, ErrorCode, Refusal, parse_station};
use crate::server::close_reason::CloseReason;
use crate::server::replies::{DedupWindow, Lookup, SharedWindow};
use crate::server::store::{Full, Store};
use crate::server::watches::{Watches, put_last_reading};

/// Everything that the frames of one connection can change. It is separate from the
/// connection's buffers, so that a frame can stay in the input while the response goes into
/// the output.
pub(crate) struct Requests {
    store: Arc<Store>,
    pub(crate) window: SharedWindow,
    pub(crate) watches: Watches,
}

impl Requests {
    pub(crate) fn new(store: Arc<Store>, max_watches: usize) -> Self {
        Self { store, window: SharedWindow::default(), watches: Watches::new(max_watches) }
    }

    /// Does what one frame asks for, and appends the response. An error ends the connection.
    pub(crate) fn handle_frame(
        &mut self,
        frame: &Frame<'_>,
        output: &mut BytesMut,
    ) -> Result<(), CloseReason> {
        let id = frame.request_id;
        let critical = frame.flags & CRITICAL_FLAGS != 0;
        if frame.kind == kind::GOODBYE {
            if id != 0 || critical || !frame.payload.is_empty() {
                let text = "GOODBYE must have request ID 0, no critical flag, and no payload";
                return Err(Refusal::new(ErrorCode::BadGoodbye, text).into());
            }
            return Err(CloseReason::Goodbye);
        }
        if id == 0 {
            let text = "a request needs a request ID other than 0";
            return Err(Refusal::new(ErrorCode::BadRequestId, text).into());
        }
        // The client could not tell the responses apart.
        if frame.kind != kind::CANCEL && self.watches.has(id) {
            let text = format!("request ID {id} is in use by a watch");
            return Err(Refusal::new(ErrorCode::BadRequestId, text).into());
        }
        let handled = match frame.kind {
            // The watch ended while this frame was on its way: nothing to do.
            kind::CANCEL if !self.watches.remove(id) => return Ok(()),
            _ if critical => {
                let text = format!("unknown critical flag in {:04x} of kind {:04x}", frame.flags, frame.kind);
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
            other => {
                Err(Refusal::new(ErrorCode::UnknownKind, format!("unknown kind of request {other:04x}")))
            }
        };
        if let Err(refusal) = handled {
            refusal.put_frame(output, id);
        }
        Ok(())
    }
}

/// Records a batch, unless the client's window already has a reply to it.
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
            let text = format!(
                "batch {} is older than all replies that are kept; it was not recorded now",
                batch.id()
            );
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
