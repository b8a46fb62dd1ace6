//! What passed through a proxy, in order.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use tokio::sync::Notify;

use super::message::Side;

/// Maximum number of bytes that a tape keeps.
pub const MAX_KEPT: usize = 64 * 1024 * 1024;

/// What happened on a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// The client connected. The ports are those of both ends.
    Open {
        /// The client's port.
        client: u16,
        /// The server's port.
        server: u16,
    },
    /// These bytes arrived at the proxy, which forwarded them.
    Data(Vec<u8>),
    /// The sender ended its direction. The other direction may go on.
    End,
    /// The connection broke, or the proxy could not connect to the server.
    Reset,
    /// Something that did not travel, for example a fault that the proxy made.
    Note(String),
}

/// One thing that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// When it happened.
    pub at: Instant,
    /// The connection, counted from 0.
    pub connection: u32,
    /// The end that caused it.
    pub from: Side,
    /// What happened.
    pub what: What,
}

/// A recording of everything that passed, with a bound: the oldest events are dropped first.
#[derive(Default)]
pub struct Tape {
    kept: Mutex<Kept>,
    /// Notified at each end of a direction.
    ended: Notify,
}

struct Kept {
    events: VecDeque<Event>,
    bytes: usize,
    max_bytes: usize,
    dropped: u64,
    watch: Option<Box<dyn Watch>>,
}

/// Follows what happens while it happens. The proxy waits for it.
pub trait Watch: Send {
    /// Is called after each new event, with all events that are kept. The new one is the last. It may
    /// replace bytes in them, but neither add nor remove any.
    fn event(&mut self, events: &mut VecDeque<Event>);

    /// Nothing more happens on this connection.
    fn closed(&mut self, connection: u32);
}

impl Default for Kept {
    fn default() -> Self {
        Self { events: VecDeque::new(), bytes: 0, max_bytes: MAX_KEPT, dropped: 0, watch: None }
    }
}

impl Kept {
    /// Returns the number of directions that this side has not ended.
    fn open(&self, side: Side) -> usize {
        let count = |is: &dyn Fn(&Event) -> bool| self.events.iter().filter(|event| is(event)).count();
        let opened = count(&|event| matches!(event.what, What::Open { .. }));
        let ended = count(&|event| event.from == side && matches!(event.what, What::End | What::Reset));
        opened.saturating_sub(ended)
    }
}

/// Memory that an event takes besides its bytes.
const EVENT: usize = size_of::<Event>();

impl Tape {
    /// Returns a tape that keeps this many bytes, and passes every event to `watch`.
    pub fn watched(max_bytes: usize, watch: Box<dyn Watch>) -> Self {
        let kept = Kept { max_bytes, watch: Some(watch), ..Kept::default() };
        Self { kept: Mutex::new(kept), ended: Notify::new() }
    }

    /// Adds an event.
    pub fn push(&self, connection: u32, from: Side, what: What) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let ends = matches!(what, What::End | What::Reset);
        let event = Event { at: Instant::now(), connection, from, what };
        kept.bytes += size(&event);
        kept.events.push_back(event);
        let Kept { events, watch, .. } = &mut *kept;
        if let Some(watch) = watch {
            watch.event(events);
        }
        while kept.bytes > kept.max_bytes
            && let Some(oldest) = kept.events.pop_front()
        {
            kept.bytes -= size(&oldest);
            kept.dropped += 1;
        }
        drop(kept);
        if ends {
            self.ended.notify_waiters();
        }
    }

    /// Tells the watch that nothing more happens on a connection.
    pub(super) fn closed(&self, connection: u32) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(watch) = &mut kept.watch {
            watch.closed(connection);
        }
    }

    /// Waits until this side has closed all its connections.
    pub async fn all_closed(&self, side: Side) {
        loop {
            let ended = self.ended.notified();
            let open = self.kept.lock().unwrap_or_else(PoisonError::into_inner).open(side);
            if open == 0 {
                return;
            }
            ended.await;
        }
    }

    /// Returns all events, and how many older ones were dropped.
    pub fn events(&self) -> (Vec<Event>, u64) {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        (kept.events.iter().cloned().collect(), kept.dropped)
    }
}

fn size(event: &Event) -> usize {
    let bytes = match &event.what {
        What::Data(bytes) => bytes.len(),
        What::Note(text) => text.len(),
        _ => 0,
    };
    EVENT + bytes
}
