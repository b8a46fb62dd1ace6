//! A chat room from the client's side. When its connection breaks, the client reconnects, takes
//! over the member's name, reads the events that it missed, and resends the messages that got no
//! response.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use futures::Stream;
use tokio::select;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::connection::{Connection, Target};
use super::error::{Error, unless_refused};
use super::reconnect::{Reconnect, is_permanent};
use crate::limits::{EVENTS, MAX_UNANSWERED};
use crate::protocol::message::{Change, ChatRequest, ErrorCode, Join, Say, ServerMessage};
use crate::protocol::{TAKEN_OVER, random_id};

/// An event in a room. All members see the events in the same order.
#[derive(Debug, Clone, PartialEq)]
pub enum ChatEvent {
    /// The client has joined the room, for the first time or again.
    Joined {
        /// The members of the room after event `sequence`.
        present: Vec<String>,
        /// Number of the newest event so far.
        sequence: u64,
        /// Whether all missed events follow. If not, the room's last messages follow, except for
        /// those that the client has already seen.
        resumed: bool,
    },
    /// Somebody said something.
    Message {
        /// Number of the event in the room.
        sequence: u64,
        /// Name of the member.
        name: String,
        /// What the member said.
        text: String,
        /// Time of the message, in milliseconds since the Unix epoch, by the server's clock.
        sent_at: u64,
    },
    /// Somebody joined or left.
    Presence {
        /// Number of the event in the room.
        sequence: u64,
        /// Name of the member.
        name: String,
        /// Whether the member joined or left.
        change: Change,
    },
    /// The room no longer has some of the missed events, because the client was away for too
    /// long or reads too slowly.
    Gap {
        /// Number of events that the room no longer has.
        missed: u64,
    },
    /// The connection broke. The client is reconnecting.
    Disconnected {
        /// Why the connection broke.
        reason: String,
    },
}

/// Speaks in a room, as one member. Clones speak for the same member, who leaves when the last
/// one is dropped.
#[derive(Debug, Clone)]
pub struct Chat {
    ids: Arc<AtomicU64>,
    prefix: Arc<str>,
    room: Arc<str>,
    commands: mpsc::Sender<Command>,
    leaving: CancellationToken,
}

/// The events of a room, for one member. Keep reading them while you wait for [`Chat::say`]: once
/// 1,024 events wait here, the client stops reading, and responses don't arrive either.
#[derive(Debug)]
pub struct ChatEvents {
    events: mpsc::Receiver<Result<ChatEvent, Error>>,
}

#[derive(Debug)]
enum Command {
    Say(Say, oneshot::Sender<Result<u64, Error>>),
    Break,
}

/// Joins a room: see [`Client::chat`](super::Client::chat).
pub(super) async fn join(target: Target, room: &str, name: &str) -> Result<(Chat, ChatEvents), Error> {
    let prefix = random_id().map_err(|error| Error::Unexpected(error.to_string()))?;
    let (commands, receiver) = mpsc::channel(MAX_UNANSWERED);
    let (events, listener) = mpsc::channel(EVENTS);
    let mut member = Member {
        target,
        join: Join { room: room.to_owned(), name: name.to_owned(), ..Join::default() },
        unanswered: BTreeMap::new(),
        reconnect: Reconnect::new(),
        events,
        abandoned: None,
        leaving: CancellationToken::new(),
    };
    let (connection, joined) = member.join().await?;
    let leaving = member.leaving.clone();
    tokio::spawn(member.run(connection, joined, receiver));
    let chat = Chat { ids: Arc::new(1.into()), prefix: prefix.into(), room: room.into(), commands, leaving };
    Ok((chat, ChatEvents { events: listener }))
}

impl Chat {
    /// Says something, and returns the sequence number of the message. While the connection is
    /// broken, the call waits. The server stores the message only once.
    ///
    /// # Errors
    /// [`Error::Refused`] says what is wrong with the text. [`Error::Gone`] means that the member
    /// has left, or that another connection took it over.
    pub async fn say(&self, text: &str) -> Result<u64, Error> {
        let id = self.ids.fetch_add(1, Ordering::Relaxed);
        let message_id = format!("{}-{id}", self.prefix);
        let say = Say { id, room: self.room.to_string(), message_id, text: text.to_owned() };
        let (reply, response) = oneshot::channel();
        self.commands.send(Command::Say(say, reply)).await.map_err(|_| Error::Gone)?;
        response.await.map_err(|_| Error::Gone)?
    }

    /// Abandons the connection without closing it, and reconnects. The server doesn't notice, as
    /// after a network failure.
    pub async fn break_connection(&self) {
        let _ = self.commands.send(Command::Break).await;
    }

    /// Leaves the room and closes the connection, for all clones. Calls of [`Chat::say`] that are
    /// still waiting fail with [`Error::Gone`].
    pub async fn leave(self) {
        self.leaving.cancel();
        self.commands.closed().await;
    }
}

/// The stream ends after the member has left. If something else ended the membership for good,
/// the last item is an error that says so. For example, another connection took over, or
/// somebody else now has the name.
impl Stream for ChatEvents {
    type Item = Result<ChatEvent, Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.events.poll_recv(cx)
    }
}

/// A member of a room, across all its connections.
struct Member {
    target: Target,
    /// The request to join again. Its `after` is the number of the last event seen.
    join: Join,
    /// Messages without a response, by ID, and so in the order in which they were sent.
    unanswered: BTreeMap<u64, (Say, oneshot::Sender<Result<u64, Error>>)>,
    reconnect: Reconnect,
    events: mpsc::Sender<Result<ChatEvent, Error>>,
    /// The connection that was abandoned last. It stays open, as it would after a network failure.
    abandoned: Option<Box<Connection>>,
    /// Canceled when the member leaves, to end every wait.
    leaving: CancellationToken,
}

/// How a connection of a member ended.
enum ConnectionEnd {
    Broken(Error),
    Abandoned(Box<Connection>),
    Left,
}

impl Member {
    /// Connects, joins the room, and resends the messages without a response.
    async fn join(&mut self) -> Result<(Connection, ChatEvent), Error> {
        let mut connection = Connection::connect(&self.target, "/chat").await?;
        connection.send(&ChatRequest::Join(self.join.clone()));
        let joined = unless_refused(connection.next().await?)?;
        let ServerMessage::Joined { instance_id, token, resumed, sequence, present, .. } = joined else {
            return Err(Error::Unexpected(format!("{joined:?}")));
        };
        if self.join.instance_id.as_ref() != Some(&instance_id) {
            // Another run of the server starts counting from 1.
            (self.join.instance_id, self.join.after) = (Some(instance_id), 0);
        }
        self.join.token = Some(token);
        self.reconnect.on_connect();
        for (say, _reply) in self.unanswered.values() {
            connection.send(&ChatRequest::Say(say.clone()));
        }
        Ok((connection, ChatEvent::Joined { present, sequence, resumed }))
    }

    async fn run(mut self, connection: Connection, joined: ChatEvent, mut commands: mpsc::Receiver<Command>) {
        let (mut connection, mut joined) = (connection, joined);
        loop {
            let error = match self.connected(connection, joined, &mut commands).await {
                ConnectionEnd::Left => return,
                ConnectionEnd::Broken(error) => error,
                ConnectionEnd::Abandoned(connection) => {
                    self.abandoned = Some(connection);
                    Error::Dead
                }
            };
            if matches!(error, Error::Closed { code: TAKEN_OVER, .. }) {
                let _ = self.events.send(Err(error)).await;
                return;
            }
            if !self.emit(ChatEvent::Disconnected { reason: error.to_string() }).await {
                return;
            }
            let leaving = self.leaving.clone();
            (connection, joined) = match leaving.run_until_cancelled(self.rejoin()).await {
                None => return,
                Some(Ok(again)) => again,
                Some(Err(error)) => {
                    let _ = self.events.send(Err(error)).await;
                    return;
                }
            };
        }
    }

    /// Tries to join until it succeeds or fails for good.
    async fn rejoin(&mut self) -> Result<(Connection, ChatEvent), Error> {
        loop {
            self.reconnect.pause().await;
            if self.events.is_closed() {
                return Err(Error::Gone);
            }
            match self.join().await {
                // There is no room for another member, but somebody may leave: try again.
                Err(Error::Refused { code: ErrorCode::Full, .. }) => {}
                Err(error) if !is_permanent(&error) => {}
                result => return result,
            }
        }
    }

    async fn connected(
        &mut self,
        mut connection: Connection,
        joined: ChatEvent,
        commands: &mut mpsc::Receiver<Command>,
    ) -> ConnectionEnd {
        if !self.emit(joined).await {
            connection.close().await;
            return ConnectionEnd::Left;
        }
        loop {
            // All three are cancel safe.
            select! {
                biased;
                () = self.leaving.cancelled() => {
                    connection.close().await;
                    return ConnectionEnd::Left;
                }
                message = connection.next() => {
                    let event = match message {
                        Ok(message) => self.handle_message(message),
                        Err(error) => return ConnectionEnd::Broken(error),
                    };
                    if let Some(event) = event
                        && !self.emit(event).await
                    {
                        connection.close().await;
                        return ConnectionEnd::Left;
                    }
                }
                command = commands.recv(), if self.unanswered.len() < MAX_UNANSWERED => match command {
                    Some(Command::Say(say, reply)) => {
                        connection.send(&ChatRequest::Say(say.clone()));
                        self.unanswered.insert(say.id, (say, reply));
                    }
                    Some(Command::Break) => return ConnectionEnd::Abandoned(Box::new(connection)),
                    None => {
                        connection.close().await;
                        return ConnectionEnd::Left;
                    }
                },
            }
        }
    }

    /// Passes an event on, waiting until there is room for it. Returns false if nobody listens
    /// anymore, or if the member leaves.
    async fn emit(&self, event: ChatEvent) -> bool {
        let emitted = self.leaving.run_until_cancelled(self.events.send(Ok(event))).await;
        emitted.is_some_and(|sent| sent.is_ok())
    }

    /// Passes a response on to its caller, or returns an event for the listener.
    fn handle_message(&mut self, message: ServerMessage) -> Option<ChatEvent> {
        let event = match message {
            ServerMessage::Said { id, sequence, .. } => {
                let (_say, reply) = self.unanswered.remove(&id)?;
                let _ = reply.send(Ok(sequence));
                return None;
            }
            ServerMessage::Error { id, code, reason } => {
                let (_say, reply) = self.unanswered.remove(&id?)?;
                let _ = reply.send(Err(Error::Refused { code, reason }));
                return None;
            }
            ServerMessage::Gap { missed, .. } => return Some(ChatEvent::Gap { missed }),
            ServerMessage::Message { sequence, name, text, sent_at, .. } => {
                (sequence, ChatEvent::Message { sequence, name, text, sent_at })
            }
            ServerMessage::Presence { sequence, name, change, .. } => {
                (sequence, ChatEvent::Presence { sequence, name, change })
            }
            _ => return None,
        };
        let (sequence, event) = event;
        // After a join that did not resume, the room's last messages may include ones already seen.
        if sequence <= self.join.after {
            return None;
        }
        self.join.after = sequence;
        Some(event)
    }
}
