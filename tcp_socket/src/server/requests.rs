//! What each kind of frame asks the server to do, and the response.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::{BufMut, BytesMut};

use crate::base::principals::{Caller, Operation};
use crate::limits::MAX_STATIONS;
use crate::protocol::frame::{CRITICAL_FLAGS, Frame, kind, put_frame};
use crate::protocol::handshake::{VERSION, VERSION_WITH_TOKEN};
use crate::protocol::message::{Batch, ErrorCode, Refusal, parse_station};
use crate::server::close_reason::CloseReason;
use crate::server::dedup::{DedupWindow, Lookup, SharedWindow};
use crate::server::store::{Full, Store};
use crate::server::watches::{Watches, put_last_reading};

/// Everything that the frames of one connection can change. It is separate from the
/// connection's buffers, so that a frame can stay in the input while the response goes into
/// the output.
pub(crate) struct Requests {
    store: Arc<Store>,
    pub(crate) window: SharedWindow,
    pub(crate) watches: Watches,
    pub(crate) caller: Caller,
    pub(crate) version: u16,
}

impl Requests {
    pub(crate) fn new(store: Arc<Store>, max_watches: usize, caller: Caller) -> Self {
        let watches = Watches::new(max_watches);
        Self { store, window: SharedWindow::default(), watches, caller, version: VERSION }
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
            // A wrong token ends the connection, so that guesses cost the client time.
            kind::TOKEN if self.version >= VERSION_WITH_TOKEN => {
                self.caller = self
                    .caller
                    .with_token(frame.payload)
                    .map_err(|denied| Refusal::new(ErrorCode::BadToken, denied.to_string()))?;
                let name = self.caller.name().unwrap_or_default();
                put_frame(output, kind::CALLER, 0, id, |payload| payload.put_slice(name.as_bytes()));
                Ok(())
            }
            kind::RECORD => self.record(frame.payload).map(|accepted| {
                put_frame(output, kind::RECORDED, 0, id, |payload| payload.put_u32(accepted));
            }),
            kind::PING => empty(frame.payload).map(|()| put_frame(output, kind::PONG, 0, id, |_payload| {})),
            kind::WATCH => parse_station(frame.payload)
                .and_then(|station| {
                    self.caller.may(Operation::Subscribe)?;
                    self.watches.add(&self.store, id, station)
                })
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

    fn record(&self, payload: &[u8]) -> Result<u32, Refusal> {
        let batch = Batch::parse(payload)?;
        self.caller.may_record(batch.runs().map(|run| run.station))?;
        record(&batch, &self.window, &self.store)
    }
}

/// Records a batch, unless the client's window already has a reply to it.
fn record(batch: &Batch<'_>, window: &Mutex<DedupWindow>, store: &Store) -> Result<u32, Refusal> {
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
    let accepted = store.record(batch).map_err(|Full| {
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
