//! A chat room from the client's side: it comes back after a broken connection, takes its
//! name over, reads what it missed, and resends the messages that got no reply.

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

/// An event in a room, in the order that every member sees.
#[derive(Debug, Clone, PartialEq)]
pub enum ChatEvent {
    /// We are in, for the first time or again.
    Joined {
        /// Who is here, as of event `sequence`.
        present: Vec<String>,
        /// Number of the newest event so far.
        sequence: u64,
        /// Whether all missed events follow. Otherwise the room's last messages follow,
        /// without those already seen.
        resumed: bool,
    },
    /// Somebody said something.
    Message {
        /// Its number in the room.
        sequence: u64,
        /// Who.
        name: String,
        /// What.
        text: String,
        /// When, in milliseconds since the Unix epoch by the server's clock.
        sent_at: u64,
    },
    /// Somebody came or went.
    Presence {
        /// Its number in the room.
        sequence: u64,
        /// Who.
        name: String,
        /// Which of the two.
        change: Change,
    },
    /// We were away for too long: the room no longer has some of the missed events.
    Gap {
        /// How many.
        missed: u64,
    },
    /// The connection broke; it is being made anew.
    Disconnected {
        /// Why.
        reason: String,
    },
}

/// Speaks in a room. Clones speak for the same member, who leaves with the last of them.
#[derive(Debug, Clone)]
pub struct Chat {
    ids: Arc<AtomicU64>,
    prefix: Arc<str>,
    room: Arc<str>,
    commands: mpsc::Sender<Command>,
    leaving: CancellationToken,
}

/// Listens in a room. Read it while you wait for [`Chat::say`]: once 1,024 events wait here,
/// the client stops reading, and no reply arrives either.
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
    /// Says something and returns its sequence number. While the connection is
    /// broken, this waits; the message is stored once.
    ///
    /// # Errors
    /// [`Error::Refused`] says what is wrong with the text; [`Error::Gone`] if
    /// this member has left or was taken over.
    pub async fn say(&self, text: &str) -> Result<u64, Error> {
        let id = self.ids.fetch_add(1, Ordering::Relaxed);
        let message_id = format!("{}-{id}", self.prefix);
        let say = Say { id, room: self.room.to_string(), message_id, text: text.to_owned() };
        let (reply, answer) = oneshot::channel();
        self.commands.send(Command::Say(say, reply)).await.map_err(|_| Error::Gone)?;
        answer.await.map_err(|_| Error::Gone)?
    }

    /// Abandons the connection without closing it and makes another one, as after a network
    /// failure that the server has not noticed.
    pub async fn break_connection(&self) {
        let _ = self.commands.send(Command::Break).await;
    }

    /// Leaves the room in good order, for all clones. Calls of [`Chat::say`] that still wait
    /// fail with [`Error::Gone`].
    pub async fn leave(self) {
        self.leaving.cancel();
        self.commands.closed().await;
    }
}

/// Ends after the member has left. If something else ended the membership for good, the last
/// item is an error that says so: another connection took over, or somebody else has the name
/// now.
impl Stream for ChatEvents {
    type Item = Result<ChatEvent, Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.events.poll_recv(cx)
    }
}

/// A member of a room, over all its connections.
struct Member {
    target: Target,
    /// The request that brings us back; `after` is the last event seen.
    join: Join,
    /// Messages without a reply by ID, in the order in which they were sent.
    unanswered: BTreeMap<u64, (Say, oneshot::Sender<Result<u64, Error>>)>,
    reconnect: Reconnect,
    events: mpsc::Sender<Result<ChatEvent, Error>>,
    /// The connection that was last abandoned. It is not closed, just as it couldn't be over a
    /// network that failed.
    abandoned: Option<Box<Connection>>,
    /// Cancelled when we leave: nothing is worth waiting for anymore.
    leaving: CancellationToken,
}

/// How a connection of a member ended.
enum ConnectionEnd {
    Broken(Error),
    Abandoned(Box<Connection>),
    Left,
}

impl Member {
    /// Connects and enters the room.
    async fn join(&mut self) -> Result<(Connection, ChatEvent), Error> {
        let mut connection = Connection::connect(&self.target, "/chat").await?;
        connection.send(&ChatRequest::Join(self.join.clone()));
        let joined = unless_refused(connection.next().await?)?;
        let ServerMessage::Joined { instance_id, token, resumed, sequence, present, .. } = joined else {
            return Err(Error::Unexpected(format!("{joined:?}")));
        };
        if self.join.instance_id.as_ref() != Some(&instance_id) {
            // Another run of the server counts from 1 again.
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
                // The room is full, but another member may leave: try again.
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
            // Cancel safe, all three.
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

    /// Hands an event to the listener once it has room. Returns false if the listener is gone
    /// or we leave.
    async fn emit(&self, event: ChatEvent) -> bool {
        let emitted = self.leaving.run_until_cancelled(self.events.send(Ok(event))).await;
        emitted.is_some_and(|sent| sent.is_ok())
    }

    /// Hands a reply to its caller, or returns an event for the listener.
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
        // After a join that did not resume, the room's last messages may include seen ones.
        if sequence <= self.join.after {
            return None;
        }
        self.join.after = sequence;
        Some(event)
    }
}
