//! `/chat`: rooms in which everybody sees the same events in the same order.
//!
//! A room is a log. Whatever happens in it, a message or somebody's coming and
//! going, is written at its end under the next sequence number, and each member
//! reads the log at its own pace: a connection holds no queue, only the number
//! of the next event. One that was cut off comes back and reads on.
//!
//! Memory: a room's log holds 10,000 events of at most 2.5 kB, all rooms 2.5 GB.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use tcp_socket::base::text::{self, lookalike_key};
use tokio::sync::Notify;
use tokio_tungstenite::tungstenite::Utf8Bytes;
use unicode_properties::{GeneralCategoryGroup, UnicodeGeneralCategory};

use crate::connection::{EVENTS_PER_TURN, random_id, to_text};
use crate::message::{Change, ChatRequest, ErrorCode, Join, Leave, Refusal, Say, ServerMessage};
use crate::model::{MAX_ID, is_id, shorten};

/// Events that a room keeps: how far a member may fall behind, or be away, and
/// still be told everything.
pub const ROOM_BUFFER: usize = 10_000;

/// Messages that a newcomer is shown.
pub const HISTORY: usize = 100;

/// Rooms at most. A new one takes the place of one in which nobody is.
pub const MAX_ROOMS: usize = 100;

/// Members of a room at most, those included whose connection broke.
pub const MAX_MEMBERS: usize = 1_000;

/// Rooms that one connection may be in.
pub const MAX_ROOMS_JOINED: usize = 8;

/// Longest text of a message, in bytes of UTF-8.
pub const MAX_TEXT: usize = 1_000;

/// Longest name, in characters.
pub const MAX_NAME: usize = 32;

/// Longest `message_id`, in bytes.
pub const MAX_MESSAGE_ID: usize = 64;

/// All rooms.
pub(crate) struct Chat {
    boot_id: String,
    connections: AtomicU64,
    rooms: Mutex<Rooms>,
}

#[derive(Default)]
struct Rooms {
    by_name: HashMap<String, Arc<Room>>,
    /// The highest sequence number of all rooms that gave way. New rooms go on
    /// from there: one that is made again does not use a number twice.
    used: u64,
}

struct Room {
    name: String,
    state: Mutex<RoomState>,
}

#[derive(Default)]
struct RoomState {
    /// Of the newest event; the log holds this one and those before.
    sequence: u64,
    log: VecDeque<Event>,
    members: BTreeMap<String, Member>,
    /// Sequence numbers of the log's messages by name and message id.
    stored: HashMap<(String, String), u64>,
}

struct Event {
    text: Utf8Bytes,
    /// Name and message id, if it is a message.
    message: Option<(String, String)>,
}

struct Member {
    token: String,
    /// What names that people could take for this one have in common with it.
    lookalike_key: String,
    /// The connection that speaks for the member; none since the given time if it broke.
    seat: Result<(u64, Arc<Notify>), Instant>,
}

impl Member {
    fn is_at(&self, connection: u64) -> bool {
        self.seat.as_ref().is_ok_and(|(at, _notify)| *at == connection)
    }
}

impl Chat {
    /// No rooms yet. `boot_id` identifies this run of the server.
    pub(crate) fn new(boot_id: String) -> Self {
        Self { boot_id, connections: AtomicU64::new(0), rooms: Mutex::default() }
    }

    /// Lets go of members who have been away for longer than `away`.
    pub(crate) fn forget_absent(&self, away: Duration) {
        for room in lock(&self.rooms).by_name.values() {
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

impl Rooms {
    /// The room of that name, made if there is none. The rooms stay locked until
    /// it is entered, or it could give way before anybody is in it.
    fn room(&mut self, name: &str) -> Option<Arc<Room>> {
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
    /// Writes an event at the end of the log and wakes everybody.
    fn add(&mut self, message: Option<(String, String)>, event: &ServerMessage) {
        if self.log.len() == ROOM_BUFFER
            && let Some(Event { message: Some(oldest), .. }) = self.log.pop_front()
        {
            self.stored.remove(&oldest);
        }
        self.sequence += 1;
        if let Some(key) = &message {
            self.stored.insert(key.clone(), self.sequence);
        }
        self.log.push_back(Event { text: to_text(event), message });
        for member in self.members.values() {
            if let Ok((_connection, notify)) = &member.seat {
                notify.notify_one();
            }
        }
    }

    fn presence(&mut self, room: &str, name: &str, change: Change) {
        let (room, name, sequence) = (room.to_owned(), name.to_owned(), self.sequence + 1);
        self.add(None, &ServerMessage::Presence { room, sequence, name, change });
    }

    fn leave(&mut self, room: &str, name: &str) {
        if self.members.remove(name).is_some() {
            self.presence(room, name, Change::Left);
        }
    }

    /// Whether the name looks like that of a member.
    fn has_lookalike(&self, name: &str) -> bool {
        let key = lookalike_key(name);
        self.members.values().any(|member| member.lookalike_key == key)
    }

    /// Sequence number of the oldest event in the log.
    fn oldest(&self) -> u64 {
        self.sequence + 1 - self.log.len() as u64
    }

    fn last_messages(&self) -> Vec<Utf8Bytes> {
        let newest = self.log.iter().rev().filter(|event| event.message.is_some());
        let mut last: Vec<_> = newest.take(HISTORY).map(|event| event.text.clone()).collect();
        last.reverse();
        last
    }
}

/// One connection to `/chat`.
pub(crate) struct ChatSession {
    chat: Arc<Chat>,
    connection: u64,
    notify: Arc<Notify>,
    seats: Vec<Seat>,
}

/// A connection's place in a room.
struct Seat {
    room: Arc<Room>,
    name: String,
    /// Sequence number of the next event to send.
    next: u64,
    /// What a newcomer is shown before that.
    history: Vec<Utf8Bytes>,
}

/// The member is at another connection now.
#[derive(Debug)]
pub(crate) struct TakenOver;

impl ChatSession {
    pub(crate) fn new(chat: Arc<Chat>) -> Self {
        let connection = chat.connections.fetch_add(1, Ordering::Relaxed);
        Self { chat, connection, notify: Arc::default(), seats: Vec::new() }
    }

    pub(crate) fn answer(&mut self, text: &str) -> Result<ServerMessage, Refusal> {
        match ChatRequest::parse(text)? {
            ChatRequest::Join(join) => self.join(join),
            ChatRequest::Say(say) => self.say(say),
            ChatRequest::Leave(Leave { id, room }) => {
                let seat = self.seats.remove(self.seat(id, &room)?);
                self.give_up(&seat);
                Ok(ServerMessage::Left { id })
            }
        }
    }

    fn join(&mut self, join: Join) -> Result<ServerMessage, Refusal> {
        let id = join.id;
        self.check(&join)?;
        let mut rooms = lock(&self.chat.rooms);
        let room = rooms.room(&join.room).ok_or_else(|| {
            Refusal::new(id, ErrorCode::Full, format!("there is somebody in each of {MAX_ROOMS} rooms"))
        })?;
        let mut state = lock(&room.state);
        drop(rooms);
        let before = state.sequence;
        let (token, same_member) = self.sit_down(&mut state, &join)?;
        let boot_id = &self.chat.boot_id;
        let resumed = same_member || join.boot_id.as_ref() == Some(boot_id);
        let (next, history) = match resumed {
            true => (join.after.min(before) + 1, Vec::new()),
            false => (state.sequence + 1, state.last_messages()),
        };
        let (sequence, present) = (state.sequence, state.members.keys().cloned().collect());
        drop(state);
        let Join { room: room_name, name, .. } = join;
        self.seats.push(Seat { room, name: name.clone(), next, history });
        let boot_id = boot_id.clone();
        Ok(ServerMessage::Joined { id, room: room_name, name, boot_id, token, resumed, sequence, present })
    }

    fn check(&self, Join { id, room, name, .. }: &Join) -> Result<(), Refusal> {
        let refuse = |code, reason: String| Err(Refusal::new(*id, code, reason));
        if !is_id(room) {
            let reason = format!("room: {:?} is not of the form [a-z0-9-]{{1,{MAX_ID}}}", shorten(room));
            return refuse(ErrorCode::Invalid, reason);
        }
        if let Err(reason) = check_name(name) {
            return refuse(ErrorCode::Invalid, reason);
        }
        if self.seat(*id, room).is_ok() {
            return refuse(ErrorCode::WrongRoom, format!("already in room {room:?}"));
        }
        if self.seats.len() >= MAX_ROOMS_JOINED {
            return refuse(ErrorCode::Full, format!("a connection is in at most {MAX_ROOMS_JOINED} rooms"));
        }
        Ok(())
    }

    /// Takes over the member's place, or makes a new one. Returns its token and
    /// whether it was there before.
    fn sit_down(&self, state: &mut RoomState, join: &Join) -> Result<(String, bool), Refusal> {
        let refuse = |code, reason: String| Err(Refusal::new(join.id, code, reason));
        let Join { room, name, .. } = join;
        let seat = Ok((self.connection, self.notify.clone()));
        let (full, has_lookalike) = (state.members.len() >= MAX_MEMBERS, state.has_lookalike(name));
        match state.members.get_mut(name) {
            Some(member) if join.token.as_ref() == Some(&member.token) => {
                if let Ok((_connection, notify)) = std::mem::replace(&mut member.seat, seat) {
                    notify.notify_one(); // It will see that it was taken over.
                }
                Ok((member.token.clone(), true))
            }
            Some(_) => refuse(ErrorCode::NameTaken, format!("{name:?} is somebody else in this room")),
            None if has_lookalike => {
                let reason = format!("{name:?} looks like the name of somebody else in this room");
                refuse(ErrorCode::NameTaken, reason)
            }
            None if full => refuse(ErrorCode::Full, format!("a room holds {MAX_MEMBERS} members")),
            None => {
                let Ok(token) = random_id() else {
                    return refuse(ErrorCode::Full, "the system has no random numbers".to_owned());
                };
                let member = Member { token: token.clone(), lookalike_key: lookalike_key(name), seat };
                state.members.insert(name.clone(), member);
                state.presence(room, name, Change::Joined);
                Ok((token, false))
            }
        }
    }

    fn say(&mut self, Say { id, room, message_id, text }: Say) -> Result<ServerMessage, Refusal> {
        let refuse = |reason: String| Err(Refusal::new(id, ErrorCode::Invalid, reason));
        if !(1..=MAX_TEXT).contains(&text.len()) {
            return refuse(format!("text: {} bytes are not 1 to {MAX_TEXT}", text.len()));
        }
        if text.chars().any(|c| c.is_control() && c != '\n' && c != '\t') {
            return refuse("text: there are control characters in it".to_owned());
        }
        if !(1..=MAX_MESSAGE_ID).contains(&message_id.len()) {
            return refuse(format!("message_id: {} bytes are not 1 to {MAX_MESSAGE_ID}", message_id.len()));
        }
        let seat = &self.seats[self.seat(id, &room)?];
        let name = seat.name.clone();
        let mut state = lock(&seat.room.state);
        if !state.members.get(&name).is_some_and(|member| member.is_at(self.connection)) {
            // Taken over a moment ago; the close frame is on its way.
            return Err(Refusal::new(id, ErrorCode::WrongRoom, "this name is at another connection now"));
        }
        let key = (name.clone(), message_id.clone());
        if let Some(&sequence) = state.stored.get(&key) {
            return Ok(ServerMessage::Said { id, sequence, duplicate: true });
        }
        let sent_at = SystemTime::UNIX_EPOCH.elapsed().map_or(0, |since| since.as_millis() as u64);
        let sequence = state.sequence + 1;
        state.add(Some(key), &ServerMessage::Message { room, sequence, name, message_id, text, sent_at });
        Ok(ServerMessage::Said { id, sequence, duplicate: false })
    }

    fn seat(&self, id: u64, room: &str) -> Result<usize, Refusal> {
        let place = self.seats.iter().position(|seat| seat.room.name == room);
        place
            .ok_or_else(|| Refusal::new(id, ErrorCode::WrongRoom, format!("not in room {:?}", shorten(room))))
    }

    /// Completes when there may be something to send. Cancel safe.
    pub(crate) async fn wake(&self) {
        self.notify.notified().await;
    }

    /// Takes what is to be sent next.
    pub(crate) fn events(&mut self, into: &mut Vec<Utf8Bytes>) -> Result<(), TakenOver> {
        for seat in &mut self.seats {
            into.append(&mut seat.history);
            let state = lock(&seat.room.state);
            if !state.members.get(&seat.name).is_some_and(|member| member.is_at(self.connection)) {
                return Err(TakenOver);
            }
            if seat.next < state.oldest() {
                let missed = state.oldest() - seat.next;
                into.push(to_text(&ServerMessage::Gap { room: seat.room.name.clone(), missed }));
                seat.next = state.oldest();
            }
            let start = (seat.next - state.oldest()) as usize;
            let more = state.log.range(start..).take(EVENTS_PER_TURN);
            seat.next += more.len() as u64;
            into.extend(more.map(|event| event.text.clone()));
            if seat.next <= state.sequence {
                self.notify.notify_one(); // There is more for the next turn.
            }
        }
        Ok(())
    }

    /// The connection has ended: in good order, which means to leave, or it
    /// broke, and its owner may come back.
    pub(crate) fn ended(&mut self, in_order: bool) {
        for seat in std::mem::take(&mut self.seats) {
            if in_order {
                self.give_up(&seat);
            } else if let Some(member) = lock(&seat.room.state).members.get_mut(&seat.name)
                && member.is_at(self.connection)
            {
                member.seat = Err(Instant::now());
            }
        }
    }

    fn give_up(&self, seat: &Seat) {
        let mut state = lock(&seat.room.state);
        if state.members.get(&seat.name).is_some_and(|member| member.is_at(self.connection)) {
            state.leave(&seat.room.name, &seat.name);
        }
    }
}

impl Drop for ChatSession {
    /// However the connection's task came to its end, nobody stays in a room
    /// without a connection for ever.
    fn drop(&mut self) {
        self.ended(false);
    }
}

/// Checks the name of a member. It is shown in front of each message, so it has no
/// spaces and no punctuation that could make it look like more than a name.
///
/// # Errors
/// Says what is wrong with it.
fn check_name(name: &str) -> Result<(), String> {
    let allowed = |c: char| {
        // Persian and Hindi are written with joiners, which are invisible.
        let joiner = matches!(c, '\u{200c}' | '\u{200d}');
        c.is_alphanumeric() || is_mark(c) || joiner || matches!(c, '-' | '_' | '.')
    };
    let begins_with_base =
        name.chars().next().is_some_and(|c| !is_mark(c) && c != '\u{200c}' && c != '\u{200d}');
    if name.chars().count() > MAX_NAME || !begins_with_base || !name.chars().all(allowed) {
        let shown = shorten(name);
        return Err(format!("name: {shown:?} is not 1 to {MAX_NAME} letters, digits, -, _ and ."));
    }
    text::check_name(name).map_err(|why| format!("name: {name:?} is refused: {why}"))
}

/// Whether the character belongs to the one before it, such as an accent or a vowel sign.
fn is_mark(c: char) -> bool {
    c.general_category_group() == GeneralCategoryGroup::Mark
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing panics while it holds a lock; if something ever does, what it
    // protects is still whole.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
