//! The client's connection: one task that writes what is queued, hands out what
//! comes back, sends heartbeats and connects again.

use std::collections::HashMap;
use std::io;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBuilder};
use bytes::{Buf, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::select;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

use crate::client::{CONNECT_TIMEOUT, Error, MAX_IN_FLIGHT};
use crate::frame::{CRITICAL_FLAGS, FLAG_END, Frame, FrameBuffer, HEADER, kind, put_frame};
use crate::handshake::{Hello, Id, VERSION, WELCOME, Welcome, random_id};
use crate::message::{Refusal, Update};

/// Most bytes in the payload of a frame from the server: `PROTOCOL.md`, section 9.
const MAX_ANSWER: u32 = 64 * 1024;

/// Waits between attempts to connect again: from the first to the second of
/// these, doubling, and each with a random part, so that the clients of a server
/// that was restarted do not all come in the same moment.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(5));

/// Bound on the orderly end of a connection.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

const CLOSED: Error = Error::NotExecuted("the client is closed");

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
    queued: Notify,
    /// Rung when the connection is up again, or never will be.
    changed: Notify,
    places: Arc<Semaphore>,
}

#[derive(Default)]
struct State {
    /// What the server said, while there is a connection.
    server: Option<Welcome>,
    closed: bool,
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
        self.places.clone().acquire_owned().await.map_err(|_closed| CLOSED)
    }

    /// Waits until there is a connection; returns the server's boot id.
    pub(crate) async fn server(&self) -> Result<Id, Error> {
        loop {
            let mut changed = pin!(self.changed.notified());
            {
                let state = self.lock();
                if state.closed {
                    return Err(CLOSED);
                }
                if let Some(server) = &state.server {
                    return Ok(server.boot_id);
                }
                // Before the lock is released, so that no change is missed.
                changed.as_mut().enable();
            }
            changed.await;
        }
    }

    /// Queues a request, if the connection is to the server with that boot id.
    pub(crate) fn submit(
        &self,
        boot_id: Id,
        place: OwnedSemaphorePermit,
        kind: u16,
        updates: Option<mpsc::Sender<Update>>,
        put: impl FnOnce(&mut BytesMut),
    ) -> Result<oneshot::Receiver<Answer>, NotQueued> {
        let (sender, answer) = oneshot::channel();
        let mut state = self.lock();
        let limit = match &state.server {
            Some(server) if server.boot_id == boot_id && !state.closed => server.max_payload,
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

    /// No more calls.
    pub(crate) fn close(&self) {
        self.lock().closed = true;
        self.places.close();
        self.changed.notify_waiters();
    }

    /// Moves what is queued into `writing`, which is empty.
    fn take_output(&self, writing: &mut BytesMut) {
        let mut state = self.lock();
        if !state.output.is_empty() {
            writing.clear();
            std::mem::swap(writing, &mut state.output);
            state.unsent = state.next_request;
        }
    }

    /// Takes up the whole frames that have arrived.
    fn take_up(&self, input: &mut FrameBuffer) -> Result<(), Fall> {
        let mut state = self.lock();
        while let Some(frame) = input.next_frame().map_err(|_bad| Fall::Nonsense)? {
            state.take_up(&frame)?;
        }
        Ok(())
    }

    fn risen(&self, server: Welcome) {
        self.lock().server = Some(server);
        self.changed.notify_waiters();
    }

    /// Tells everybody who waits for an answer that none will come.
    fn fallen(&self, fall: &Fall) {
        let mut state = self.lock();
        state.server = None;
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
        if let Some(expected) = self.expected.get_mut(&request_id)
            && !matches!(expected, Expected::Nobody)
        {
            *expected = Expected::Nobody;
            put_frame(&mut self.output, kind::CANCEL, 0, request_id, |_payload| {});
        }
    }

    fn take_up(&mut self, frame: &Frame<'_>) -> Result<(), Fall> {
        let id = frame.request_id;
        if frame.flags & CRITICAL_FLAGS & !FLAG_END != 0 {
            return Ok(()); // It would mean something else than what it looks like.
        }
        match frame.kind {
            kind::GOODBYE => Err(Fall::Goodbye),
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

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
enum Fall {
    #[error("the server said goodbye")]
    Goodbye,
    #[error("the server ended it: {0}")]
    Refused(Refusal),
    #[error("{0}")]
    Broken(#[from] io::Error),
    #[error("the server has fallen silent")]
    Silence,
    #[error("what came is not of this protocol")]
    Nonsense,
    #[error("closed")]
    Left,
}

/// A connection after its handshake.
pub(crate) struct Link {
    stream: TcpStream,
    input: FrameBuffer,
    /// Taken from the queue and not yet written.
    writing: BytesMut,
    welcome: Welcome,
}

/// How to connect.
pub(crate) struct Dial {
    addr: String,
    hello: Hello,
}

impl Dial {
    pub(crate) fn new(addr: &str) -> Result<Self, Error> {
        let addr = addr.strip_prefix("tcp://").unwrap_or(addr).trim_end_matches('/').to_owned();
        let client_id = random_id().map_err(|source| Error::Unreachable { addr: addr.clone(), source })?;
        Ok(Self { addr, hello: Hello { lowest: VERSION, highest: VERSION, client_id } })
    }

    /// Connects and shakes hands, within [`CONNECT_TIMEOUT`].
    pub(crate) async fn connect(&self) -> Result<Link, Error> {
        let unreachable = |source| Error::Unreachable { addr: self.addr.clone(), source };
        match timeout(CONNECT_TIMEOUT, self.shake_hands(unreachable)).await {
            Ok(link) => link,
            Err(_elapsed) => Err(unreachable(io::ErrorKind::TimedOut.into())),
        }
    }

    async fn shake_hands(&self, unreachable: impl Fn(io::Error) -> Error) -> Result<Link, Error> {
        let mut stream = TcpStream::connect(&self.addr).await.map_err(&unreachable)?;
        // Without it a request would wait for the acknowledgement of the one before.
        stream.set_nodelay(true).map_err(&unreachable)?;
        // A server that is full may have said so and closed already: read anyway.
        let _ = stream.write_all(&self.hello.encode()).await;
        let mut bytes = [0; WELCOME];
        stream.read_exact(&mut bytes).await.map_err(&unreachable)?;
        let welcome =
            Welcome::decode(&bytes).ok_or_else(|| Error::Protocol("it does not answer WELCOME".into()))?;
        let mut input = FrameBuffer::new(MAX_ANSWER);
        match welcome.version {
            VERSION => Ok(Link { stream, input, writing: BytesMut::new(), welcome }),
            0 => loop {
                let frame = input.next_frame().map_err(|bad| Error::Protocol(bad.to_string()))?;
                if let Some(refusal) = frame.and_then(|frame| Refusal::parse(frame.payload)) {
                    return Err(Error::Refused(refusal));
                }
                if input.read_from(&mut stream).await.map_err(&unreachable)? == 0 {
                    return Err(Error::Protocol("it refuses and does not say why".into()));
                }
            },
            other => Err(Error::Protocol(format!("it chose version {other}"))),
        }
    }
}

/// Keeps a connection until the client is closed.
pub(crate) async fn maintain(shared: Arc<Shared>, dial: Dial, first: Link, closing: CancellationToken) {
    let mut link = first;
    loop {
        shared.risen(link.welcome);
        let fall = drive(&shared, &mut link, &closing).await;
        shared.fallen(&fall);
        drop(link);
        if closing.is_cancelled() {
            break;
        }
        info!("connection lost: {fall}; connecting again");
        // Cancel safe: an attempt that is dropped leaves nothing behind.
        match closing.run_until_cancelled(connect_again(&dial)).await {
            Some(again) => link = again,
            None => break,
        }
    }
    shared.close();
}

async fn connect_again(dial: &Dial) -> Link {
    let waits = ExponentialBuilder::default().with_min_delay(BACKOFF.0).with_max_delay(BACKOFF.1);
    for wait in waits.with_factor(2.0).with_jitter().without_max_times().build() {
        sleep(wait).await;
        match dial.connect().await {
            Ok(link) => return link,
            Err(error) => debug!("connect: {error}"),
        }
    }
    std::future::pending().await // Never reached: the waits do not end.
}

/// One connection until it falls.
async fn drive(shared: &Shared, link: &mut Link, closing: &CancellationToken) -> Fall {
    match exchange(shared, link, closing).await {
        Ok(()) => {
            let _ = timeout(CLOSE_TIMEOUT, leave(shared, link)).await;
            Fall::Left
        }
        Err(fall) => fall,
    }
}

/// Writes and reads until `closing`.
async fn exchange(shared: &Shared, link: &mut Link, closing: &CancellationToken) -> Result<(), Fall> {
    let Link { stream, input, writing, welcome } = link;
    let (mut reader, writer) = stream.split();
    let silence = Duration::from_millis(welcome.idle_timeout.into());
    let beat = (silence / 3).max(Duration::from_millis(10));
    let mut heard = Instant::now();
    let mut heartbeat = pin!(sleep(beat));
    let mut closing = pin!(closing.cancelled());
    loop {
        if !writing.has_remaining() {
            shared.take_output(writing);
        }
        while writing.has_remaining() {
            match writer.try_write(writing) {
                Ok(count) => writing.advance(count),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error.into()),
            }
        }
        // Cancel safe: `read_from` keeps what it has read, a ring that is not
        // waited for is kept, the others only tell of a state.
        select! {
            count = input.read_from(&mut reader) => {
                if count? == 0 {
                    return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
                }
                heard = Instant::now();
                shared.take_up(input)?;
            }
            ready = writer.writable(), if writing.has_remaining() => ready?,
            () = shared.queued.notified(), if !writing.has_remaining() => {}
            () = &mut heartbeat => {
                if heard.elapsed() > silence {
                    return Err(Fall::Silence);
                }
                shared.lock().put(kind::PING, Expected::Nobody, |_payload| {});
                heartbeat.as_mut().reset(Instant::now() + beat);
            }
            () = &mut closing => return Ok(()),
        }
    }
}

/// The orderly end: what is queued, `GOODBYE`, and reading until the server's.
async fn leave(shared: &Shared, link: &mut Link) -> Result<(), Fall> {
    link.stream.write_all(&link.writing).await?;
    link.writing.clear();
    shared.take_output(&mut link.writing);
    put_frame(&mut link.writing, kind::GOODBYE, 0, 0, |_payload| {});
    link.stream.write_all(&link.writing).await?;
    while link.input.read_from(&mut link.stream).await? > 0 {
        shared.take_up(&mut link.input)?;
    }
    Ok(())
}
