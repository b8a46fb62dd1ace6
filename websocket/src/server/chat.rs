//! `/chat`: what one connection does in the [rooms](super::room).
//!
//! A connection has no queue of events, only the number of the next one to send. A member whose
//! connection broke comes back with a token, takes over its name, and continues where it was.

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use tcp_socket::base::journal;
use tcp_socket::base::text::{self, lookalike_key};
use tokio::sync::Notify;
use tokio_tungstenite::tungstenite::Utf8Bytes;
use unicode_properties::{GeneralCategoryGroup, UnicodeGeneralCategory};

use super::room::{Member, Room, RoomState, Rooms, lock};
use crate::limits::{
    EVENTS_PER_TURN, MAX_ID, MAX_MEMBERS, MAX_MESSAGE_ID, MAX_NAME, MAX_ROOMS, MAX_ROOMS_JOINED, MAX_TEXT,
};
use crate::protocol::message::{Change, ChatRequest, ErrorCode, Join, Leave, Say, ServerMessage};
use crate::protocol::model::{is_id, shorten};
use crate::protocol::parse::Refusal;
use crate::protocol::random_id;

/// One connection to `/chat`.
pub(crate) struct ChatSession {
    rooms: Arc<Rooms>,
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
    /// Earlier messages to send to a new member first.
    history: Vec<Utf8Bytes>,
}

/// Another connection has taken over the member.
#[derive(Debug)]
pub(crate) struct TakenOver;

impl ChatSession {
    pub(crate) fn new(rooms: Arc<Rooms>) -> Self {
        let connection = rooms.next_connection();
        Self { rooms, connection, notify: Arc::default(), seats: Vec::new() }
    }

    pub(crate) fn respond(&mut self, text: &str) -> Result<ServerMessage, Refusal> {
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
        let mut rooms = self.rooms.list();
        let room = rooms
            .room(&join.room)
            .ok_or_else(|| Refusal::new(id, ErrorCode::Full, format!("all {MAX_ROOMS} rooms are in use")))?;
        let mut state = lock(&room.state);
        drop(rooms);
        let before = state.sequence;
        let (token, same_member) = self.take_seat(&mut state, &join)?;
        let instance_id = &self.rooms.instance_id;
        let resumed = same_member || join.instance_id.as_ref() == Some(instance_id);
        let (next, history) = match resumed {
            true => (join.after.min(before) + 1, Vec::new()),
            false => (state.sequence + 1, state.last_messages()),
        };
        let (sequence, present) = (state.sequence, state.members.keys().cloned().collect());
        drop(state);
        let Join { room: room_name, name, .. } = join;
        self.seats.push(Seat { room, name: name.clone(), next, history });
        let instance_id = instance_id.clone();
        Ok(ServerMessage::Joined {
            id,
            room: room_name,
            name,
            instance_id,
            token,
            resumed,
            sequence,
            present,
        })
    }

    fn check(&self, Join { id, room, name, .. }: &Join) -> Result<(), Refusal> {
        let refuse = |code, reason: String| Err(Refusal::new(*id, code, reason));
        if !is_id(room) {
            let reason =
                format!("room: {:?} must be 1 to {MAX_ID} characters: a-z, 0-9, and -", shorten(room));
            return refuse(ErrorCode::Invalid, reason);
        }
        if let Err(reason) = check_name(name) {
            return refuse(ErrorCode::Invalid, reason);
        }
        if self.seat(*id, room).is_ok() {
            return refuse(ErrorCode::WrongRoom, format!("this connection is already in room {room:?}"));
        }
        if self.seats.len() >= MAX_ROOMS_JOINED {
            return refuse(
                ErrorCode::Full,
                format!("a connection can be in at most {MAX_ROOMS_JOINED} rooms"),
            );
        }
        Ok(())
    }

    /// Takes over the member's place in the room, or makes a new one. Returns the member's token,
    /// and whether the member was there before.
    fn take_seat(&self, state: &mut RoomState, join: &Join) -> Result<(String, bool), Refusal> {
        let refuse = |code, reason: String| Err(Refusal::new(join.id, code, reason));
        let Join { room, name, .. } = join;
        let seat = Ok((self.connection, self.notify.clone()));
        let (full, has_lookalike) = (state.members.len() >= MAX_MEMBERS, state.has_lookalike(name));
        match state.members.get_mut(name) {
            Some(member) if join.token.as_ref() == Some(&member.token) => {
                if let Ok((_connection, notify)) = std::mem::replace(&mut member.seat, seat) {
                    notify.notify_one(); // The old connection wakes up and finds that it was taken over.
                }
                Ok((member.token.clone(), true))
            }
            Some(_) => {
                refuse(ErrorCode::NameTaken, format!("somebody else in this room has the name {name:?}"))
            }
            None if has_lookalike => {
                let reason = format!("{name:?} looks like the name of somebody else in this room");
                refuse(ErrorCode::NameTaken, reason)
            }
            None if full => refuse(ErrorCode::Full, format!("a room holds at most {MAX_MEMBERS} members")),
            None => {
                let Ok(token) = random_id() else {
                    return refuse(ErrorCode::Full, "the system cannot provide random numbers".to_owned());
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
            return refuse(format!("text: {} bytes is outside 1 to {MAX_TEXT}", text.len()));
        }
        if text.chars().any(|c| c.is_control() && c != '\n' && c != '\t') {
            return refuse(
                "text: remove the control characters; only line feed and tab are allowed".to_owned(),
            );
        }
        if !(1..=MAX_MESSAGE_ID).contains(&message_id.len()) {
            return refuse(format!(
                "message_id: {} bytes is outside 1 to {MAX_MESSAGE_ID}",
                message_id.len()
            ));
        }
        let seat = &self.seats[self.seat(id, &room)?];
        let name = seat.name.clone();
        let mut state = lock(&seat.room.state);
        if !state.members.get(&name).is_some_and(|member| member.is_at(self.connection)) {
            // The takeover happened a moment ago, and the close frame is on its way.
            return Err(Refusal::new(id, ErrorCode::WrongRoom, "another connection took over this name"));
        }
        let key = (name.clone(), message_id.clone());
        if let Some(&sequence) = state.stored.get(&key) {
            return Ok(ServerMessage::Said { id, sequence, duplicate: true });
        }
        let sent_at = SystemTime::UNIX_EPOCH.elapsed().map_or(0, |since| since.as_millis() as u64);
        let sequence = state.sequence + 1;
        journal::append([format!("{room} {name} {message_id} {text:?}")]);
        state.add(Some(key), &ServerMessage::Message { room, sequence, name, message_id, text, sent_at });
        Ok(ServerMessage::Said { id, sequence, duplicate: false })
    }

    fn seat(&self, id: u64, room: &str) -> Result<usize, Refusal> {
        let index = self.seats.iter().position(|seat| seat.room.name == room);
        index.ok_or_else(|| {
            Refusal::new(
                id,
                ErrorCode::WrongRoom,
                format!("this connection is not in room {:?}", shorten(room)),
            )
        })
    }

    /// Completes when there may be something to send. Cancel safe.
    pub(crate) async fn wait_for_events(&self) {
        self.notify.notified().await;
    }

    /// Takes the events to send next, unless another connection has taken over.
    pub(crate) fn events(&mut self, into: &mut Vec<Utf8Bytes>) -> Result<(), TakenOver> {
        for seat in &mut self.seats {
            into.append(&mut seat.history);
            let state = lock(&seat.room.state);
            if !state.members.get(&seat.name).is_some_and(|member| member.is_at(self.connection)) {
                return Err(TakenOver);
            }
            if seat.next < state.oldest() {
                let missed = state.oldest() - seat.next;
                into.push(ServerMessage::Gap { room: seat.room.name.clone(), missed }.to_text());
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

    /// Notes that the connection has ended. If the peer closed it with a close frame, the member
    /// leaves its rooms. Otherwise, the member may come back.
    pub(crate) fn ended(&mut self, by_peer: bool) {
        for seat in std::mem::take(&mut self.seats) {
            if by_peer {
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
    /// Makes sure that no member stays in a room forever without a connection, however the
    /// connection's task ended.
    fn drop(&mut self) {
        self.ended(false);
    }
}

/// Checks the name of a member. It is shown in front of each message, so it must not contain
/// spaces or punctuation that could make it look like more than a name.
///
/// # Errors
/// The error says what is wrong with the name.
fn check_name(name: &str) -> Result<(), String> {
    let allowed = |c: char| {
        // Joiners are invisible, but Persian and Hindi are written with them.
        let joiner = matches!(c, '\u{200c}' | '\u{200d}');
        c.is_alphanumeric() || is_mark(c) || joiner || matches!(c, '-' | '_' | '.')
    };
    let begins_with_base =
        name.chars().next().is_some_and(|c| !is_mark(c) && c != '\u{200c}' && c != '\u{200d}');
    if name.chars().count() > MAX_NAME || !begins_with_base || !name.chars().all(allowed) {
        let shown = shorten(name);
        let rule = "characters: letters, digits, -, _, and . (an accent can't come first)";
        return Err(format!("name: {shown:?} must be 1 to {MAX_NAME} {rule}"));
    }
    text::check_name(name).map_err(|why| format!("name: {name:?} is refused: {why}"))
}

/// Returns whether the character belongs to the one before it, as an accent or a vowel sign does.
fn is_mark(c: char) -> bool {
    c.general_category_group() == GeneralCategoryGroup::Mark
}
