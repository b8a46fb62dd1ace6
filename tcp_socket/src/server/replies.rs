//! Remembers what was replied, so that a batch that is sent twice counts once.
//!
//! A client that lost its connection does not know whether its batch was
//! recorded, and asks again with the same number. As long as this server runs
//! and within the window below, the answer is then the first one.

use std::collections::VecDeque;
use std::hash::RandomState;
use std::sync::{Arc, Mutex, PoisonError};

use lru::LruCache;

use crate::limits::{CLIENTS_REMEMBERED, MAX_BATCH_JUMP, MAX_FIRST_BATCH, REPLIES_KEPT};
use crate::protocol::handshake::Id;

/// What is known of a batch id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lookup {
    /// It was recorded, with this many readings.
    Recorded(u32),
    /// It was not recorded.
    New,
    /// It is older than what is remembered.
    TooOld,
    /// It is 0, or too far ahead of the highest that was recorded.
    Invalid,
}

/// The replies to the newest batches of one client.
#[derive(Debug, Default)]
pub struct DedupWindow {
    /// The highest batch id that was recorded.
    highest: u64,
    /// How many readings were accepted with the id `highest`, `highest - 1`, …;
    /// 0 is a batch that was not recorded: a recorded one has at least one reading.
    accepted: VecDeque<u32>,
}

impl DedupWindow {
    /// What is known of that batch.
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

    /// Remembers that a batch was recorded which [`DedupWindow::look_up`] did not know.
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

/// A client's window. Whoever records holds the lock from looking up to
/// remembering: a retry that arrives on another connection while the batch is
/// still being recorded waits there for the reply.
pub type SharedWindow = Arc<Mutex<DedupWindow>>;

/// The windows of all clients.
pub struct Replies {
    clients: Mutex<LruCache<Id, SharedWindow, RandomState>>,
    capacity: usize,
}

impl Replies {
    /// For up to `max_connections` clients at a time.
    pub fn new(max_connections: usize) -> Self {
        // A client with a connection is never forgotten: it could not be told.
        let capacity = CLIENTS_REMEMBERED.max(max_connections);
        Self { clients: Mutex::new(LruCache::unbounded_with_hasher(RandomState::new())), capacity }
    }

    /// The window of that client, which is in use until the `Arc` is dropped, and
    /// whether it was remembered.
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
