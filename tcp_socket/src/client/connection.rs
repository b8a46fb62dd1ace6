//! The task of a client: it owns the connection and the calls in flight, and it reconnects
//! when the connection is lost.

use std::collections::BTreeMap;
use std::io;
use std::pin::{Pin, pin};
use std::time::Duration;

use bytes::BytesMut;
use futures::FutureExt;
use tokio::io::{AsyncWriteExt, split};
use tokio::select;
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot, watch};
use tokio::time::{Instant, Sleep, sleep, timeout};
use tracing::debug;

use crate::base::retry::Pauses;
use crate::client::connector::{Connection, Connector};
use crate::client::error::{DisconnectReason, Error};
use crate::limits::{CALL_TIMEOUT, CLOSE_TIMEOUT, MAX_PAUSE, MIN_FRAME_RATE, MIN_PAUSE};
use crate::protocol::frame::{
    CRITICAL_FLAGS, FLAG_END, Frame, FrameBuffer, HEADER, kind, put_frame, write_out,
};
use crate::protocol::handshake::{Id, Welcome};
use crate::protocol::message::{Refusal, Update};
use crate::protocol::pace::Pace;

/// What the clones of a client send to the task.
pub(crate) enum Command {
    Call(Call),
    /// The watch with this request ID was dropped.
    Cancel(u32),
    Close,
}

/// A request. The task keeps it until it is answered, even if its caller has given up.
pub(crate) struct Call {
    pub(crate) kind: u16,
    pub(crate) payload: BytesMut,
    pub(crate) deadline: Instant,
    /// Receives the number of accepted readings or a watch's request ID; `None` after that.
    pub(crate) outcome: Option<oneshot::Sender<Result<u32, Error>>>,
    /// For a `WATCH`: where its readings go.
    pub(crate) updates: Option<Updates>,
    /// Whether it was sent on this connection.
    pub(crate) sent: bool,
    /// Whether it may have been executed on an earlier connection.
    pub(crate) maybe_executed: bool,
    pub(crate) _permit: OwnedSemaphorePermit,
}

pub(crate) type Updates = mpsc::Sender<Result<Update, Error>>;

/// The server's instance ID while there is a connection, or an error after the task has ended.
pub(crate) type Status = Option<Result<Id, Error>>;

impl Call {
    /// Sends the outcome to the caller, if it is still waiting.
    fn end(&mut self, outcome: Result<u32, Error>) {
        if let Some(caller) = self.outcome.take() {
            let _ = caller.send(outcome);
        }
    }
}

/// The state of the task.
pub(crate) struct Task {
    commands: mpsc::UnboundedReceiver<Command>,
    status: watch::Sender<Status>,
    calls: BTreeMap<u32, Call>,
    /// The open watches, with the number of readings that each has skipped.
    watches: BTreeMap<u32, (Updates, u64)>,
    last_id: u32,
    /// Whether there may be calls that have not been sent.
    has_unsent: bool,
    /// Frames that have not been written yet.
    output: BytesMut,
    /// Fires at the next deadline of a call or the next heartbeat, or earlier.
    timer: Pin<Box<Sleep>>,
}

impl Task {
    pub(crate) fn new(commands: mpsc::UnboundedReceiver<Command>, status: watch::Sender<Status>) -> Self {
        Self {
            commands,
            status,
            calls: BTreeMap::new(),
            watches: BTreeMap::new(),
            last_id: 0,
            has_unsent: false,
            output: BytesMut::new(),
            timer: Box::pin(sleep(CALL_TIMEOUT)),
        }
    }

    /// Keeps the client connected until it is closed.
    pub(crate) async fn run(mut self, connector: Connector, mut connection: Connection) {
        let mut pauses = Pauses::new(MIN_PAUSE, MAX_PAUSE);
        let mut last_instance = None;
        let error = loop {
            let Welcome { instance_id, remembered, .. } = connection.welcome;
            if last_instance.replace(instance_id) != Some(instance_id) || !remembered {
                self.end_batches("the server was restarted, or has forgotten this client");
            }
            self.status.send_replace(Some(Ok(instance_id)));
            let lost = self.exchange(&mut connection).await;
            let reason = lost.err().unwrap_or(DisconnectReason::ClosedByUs);
            self.on_disconnect(&reason);
            if matches!(reason, DisconnectReason::ClosedByUs) {
                break Error::NotExecuted("the client is closed");
            }
            debug!("connection lost: {reason}; reconnecting");
            if connection.useful {
                pauses.reset();
            }
            drop(connection);
            match self.wait_for(connector.reconnect(&mut pauses)).await {
                Ok(next) => connection = next,
                Err(error) => break error,
            }
        };
        self.end_batches("the client stopped before the response arrived");
        // The other calls end when the task drops them.
        self.status.send_replace(Some(Err(error)));
    }

    /// Waits for the next connection and collects calls in the meantime. An error means that
    /// the client stops for good.
    async fn wait_for<C>(&mut self, next: impl Future<Output = Result<C, Error>>) -> Result<C, Error> {
        let mut next = pin!(next);
        loop {
            // Cancel safe: a command that `recv` has not returned stays in the channel, and the
            // other futures are polled again in the next round.
            select! {
                next = &mut next => return next,
                command = self.commands.recv() => if !self.handle_commands(command) {
                    return Err(Error::NotExecuted("the client is closed"));
                },
                () = &mut self.timer => self.expire(),
            }
        }
    }

    /// Writes and reads until the client is closed. An error says why the connection was lost.
    async fn exchange(&mut self, connection: &mut Connection) -> Result<(), DisconnectReason> {
        let Connection { stream, input, welcome, useful } = connection;
        let (mut reader, mut writer) = split(stream);
        let silence = Duration::from_millis(welcome.idle_timeout.into());
        let interval = (silence / 3).max(Duration::from_millis(10));
        let mut pace = Pace::new(silence, silence, MIN_FRAME_RATE);
        // Number of bytes that are being written.
        let mut writing = 0;
        // Number of bytes written since the last byte arrived, up to one largest frame. The
        // server may respond only when it has the whole frame, so the client waits longer for
        // a response to it.
        let mut unconfirmed = 0;
        let mut heartbeat = Instant::now() + interval;
        loop {
            if writing == 0 {
                self.put_requests(welcome.max_payload);
                writing = self.output.len();
            }
            // Usually, the socket has room, and the write completes at once.
            if writing > 0
                && let Some(written) = write_out(&mut writer, &mut self.output).now_or_never()
            {
                written?;
                unconfirmed = (unconfirmed + writing).min(HEADER + welcome.max_payload as usize);
                writing = 0;
            }
            self.wake_by(heartbeat);
            // Cancel safe: no byte or command is lost, since `write_out` and `read_from` keep
            // them in their buffers and `recv` in its channel. The timer is polled again.
            select! {
                written = write_out(&mut writer, &mut self.output), if writing > 0 => {
                    written?; // Counted in the next round.
                }
                count = input.read_from(&mut reader) => {
                    if count? == 0 {
                        return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
                    }
                    pace.on_bytes();
                    unconfirmed = 0;
                    let handled = self.handle_frames(input)?;
                    *useful |= handled;
                    pace.on_frames(handled, input.rest().len());
                }
                command = self.commands.recv() => if !self.handle_commands(command) {
                    break;
                },
                () = &mut self.timer => {
                    self.expire();
                    let now = Instant::now();
                    if pace.slow().is_some_and(|slow| now >= slow) {
                        return Err(DisconnectReason::Slow);
                    }
                    let sending = unconfirmed as u64 * 1000 / u64::from(MIN_FRAME_RATE);
                    let silent = pace.deadline() + Duration::from_millis(sending);
                    if writing > 0 {
                        pace.on_bytes(); // If the server does not read, the write times out.
                    } else if now >= silent {
                        return Err(DisconnectReason::Silence);
                    } else {
                        self.wake_by(silent); // It comes before the next heartbeat.
                    }
                    if now < heartbeat {
                        continue;
                    }
                    let id = self.next_id();
                    put_frame(&mut self.output, kind::PING, 0, id, |_payload| {});
                    heartbeat = now + interval;
                }
            }
        }
        let _ = timeout(CLOSE_TIMEOUT, self.close_gracefully(connection)).await;
        Ok(())
    }

    /// Sends the remaining requests and `GOODBYE`, then reads until the server closes.
    async fn close_gracefully(&mut self, connection: &mut Connection) -> Result<(), DisconnectReason> {
        self.put_requests(connection.welcome.max_payload);
        put_frame(&mut self.output, kind::GOODBYE, 0, 0, |_payload| {});
        write_out(&mut connection.stream, &mut self.output).await?;
        while connection.input.read_from(&mut connection.stream).await? > 0 {
            self.handle_frames(&mut connection.input)?;
        }
        Ok(connection.stream.shutdown().await?)
    }

    /// Handles the waiting commands. Returns whether the client is still open.
    fn handle_commands(&mut self, mut next: Option<Command>) -> bool {
        while let Some(command) = next {
            match command {
                Command::Call(call) => {
                    self.wake_by(call.deadline);
                    let id = self.next_id();
                    self.calls.insert(id, call);
                    self.has_unsent = true;
                }
                Command::Cancel(id) => self.cancel(id),
                Command::Close => return false,
            }
            next = match self.commands.try_recv() {
                Ok(command) => Some(command),
                Err(_none) => return true,
            };
        }
        false // The last clone was dropped.
    }

    fn wake_by(&mut self, time: Instant) {
        if time < self.timer.deadline() {
            self.timer.as_mut().reset(time);
        }
    }

    fn next_id(&mut self) -> u32 {
        loop {
            self.last_id = self.last_id.wrapping_add(1);
            let id = self.last_id;
            if id != 0 && !self.calls.contains_key(&id) && !self.watches.contains_key(&id) {
                return id; // After a wrap, an old watch may still have the same ID.
            }
        }
    }

    /// Appends the frames of the calls that have not been sent.
    fn put_requests(&mut self, max_payload: u32) {
        if !std::mem::take(&mut self.has_unsent) {
            return;
        }
        self.calls.retain(|id, call| {
            if !call.sent && call.payload.len() > max_payload as usize {
                let text = format!("this server accepts payloads of up to {max_payload} bytes");
                call.end(Err(Error::Invalid(text)));
            } else if !call.sent && call.outcome.as_ref().is_some_and(|caller| !caller.is_closed()) {
                put_frame(&mut self.output, call.kind, 0, *id, |into| into.extend_from_slice(&call.payload));
                call.sent = true;
            }
            call.sent
        });
    }

    /// Handles the whole frames that have arrived. Returns whether there was at least one.
    fn handle_frames(&mut self, input: &mut FrameBuffer) -> Result<bool, DisconnectReason> {
        let mut handled = false;
        while let Some(frame) = input.next_frame().map_err(|_bad| DisconnectReason::ProtocolError)? {
            self.handle_frame(&frame)?;
            handled = true;
        }
        Ok(handled)
    }

    fn handle_frame(&mut self, frame: &Frame<'_>) -> Result<(), DisconnectReason> {
        use DisconnectReason::{Goodbye, ProtocolError, Refused};
        let id = frame.request_id;
        let known = if frame.kind == kind::READING { FLAG_END } else { 0 };
        match frame.kind {
            // With an unknown critical flag, the frame may mean something else.
            _ if frame.flags & CRITICAL_FLAGS & !known != 0 => {}
            kind::GOODBYE if id == 0 && frame.payload.is_empty() => return Err(Goodbye),
            kind::READING => self.on_reading(id, Update::parse(frame.payload).ok_or(ProtocolError)?),
            kind::ERROR => match Refusal::parse(frame.payload).ok_or(ProtocolError)? {
                refusal if id == 0 => return Err(Refused(refusal)),
                refusal => self.complete(id, Err(Error::Refused(refusal))),
            },
            kind::RECORDED => {
                let accepted = frame.payload.try_into().map_err(|_length| ProtocolError)?;
                self.complete(id, Ok(u32::from_be_bytes(accepted)));
            }
            kind::PONG => self.complete(id, Ok(0)),
            // A newer server may send kinds that this client does not need to know.
            _ => {}
        }
        Ok(())
    }

    fn complete(&mut self, id: u32, outcome: Result<u32, Error>) {
        if let Some(mut call) = self.calls.remove(&id) {
            call.end(outcome);
        }
    }

    fn on_reading(&mut self, id: u32, mut update: Update) {
        if let Some((updates, skipped)) = self.watches.get_mut(&id) {
            update.skipped += std::mem::take(skipped);
            // Don't wait for a slow watcher: all responses would have to wait with it. One place
            // is reserved for the reason why the watch ends.
            if updates.capacity() <= 1 {
                *skipped = update.skipped + update.readings.len() as u64;
            } else if update != Update::default() {
                let _ = updates.try_send(Ok(update));
            }
        } else if let Some(call) = self.calls.get_mut(&id)
            && let Some(updates) = call.updates.take()
        {
            // The first `READING` only confirms that the watch has begun.
            self.watches.insert(id, (updates, 0));
            self.complete(id, Ok(id));
        }
        // If the caller gave up before it had its watch, nobody else cancels it.
        if self.watches.get(&id).is_some_and(|(updates, _skipped)| updates.is_closed()) {
            self.cancel(id);
        }
    }

    fn cancel(&mut self, watch: u32) {
        if self.watches.remove(&watch).is_some() {
            put_frame(&mut self.output, kind::CANCEL, 0, watch, |_payload| {});
        }
    }

    /// Gives up the calls whose deadline has passed.
    fn expire(&mut self) {
        let now = Instant::now();
        let mut next = now + CALL_TIMEOUT;
        self.calls.retain(|_id, call| {
            if call.deadline <= now {
                call.end(Err(if call.sent || call.maybe_executed {
                    Error::OutcomeUnknown("it was sent, but no response arrived in time")
                } else {
                    Error::NotExecuted("there was no connection in time")
                }));
            } else {
                next = next.min(call.deadline);
            }
            call.sent || call.outcome.is_some()
        });
        self.timer.as_mut().reset(next);
    }

    /// Ends the watches, and keeps the calls for the next connection.
    fn on_disconnect(&mut self, reason: &DisconnectReason) {
        self.status.send_replace(None);
        for (updates, _skipped) in std::mem::take(&mut self.watches).into_values() {
            let _ = updates.try_send(Err(Error::Disconnected(reason.to_string())));
        }
        self.calls.retain(|_id, call| {
            // Before its `GOODBYE`, the server answers every request that it has executed.
            call.maybe_executed |= call.sent && !matches!(reason, DisconnectReason::Goodbye);
            call.sent = false;
            call.outcome.is_some()
        });
        self.has_unsent = true;
        self.output.clear();
    }

    /// Ends the batches that may have been executed and must not be resent.
    fn end_batches(&mut self, reason: &'static str) {
        self.calls.retain(|_id, call| {
            let unknown = call.kind == kind::RECORD && call.maybe_executed;
            if unknown {
                call.end(Err(Error::OutcomeUnknown(reason)));
            }
            !unknown
        });
    }
}
