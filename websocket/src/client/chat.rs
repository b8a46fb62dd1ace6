//! A chat room from the client's side: comes back after a broken connection,
//! takes its name over, reads what it missed and sends again what was not
//! answered.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::select;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::link::{Link, Reconnect, Target, is_permanent};
use super::{Client, Error, refused};
use crate::close::TAKEN_OVER;
use crate::connection::random_id;
use crate::message::{Change, ChatRequest, ErrorCode, Join, Say, ServerMessage};

/// Events that wait for their reader; beyond it the connection is not read
/// further, and the server keeps them.
const EVENTS: usize = 1024;

/// Messages that wait for the server; a further one waits for its turn.
const MAX_UNANSWERED: usize = 256;

/// What happens in a room, in the order that everybody sees.
#[derive(Debug, Clone, PartialEq)]
pub enum ChatEvent {
    /// We are in, for the first time or again.
    Joined {
        /// Who is here, as of event `sequence`.
        present: Vec<String>,
        /// Number of the newest event so far.
        sequence: u64,
        /// All that was missed follows. Otherwise the room's last messages do,
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
        /// Which.
        change: Change,
    },
    /// We were away for so long that the room no longer has so many events.
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

/// Listens in a room. While it is not read, after 1,024 events, neither is
/// the answer to [`Chat::say`]: do both at once.
#[derive(Debug)]
pub struct ChatEvents {
    events: mpsc::Receiver<Result<ChatEvent, Error>>,
}

#[derive(Debug)]
enum Command {
    Say(Say, oneshot::Sender<Result<u64, Error>>),
    Break,
}

impl Client {
    /// Joins a room under a name, over a connection of its own.
    ///
    /// # Errors
    /// [`Error::Refused`] with [`ErrorCode::NameTaken`] if somebody else has the name.
    pub async fn chat(&self, room: &str, name: &str) -> Result<(Chat, ChatEvents), Error> {
        let prefix = random_id().map_err(|error| Error::Unexpected(error.to_string()))?;
        let (commands, receiver) = mpsc::channel(MAX_UNANSWERED);
        let (events, listener) = mpsc::channel(EVENTS);
        let mut member = Member {
            target: self.target.clone(),
            join: Join { room: room.to_owned(), name: name.to_owned(), ..Join::default() },
            unanswered: BTreeMap::new(),
            reconnect: Reconnect::new(),
            events,
            abandoned: None,
            leaving: CancellationToken::new(),
        };
        let (link, joined) = member.join().await?;
        let leaving = member.leaving.clone();
        tokio::spawn(member.run(link, joined, receiver));
        let chat =
            Chat { ids: Arc::new(1.into()), prefix: prefix.into(), room: room.into(), commands, leaving };
        Ok((chat, ChatEvents { events: listener }))
    }
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

    /// Abandons the connection without a word and makes another one, as after a
    /// failure of the network that the server has not noticed.
    pub async fn break_connection(&self) {
        let _ = self.commands.send(Command::Break).await;
    }

    /// Leaves the room in good order, for all clones; what is not yet answered
    /// fails with [`Error::Gone`].
    pub async fn leave(self) {
        self.leaving.cancel();
        self.commands.closed().await;
    }
}

impl ChatEvents {
    /// The next event; `None` after the member has left. Cancel safe.
    ///
    /// # Errors
    /// What ended the membership for good: another connection took over, or
    /// somebody else has the name now.
    pub async fn next(&mut self) -> Option<Result<ChatEvent, Error>> {
        self.events.recv().await
    }
}

/// A member of a room, over all its connections.
struct Member {
    target: Target,
    /// What to say to come back; `after` is the last event that was seen.
    join: Join,
    /// By id, in the order in which they were said.
    unanswered: BTreeMap<u64, (Say, oneshot::Sender<Result<u64, Error>>)>,
    reconnect: Reconnect,
    events: mpsc::Sender<Result<ChatEvent, Error>>,
    /// The connection that was last abandoned. Nobody closes it from here, as
    /// nobody could over a network that failed.
    abandoned: Option<Box<Link>>,
    /// We leave; nothing is worth waiting for any more.
    leaving: CancellationToken,
}

/// How a connection of a member ended.
enum End {
    Broken(Error),
    Abandoned(Box<Link>),
    Left,
}

impl Member {
    /// Connects and enters the room.
    async fn join(&mut self) -> Result<(Link, ChatEvent), Error> {
        let mut link = Link::connect(&self.target, "/chat").await?;
        link.send(&ChatRequest::Join(self.join.clone()));
        let joined = refused(link.next().await?)?;
        let ServerMessage::Joined { boot_id, token, resumed, sequence, present, .. } = joined else {
            return Err(Error::Unexpected(format!("{joined:?}")));
        };
        if self.join.boot_id.as_ref() != Some(&boot_id) {
            // Another run of the server counts from 1 again.
            (self.join.boot_id, self.join.after) = (Some(boot_id), 0);
        }
        self.join.token = Some(token);
        self.reconnect.on_connect();
        for (say, _reply) in self.unanswered.values() {
            link.send(&ChatRequest::Say(say.clone()));
        }
        Ok((link, ChatEvent::Joined { present, sequence, resumed }))
    }

    async fn run(mut self, link: Link, joined: ChatEvent, mut commands: mpsc::Receiver<Command>) {
        let (mut link, mut joined) = (link, joined);
        loop {
            let error = match self.connected(link, joined, &mut commands).await {
                End::Left => return,
                End::Broken(error) => error,
                End::Abandoned(link) => {
                    self.abandoned = Some(link);
                    Error::Dead
                }
            };
            if matches!(error, Error::Closed { code: TAKEN_OVER, .. }) {
                let _ = self.events.send(Err(error)).await;
                return;
            }
            if !self.tell(ChatEvent::Disconnected { reason: error.to_string() }).await {
                return;
            }
            let leaving = self.leaving.clone();
            (link, joined) = match leaving.run_until_cancelled(self.rejoin()).await {
                None => return,
                Some(Ok(again)) => again,
                Some(Err(error)) => {
                    let _ = self.events.send(Err(error)).await;
                    return;
                }
            };
        }
    }

    /// Tries until it is in again, unless the server's answer is that it cannot be.
    async fn rejoin(&mut self) -> Result<(Link, ChatEvent), Error> {
        loop {
            self.reconnect.pause().await;
            if self.events.is_closed() {
                return Err(Error::Gone);
            }
            match self.join().await {
                // Somebody else may leave.
                Err(Error::Refused { code: ErrorCode::Full, .. }) => {}
                Err(error) if !is_permanent(&error) => {}
                result => return result,
            }
        }
    }

    async fn connected(
        &mut self,
        mut link: Link,
        joined: ChatEvent,
        commands: &mut mpsc::Receiver<Command>,
    ) -> End {
        if !self.tell(joined).await {
            link.close().await;
            return End::Left;
        }
        loop {
            // Cancel safe, all three.
            select! {
                biased;
                () = self.leaving.cancelled() => {
                    link.close().await;
                    return End::Left;
                }
                message = link.next() => {
                    let event = match message {
                        Ok(message) => self.take(message),
                        Err(error) => return End::Broken(error),
                    };
                    if let Some(event) = event
                        && !self.tell(event).await
                    {
                        link.close().await;
                        return End::Left;
                    }
                }
                command = commands.recv(), if self.unanswered.len() < MAX_UNANSWERED => match command {
                    Some(Command::Say(say, reply)) => {
                        link.send(&ChatRequest::Say(say.clone()));
                        self.unanswered.insert(say.id, (say, reply));
                    }
                    Some(Command::Break) => return End::Abandoned(Box::new(link)),
                    None => {
                        link.close().await;
                        return End::Left;
                    }
                },
            }
        }
    }

    /// Hands an event to the listener, when it has room; false if there is none
    /// any more, or we leave.
    async fn tell(&self, event: ChatEvent) -> bool {
        let told = self.leaving.run_until_cancelled(self.events.send(Ok(event))).await;
        told.is_some_and(|told| told.is_ok())
    }

    /// An event for the listener, or an answer for a speaker.
    fn take(&mut self, message: ServerMessage) -> Option<ChatEvent> {
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
        // After a join that did not resume, the history may reach back to what was seen.
        if sequence <= self.join.after {
            return None;
        }
        self.join.after = sequence;
        Some(event)
    }
}
