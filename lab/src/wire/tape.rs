//! What passed through a proxy, in order.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

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
pub struct Tape(Mutex<Kept>);

#[derive(Default)]
struct Kept {
    events: VecDeque<Event>,
    bytes: usize,
    dropped: u64,
}

/// Memory that an event takes besides its bytes.
const EVENT: usize = size_of::<Event>();

impl Tape {
    /// Adds an event.
    pub fn push(&self, connection: u32, from: Side, what: What) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let event = Event { at: Instant::now(), connection, from, what };
        kept.bytes += size(&event);
        kept.events.push_back(event);
        while kept.bytes > MAX_KEPT
            && let Some(oldest) = kept.events.pop_front()
        {
            kept.bytes -= size(&oldest);
            kept.dropped += 1;
        }
    }

    /// Returns all events, and how many older ones were dropped.
    pub fn events(&self) -> (Vec<Event>, u64) {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
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
