//! Remembers the replies, so that a batch that is sent twice is recorded once.
//!
//! A client that lost its connection does not know whether its batch was recorded, so it
//! resends the batch under the same ID. As long as this server runs, and within the window
//! below, it then gets the same reply.

use std::collections::VecDeque;
use std::hash::RandomState;
use std::sync::{Arc, Mutex, PoisonError};

use lru::LruCache;

use crate::limits::{CLIENTS_REMEMBERED, MAX_BATCH_JUMP, MAX_FIRST_BATCH, REPLIES_KEPT};
use crate::protocol::handshake::Id;

/// What the window knows about a batch ID.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lookup {
    /// It was recorded, with this many readings.
    Recorded(u32),
    /// It was not recorded.
    New,
    /// It is older than every batch that is remembered.
    TooOld,
    /// It is 0, or too far ahead of the highest one recorded.
    Invalid,
}

/// The replies to the newest batches of one client.
#[derive(Debug, Default)]
pub struct DedupWindow {
    /// The highest batch ID recorded.
    highest: u64,
    /// How many readings were accepted under the IDs `highest`, `highest - 1`, and so on. 0
    /// means not recorded: a recorded batch has at least one reading.
    accepted: VecDeque<u32>,
}

impl DedupWindow {
    /// Returns what is known about a batch.
    pub fn look_up(&self, batch_id: u64) -> Lookup {
        let most = match self.highest {
            0 => MAX_FIRST_BATCH,
            highest => highest.saturating_add(MAX_BATCH_JUMP),
        };
        if batch_id == 0 || batch_id > most {
            return Lookup::Invalid;
        }
        let Some(age) = self.highest.checked_sub(batch_id) else { return Lookup::New };
        match usize::try_from(age).ok().filter(|age| *age < REPLIES_KEPT) {
            None => Lookup::TooOld,
            Some(age) => match self.accepted.get(age) {
                None | Some(0) => Lookup::New,
                Some(accepted) => Lookup::Recorded(*accepted),
            },
        }
    }

    /// Remembers a recorded batch that was [`Lookup::New`] before.
    pub fn remember(&mut self, batch_id: u64, accepted: u32) {
        let ahead = batch_id.saturating_sub(self.highest);
        for _ in 0..ahead.min(REPLIES_KEPT as u64) {
            self.accepted.truncate(REPLIES_KEPT - 1);
            self.accepted.push_front(0);
        }
        self.highest += ahead;
        let age = (self.highest - batch_id) as usize;
        if age >= self.accepted.len() && age < REPLIES_KEPT {
            self.accepted.resize(age + 1, 0);
        }
        if let Some(slot) = self.accepted.get_mut(age) {
            *slot = accepted;
        }
    }
}

/// A client's window. A connection that records a batch holds the lock from the lookup until
/// the batch is remembered. If the same batch arrives on another connection meanwhile, that
/// connection waits for the lock, and then finds the reply.
pub type SharedWindow = Arc<Mutex<DedupWindow>>;

/// The windows of all clients.
pub struct Replies {
    clients: Mutex<LruCache<Id, SharedWindow, RandomState>>,
    capacity: usize,
}

impl Replies {
    /// Starts without clients, for a server with up to `max_connections` at a time.
    pub fn new(max_connections: usize) -> Self {
        // A client with a connection must not be forgotten: only a new `WELCOME` could tell it.
        let capacity = CLIENTS_REMEMBERED.max(max_connections);
        Self { clients: Mutex::new(LruCache::unbounded_with_hasher(RandomState::new())), capacity }
    }

    /// Returns the window of a client, and whether the client was remembered. The window is in
    /// use until the `Arc` is dropped.
    pub fn of(&self, client: Id) -> (SharedWindow, bool) {
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        let remembered = clients.contains(&client);
        let window = clients.get_or_insert(client, SharedWindow::default).clone();
        while clients.len() > self.capacity {
            match clients.pop_lru() {
                Some((id, window)) if Arc::strong_count(&window) > 1 => {
                    clients.put(id, window); // In use, so now the most recent.
                }
                _ => break,
            }
        }
        (window, remembered)
    }
}
