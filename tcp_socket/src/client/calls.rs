//! Which calls wait for which answers: what the clones of a client share with the
//! task of their connection.

use std::collections::HashMap;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::BytesMut;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

use crate::client::error::{DisconnectReason, Error};
use crate::limits::MAX_IN_FLIGHT;
use crate::protocol::frame::{CRITICAL_FLAGS, FLAG_END, Frame, HEADER, kind, put_frame};
use crate::protocol::frame_buffer::FrameBuffer;
use crate::protocol::handshake::{Id, Welcome};
use crate::protocol::message::{Refusal, Update};

/// What came of a request.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// It was done. The number of accepted readings, or a watch's request id.
    Done(u32),
    /// An `ERROR` answered it.
    Refused(Refusal),
    /// The connection was lost before the server could execute it. This gives the
    /// permit back, for another attempt.
    NotExecuted(OwnedSemaphorePermit),
    /// The connection was lost. This gives the permit back.
    Unknown(OwnedSemaphorePermit),
}

/// Why a request was not queued.
pub(crate) enum NotQueued {
    /// The connection is not to that server any more. This gives the permit back.
    Disconnected(OwnedSemaphorePermit),
    /// Maximum number of bytes that the server accepts in a payload.
    TooLarge(u32),
}

/// Who waits for the frames with some request id.
enum Expected {
    /// A call. It keeps its permit until it is answered, even if it was given up.
    Call {
        outcome: oneshot::Sender<Outcome>,
        /// Of a `WATCH`: where what follows the first answer goes.
        updates: Option<mpsc::Sender<Update>>,
        permit: OwnedSemaphorePermit,
    },
    /// A watch that is open.
    Updates { updates: mpsc::Sender<Update>, skipped: u64 },
    /// Nobody: a heartbeat, or what remains of a cancelled watch.
    Nobody,
}

/// What the clones of a client share with the task of their connection.
pub(crate) struct Calls {
    state: Mutex<State>,
    /// Notified when something is queued.
    pub(crate) queued: Notify,
    /// Notified when the connection is lost, is up again, or never will be.
    changed: Notify,
    permits: Arc<Semaphore>,
}

#[derive(Default)]
struct State {
    /// What the server said, while there is a connection.
    server: Option<Welcome>,
    /// Counts the server's memories of this client. One ends when the server restarts or
    /// forgets the client.
    session_epoch: u64,
    /// The instance ID of the last server.
    instance_id: Option<Id>,
    closed: bool,
    /// Why it is closed.
    error: Option<Error>,
    disconnects: u64,
    last_reason: String,
    last_batch: u64,
    next_request: u32,
    /// Requests from this id on are still in `output`: surely not executed.
    unsent: u32,
    /// Frames that the task will write.
    output: BytesMut,
    expected: HashMap<u32, Expected>,
}

impl Default for Calls {
    fn default() -> Self {
        let permits = Arc::new(Semaphore::new(MAX_IN_FLIGHT));
        Self { state: Mutex::default(), queued: Notify::new(), changed: Notify::new(), permits }
    }
}

impl Calls {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Batch ids count up from 1.
    pub(crate) fn next_batch_id(&self) -> u64 {
        let mut state = self.lock();
        state.last_batch += 1;
        state.last_batch
    }

    /// Waits until another call may be in flight.
    pub(crate) async fn permit(&self) -> Result<OwnedSemaphorePermit, Error> {
        self.permits.clone().acquire_owned().await.map_err(|_closed| self.lock().closed())
    }

    /// Waits until there is a connection. Returns the session epoch, and the server's
    /// instance ID. As long as the epoch is the same, the server remembers what this
    /// client sent before.
    pub(crate) async fn server(&self) -> Result<(u64, Id), Error> {
        loop {
            let mut changed = pin!(self.changed.notified());
            {
                let state = self.lock();
                if state.closed {
                    return Err(state.closed());
                }
                if let Some(server) = &state.server {
                    return Ok((state.session_epoch, server.instance_id));
                }
                // Before the lock is released, so that no change is missed.
                changed.as_mut().enable();
            }
            changed.await;
        }
    }

    /// Queues a request if there is a connection in that session epoch.
    pub(crate) fn submit(
        &self,
        session_epoch: u64,
        permit: OwnedSemaphorePermit,
        kind: u16,
        updates: Option<mpsc::Sender<Update>>,
        put: impl FnOnce(&mut BytesMut),
    ) -> Result<oneshot::Receiver<Outcome>, NotQueued> {
        let (sender, outcome) = oneshot::channel();
        let mut state = self.lock();
        let limit = match &state.server {
            Some(server) if state.session_epoch == session_epoch && !state.closed => server.max_payload,
            _ => return Err(NotQueued::Disconnected(permit)),
        };
        let before = state.output.len();
        let id = state.put(kind, Expected::Call { outcome: sender, updates, permit }, put);
        if state.output.len() - before > HEADER + limit as usize {
            state.output.truncate(before);
            state.expected.remove(&id);
            return Err(NotQueued::TooLarge(limit));
        }
        drop(state);
        self.queued.notify_one();
        Ok(outcome)
    }

    /// Nobody wants that watch any more.
    pub(crate) fn cancel(&self, request_id: u32) {
        self.lock().cancel(request_id);
        self.queued.notify_one();
    }

    /// No more calls. `error` is the reason, unless the client itself closed.
    pub(crate) fn close(&self, error: Option<Error>) {
        let mut state = self.lock();
        state.closed = true;
        state.error = error;
        drop(state);
        self.permits.close();
        self.changed.notify_waiters();
    }

    /// How many connections have ended.
    pub(crate) fn disconnects(&self) -> u64 {
        self.lock().disconnects
    }

    /// Waits until more connections have ended than that; returns why the last one did.
    pub(crate) async fn disconnected_since(&self, disconnects: u64) -> String {
        loop {
            let mut changed = pin!(self.changed.notified());
            {
                let state = self.lock();
                if state.disconnects > disconnects {
                    return state.last_reason.clone();
                }
                changed.as_mut().enable(); // As in `server`.
            }
            changed.await;
        }
    }

    /// Queues a `PING` for whose answer nobody waits.
    pub(crate) fn put_heartbeat(&self) {
        self.lock().put(kind::PING, Expected::Nobody, |_payload| {});
    }

    /// Moves what is queued into `writing`, which is empty.
    pub(crate) fn take_output(&self, writing: &mut BytesMut) {
        let mut state = self.lock();
        if !state.output.is_empty() {
            writing.clear();
            std::mem::swap(writing, &mut state.output);
            state.unsent = state.next_request;
        }
    }

    /// Handles the whole frames that have arrived. Returns whether there was one.
    pub(crate) fn handle_frames(&self, input: &mut FrameBuffer) -> Result<bool, DisconnectReason> {
        let mut state = self.lock();
        let mut handled = false;
        while let Some(frame) = input.next_frame().map_err(|_bad| DisconnectReason::ProtocolError)? {
            state.handle_frame(&frame)?;
            handled = true;
        }
        Ok(handled)
    }

    /// Lets calls be sent to that server.
    pub(crate) fn on_connect(&self, server: Welcome) {
        let mut state = self.lock();
        if state.instance_id != Some(server.instance_id) || !server.remembered {
            state.session_epoch += 1;
        }
        state.instance_id = Some(server.instance_id);
        state.server = Some(server);
        drop(state);
        self.changed.notify_waiters();
    }

    /// Tells all that wait for an answer that none will come.
    pub(crate) fn on_disconnect(&self, reason: &DisconnectReason) {
        let mut state = self.lock();
        state.server = None;
        state.disconnects += 1;
        state.last_reason = reason.to_string();
        self.changed.notify_waiters();
        state.output.clear();
        let queued = state.next_request.wrapping_sub(state.unsent);
        let unsent = state.unsent;
        for (id, expected) in state.expected.drain() {
            if let Expected::Call { outcome, permit, .. } = expected {
                let never_sent = id.wrapping_sub(unsent) < queued;
                // Before its GOODBYE the server answers all that it has executed.
                let safe = never_sent || matches!(reason, DisconnectReason::Goodbye);
                let _ =
                    outcome.send(if safe { Outcome::NotExecuted(permit) } else { Outcome::Unknown(permit) });
            }
        }
    }
}

impl State {
    /// The error of a call after the end.
    fn closed(&self) -> Error {
        match &self.error {
            Some(Error::Refused(refusal)) => Error::Refused(refusal.clone()),
            Some(Error::Protocol(text)) => Error::Protocol(text.clone()),
            _ => Error::NotExecuted("the client is closed"),
        }
    }

    fn put(&mut self, kind: u16, expected: Expected, put: impl FnOnce(&mut BytesMut)) -> u32 {
        let mut id = self.next_request;
        while id == 0 || self.expected.contains_key(&id) {
            id = id.wrapping_add(1); // Long running watches keep theirs.
        }
        self.next_request = id.wrapping_add(1);
        self.expected.insert(id, expected);
        put_frame(&mut self.output, kind, 0, id, put);
        id
    }

    fn cancel(&mut self, request_id: u32) {
        if let Some(expected @ Expected::Updates { .. }) = self.expected.get_mut(&request_id) {
            *expected = Expected::Nobody;
            put_frame(&mut self.output, kind::CANCEL, 0, request_id, |_payload| {});
        }
    }

    fn handle_frame(&mut self, frame: &Frame<'_>) -> Result<(), DisconnectReason> {
        let id = frame.request_id;
        let known = if frame.kind == kind::READING { FLAG_END } else { 0 };
        if frame.flags & CRITICAL_FLAGS & !known != 0 {
            return Ok(()); // It would mean something else than what it looks like.
        }
        match frame.kind {
            kind::GOODBYE if id == 0 && frame.payload.is_empty() => Err(DisconnectReason::Goodbye),
            kind::READING => self.reading(frame),
            kind::ERROR => {
                let refusal = Refusal::parse(frame.payload).ok_or(DisconnectReason::ProtocolError)?;
                if id == 0 {
                    return Err(DisconnectReason::Refused(refusal));
                }
                self.answer(id, Outcome::Refused(refusal));
                Ok(())
            }
            kind::RECORDED => {
                let accepted =
                    <[u8; 4]>::try_from(frame.payload).map_err(|_| DisconnectReason::ProtocolError)?;
                self.answer(id, Outcome::Done(u32::from_be_bytes(accepted)));
                Ok(())
            }
            kind::PONG => {
                self.answer(id, Outcome::Done(0));
                Ok(())
            }
            // What a newer server adds, an older client need not understand.
            _ => Ok(()),
        }
    }

    fn answer(&mut self, id: u32, outcome: Outcome) {
        if let Some(Expected::Call { outcome: sender, .. }) = self.expected.remove(&id) {
            let _ = sender.send(outcome); // Its caller may have given up.
        }
    }

    fn reading(&mut self, frame: &Frame<'_>) -> Result<(), DisconnectReason> {
        let id = frame.request_id;
        let mut update = Update::parse(frame.payload).ok_or(DisconnectReason::ProtocolError)?;
        let wanted = match self.expected.remove(&id) {
            Some(Expected::Call { outcome, updates: Some(updates), .. }) => {
                let wanted = outcome.send(Outcome::Done(id)).is_ok();
                self.expected.insert(id, Expected::Updates { updates, skipped: 0 });
                wanted
            }
            Some(Expected::Updates { updates, mut skipped }) => {
                // Never waits for one watcher: all other answers would wait with it.
                update.skipped += skipped;
                skipped = 0;
                let empty = update.skipped == 0 && update.readings.is_empty();
                let sent = if empty { Ok(()) } else { updates.try_send(update) };
                if let Err(mpsc::error::TrySendError::Full(update)) = &sent {
                    skipped = update.skipped + update.readings.len() as u64;
                }
                self.expected.insert(id, Expected::Updates { updates, skipped });
                !matches!(sent, Err(mpsc::error::TrySendError::Closed(_)))
            }
            Some(other) => {
                self.expected.insert(id, other);
                true
            }
            None => true,
        };
        if frame.flags & FLAG_END != 0 {
            self.expected.remove(&id);
        } else if !wanted {
            self.cancel(id);
        }
        Ok(())
    }
}
