//! Which calls wait for which answers: what the clones of a client share with the
//! task of their connection.

use std::collections::HashMap;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::BytesMut;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

use crate::client::{Error, MAX_IN_FLIGHT};
use crate::frame::{CRITICAL_FLAGS, FLAG_END, Frame, HEADER, kind, put_frame};
use crate::frame_buffer::FrameBuffer;
use crate::handshake::{Id, Welcome};
use crate::link::Fall;
use crate::message::{Refusal, Update};

/// What came of a request.
#[derive(Debug)]
pub(crate) enum Answer {
    /// It was done. The number of accepted readings, or a watch's request id.
    Done(u32),
    /// An `ERROR` answered it.
    Refused(Refusal),
    /// The connection fell before the server could execute it. Here is the place
    /// back, for another attempt.
    NotExecuted(OwnedSemaphorePermit),
    /// The connection fell. Here is the place back.
    Unknown(OwnedSemaphorePermit),
}

/// Why a request was not queued.
pub(crate) enum NotQueued {
    /// The connection is not to that server any more. Here is the place back.
    Fallen(OwnedSemaphorePermit),
    /// The server takes payloads of up to so many bytes.
    TooLarge(u32),
}

/// Who waits for the frames with some request id.
enum Expected {
    /// A call. It keeps its place until it is answered, even if it was given up.
    Answer {
        answer: oneshot::Sender<Answer>,
        /// Of a `WATCH`: where what follows the first answer goes.
        updates: Option<mpsc::Sender<Update>>,
        place: OwnedSemaphorePermit,
    },
    /// A watch that is open.
    Updates { updates: mpsc::Sender<Update>, skipped: u64 },
    /// Nobody: a heartbeat, or what remains of a cancelled watch.
    Nobody,
}

/// What the clones of a client share with the task of their connection.
pub(crate) struct Shared {
    state: Mutex<State>,
    /// Rung when something is queued.
    pub(crate) queued: Notify,
    /// Rung when the connection is lost, is up again, or never will be.
    changed: Notify,
    places: Arc<Semaphore>,
}

#[derive(Default)]
struct State {
    /// What the server said, while there is a connection.
    server: Option<Welcome>,
    /// Counts what the server's memory of this client ends with: its restarts, and
    /// when it has forgotten the client.
    memory: u64,
    /// The boot id of the last server.
    boot_id: Option<Id>,
    closed: bool,
    /// Why it is closed.
    error: Option<Error>,
    falls: u64,
    last_fall: String,
    last_batch: u64,
    next_request: u32,
    /// Requests from this id on are still in `output`: surely not executed.
    unsent: u32,
    /// Frames that the task will write.
    output: BytesMut,
    expected: HashMap<u32, Expected>,
}

impl Default for Shared {
    fn default() -> Self {
        let places = Arc::new(Semaphore::new(MAX_IN_FLIGHT));
        Self { state: Mutex::default(), queued: Notify::new(), changed: Notify::new(), places }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Batch ids count up from 1.
    pub(crate) fn next_batch_id(&self) -> u64 {
        let mut state = self.lock();
        state.last_batch += 1;
        state.last_batch
    }

    /// Waits for one of the places in flight.
    pub(crate) async fn place(&self) -> Result<OwnedSemaphorePermit, Error> {
        self.places.clone().acquire_owned().await.map_err(|_closed| self.lock().closed())
    }

    /// Waits until there is a connection; returns which memory the server has of
    /// this client: if it is the same as before, what was sent before is in it. And
    /// the server's boot id.
    pub(crate) async fn server(&self) -> Result<(u64, Id), Error> {
        loop {
            let mut changed = pin!(self.changed.notified());
            {
                let state = self.lock();
                if state.closed {
                    return Err(state.closed());
                }
                if let Some(server) = &state.server {
                    return Ok((state.memory, server.boot_id));
                }
                // Before the lock is released, so that no change is missed.
                changed.as_mut().enable();
            }
            changed.await;
        }
    }

    /// Queues a request, if there is a connection, to a server with that memory.
    pub(crate) fn submit(
        &self,
        memory: u64,
        place: OwnedSemaphorePermit,
        kind: u16,
        updates: Option<mpsc::Sender<Update>>,
        put: impl FnOnce(&mut BytesMut),
    ) -> Result<oneshot::Receiver<Answer>, NotQueued> {
        let (sender, answer) = oneshot::channel();
        let mut state = self.lock();
        let limit = match &state.server {
            Some(server) if state.memory == memory && !state.closed => server.max_payload,
            _ => return Err(NotQueued::Fallen(place)),
        };
        let before = state.output.len();
        let id = state.put(kind, Expected::Answer { answer: sender, updates, place }, put);
        if state.output.len() - before > HEADER + limit as usize {
            state.output.truncate(before);
            state.expected.remove(&id);
            return Err(NotQueued::TooLarge(limit));
        }
        drop(state);
        self.queued.notify_one();
        Ok(answer)
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
        self.places.close();
        self.changed.notify_waiters();
    }

    /// How many connections have ended.
    pub(crate) fn falls(&self) -> u64 {
        self.lock().falls
    }

    /// Waits until more connections have ended than that; returns why the last one did.
    pub(crate) async fn fallen_since(&self, falls: u64) -> String {
        loop {
            let mut changed = pin!(self.changed.notified());
            {
                let state = self.lock();
                if state.falls > falls {
                    return state.last_fall.clone();
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

    /// Takes up the whole frames that have arrived.
    /// Returns whether there was one.
    pub(crate) fn take_up(&self, input: &mut FrameBuffer) -> Result<bool, Fall> {
        let mut state = self.lock();
        let mut taken = false;
        while let Some(frame) = input.next_frame().map_err(|_bad| Fall::Nonsense)? {
            state.take_up(&frame)?;
            taken = true;
        }
        Ok(taken)
    }

    /// Calls may be sent to that server.
    pub(crate) fn risen(&self, server: Welcome) {
        let mut state = self.lock();
        if state.boot_id != Some(server.boot_id) || !server.remembered {
            state.memory += 1;
        }
        state.boot_id = Some(server.boot_id);
        state.server = Some(server);
        drop(state);
        self.changed.notify_waiters();
    }

    /// Tells everybody who waits for an answer that none will come.
    pub(crate) fn fallen(&self, fall: &Fall) {
        let mut state = self.lock();
        state.server = None;
        state.falls += 1;
        state.last_fall = fall.to_string();
        self.changed.notify_waiters();
        state.output.clear();
        let queued = state.next_request.wrapping_sub(state.unsent);
        let unsent = state.unsent;
        for (id, expected) in state.expected.drain() {
            if let Expected::Answer { answer, place, .. } = expected {
                let never_sent = id.wrapping_sub(unsent) < queued;
                // Before its GOODBYE the server answers all that it has executed.
                let safe = never_sent || matches!(fall, Fall::Goodbye);
                let _ = answer.send(if safe { Answer::NotExecuted(place) } else { Answer::Unknown(place) });
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

    fn take_up(&mut self, frame: &Frame<'_>) -> Result<(), Fall> {
        let id = frame.request_id;
        let known = if frame.kind == kind::READING { FLAG_END } else { 0 };
        if frame.flags & CRITICAL_FLAGS & !known != 0 {
            return Ok(()); // It would mean something else than what it looks like.
        }
        match frame.kind {
            kind::GOODBYE if id == 0 && frame.payload.is_empty() => Err(Fall::Goodbye),
            kind::READING => self.reading(frame),
            kind::ERROR => {
                let refusal = Refusal::parse(frame.payload).ok_or(Fall::Nonsense)?;
                if id == 0 {
                    return Err(Fall::Refused(refusal));
                }
                self.answer(id, Answer::Refused(refusal));
                Ok(())
            }
            kind::RECORDED => {
                let accepted = <[u8; 4]>::try_from(frame.payload).map_err(|_| Fall::Nonsense)?;
                self.answer(id, Answer::Done(u32::from_be_bytes(accepted)));
                Ok(())
            }
            kind::PONG => {
                self.answer(id, Answer::Done(0));
                Ok(())
            }
            // What a newer server adds, an older client need not understand.
            _ => Ok(()),
        }
    }

    fn answer(&mut self, id: u32, answer: Answer) {
        if let Some(Expected::Answer { answer: sender, .. }) = self.expected.remove(&id) {
            let _ = sender.send(answer); // Its caller may have given up.
        }
    }

    fn reading(&mut self, frame: &Frame<'_>) -> Result<(), Fall> {
        let id = frame.request_id;
        let mut update = Update::parse(frame.payload).ok_or(Fall::Nonsense)?;
        let wanted = match self.expected.remove(&id) {
            Some(Expected::Answer { answer, updates: Some(updates), .. }) => {
                let wanted = answer.send(Answer::Done(id)).is_ok();
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
