//! The rooms of `/chat`, in which everybody sees the same events in the same order.
//!
//! A room is a log. Whenever somebody says something, joins, or leaves, the server appends an
//! event to the log under the next sequence number. Each member reads the log at its own pace.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tcp_socket::base::text::lookalike_key;
use tokio::sync::Notify;
use tokio_tungstenite::tungstenite::Utf8Bytes;

use crate::limits::{HISTORY, MAX_ROOMS, ROOM_BUFFER};
use crate::protocol::message::{Change, ServerMessage};

/// The rooms of one server, by name.
pub(crate) struct Rooms {
    pub(super) instance_id: String,
    connections: AtomicU64,
    list: Mutex<RoomList>,
}

#[derive(Default)]
pub(super) struct RoomList {
    by_name: HashMap<String, Arc<Room>>,
    /// The highest sequence number in any room that was replaced. New rooms continue from there,
    /// so that a room that is created again doesn't use a number twice.
    used: u64,
}

pub(super) struct Room {
    pub(super) name: String,
    pub(super) state: Mutex<RoomState>,
}

#[derive(Default)]
pub(super) struct RoomState {
    /// Number of the newest event, which is the last one in the log.
    pub(super) sequence: u64,
    pub(super) log: VecDeque<Event>,
    pub(super) members: BTreeMap<String, Member>,
    /// Sequence numbers of the messages in the log, by name and message ID.
    pub(super) stored: HashMap<(String, String), u64>,
}

pub(super) struct Event {
    pub(super) text: Utf8Bytes,
    /// Name and message ID, if the event is a message.
    message: Option<(String, String)>,
}

pub(super) struct Member {
    pub(super) token: String,
    /// The `lookalike_key` of the name. Names that people could confuse have the same key.
    pub(super) lookalike_key: String,
    /// The member's connection, or the time at which it was lost.
    pub(super) seat: Result<(u64, Arc<Notify>), Instant>,
}

impl Member {
    pub(super) fn is_at(&self, connection: u64) -> bool {
        self.seat.as_ref().is_ok_and(|(at, _notify)| *at == connection)
    }
}

impl Rooms {
    /// Creates an empty list of rooms. `instance_id` identifies this run of the server.
    pub(crate) fn new(instance_id: String) -> Self {
        Self { instance_id, connections: AtomicU64::new(0), list: Mutex::default() }
    }

    /// Returns a number that no other connection has.
    pub(super) fn next_connection(&self) -> u64 {
        self.connections.fetch_add(1, Ordering::Relaxed)
    }

    pub(super) fn list(&self) -> MutexGuard<'_, RoomList> {
        lock(&self.list)
    }

    /// Removes members that have been away for longer than `away`.
    pub(crate) fn forget_absent(&self, away: Duration) {
        for room in self.list().by_name.values() {
            let mut state = lock(&room.state);
            let gone = |member: &Member| member.seat.as_ref().is_err_and(|since| since.elapsed() >= away);
            let names: Vec<String> = state
                .members
                .iter()
                .filter(|(_, member)| gone(member))
                .map(|(name, _)| name.clone())
                .collect();
            names.iter().for_each(|name| state.leave(&room.name, name));
        }
    }
}

impl RoomList {
    /// Returns the room with this name, and creates it if it doesn't exist. Returns `None` if all
    /// rooms are in use. Keep the list locked until the room has a member, because a new room may
    /// replace an empty one.
    pub(super) fn room(&mut self, name: &str) -> Option<Arc<Room>> {
        if let Some(room) = self.by_name.get(name) {
            return Some(room.clone());
        }
        if self.by_name.len() >= MAX_ROOMS {
            let empty = self.by_name.values().find(|room| lock(&room.state).members.is_empty())?.clone();
            self.used = self.used.max(lock(&empty.state).sequence);
            self.by_name.remove(&empty.name);
        }
        let state = RoomState { sequence: self.used, ..RoomState::default() };
        let room = Arc::new(Room { name: name.to_owned(), state: Mutex::new(state) });
        self.by_name.insert(name.to_owned(), room.clone());
        Some(room)
    }
}

impl RoomState {
    /// Appends an event to the log and wakes all members' connections.
    pub(super) fn add(&mut self, message: Option<(String, String)>, event: &ServerMessage) {
        if self.log.len() == ROOM_BUFFER
            && let Some(Event { message: Some(oldest), .. }) = self.log.pop_front()
        {
            self.stored.remove(&oldest);
        }
        self.sequence += 1;
        if let Some(key) = &message {
            self.stored.insert(key.clone(), self.sequence);
        }
        self.log.push_back(Event { text: event.to_text(), message });
        for member in self.members.values() {
            if let Ok((_connection, notify)) = &member.seat {
                notify.notify_one();
            }
        }
    }

    pub(super) fn presence(&mut self, room: &str, name: &str, change: Change) {
        let (room, name, sequence) = (room.to_owned(), name.to_owned(), self.sequence + 1);
        self.add(None, &ServerMessage::Presence { room, sequence, name, change });
    }

    pub(super) fn leave(&mut self, room: &str, name: &str) {
        if self.members.remove(name).is_some() {
            self.presence(room, name, Change::Left);
        }
    }

    /// Returns whether the name looks like a member's name.
    pub(super) fn has_lookalike(&self, name: &str) -> bool {
        let key = lookalike_key(name);
        self.members.values().any(|member| member.lookalike_key == key)
    }

    /// Returns the sequence number of the oldest event in the log.
    pub(super) fn oldest(&self) -> u64 {
        self.sequence + 1 - self.log.len() as u64
    }

    pub(super) fn last_messages(&self) -> Vec<Utf8Bytes> {
        let newest = self.log.iter().rev().filter(|event| event.message.is_some());
        let mut last: Vec<_> = newest.take(HISTORY).map(|event| event.text.clone()).collect();
        last.reverse();
        last
    }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing panics while it holds a lock. Even if something did, the state would still be
    // consistent.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
