//! What a decoder makes of bytes: messages, and the fields in them.

use std::borrow::Cow;
use std::ops::Range;

/// The end of a connection that sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Side {
    /// The end that opened the connection.
    Client,
    /// The end that accepted it: a server or a broker.
    Server,
}

impl Side {
    /// Returns the other end.
    pub fn other(self) -> Self {
        match self {
            Self::Client => Self::Server,
            Self::Server => Self::Client,
        }
    }
}

/// The purpose of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Purpose {
    /// What the program wants to say, for example a station's ID or a value.
    Information,
    /// What separates, counts, numbers, and checks messages.
    #[default]
    Framing,
    /// Names and values of headers.
    Header,
    /// What makes text readable: quotes, braces, and the names of fields in JSON.
    Text,
}

/// Some bytes of a message, with their meaning. A field that contains others comes right before
/// them, and they have a larger depth. Fields without others are *leaves*: each byte of a message
/// belongs to exactly one leaf.
#[derive(Debug, Clone, PartialEq)]
pub struct Field {
    /// Positions in the stream of this direction, counted from the connection's first byte.
    pub span: Range<u64>,
    /// Number of fields around this one.
    pub depth: u8,
    /// What the field is called in the protocol's specification.
    pub name: Cow<'static, str>,
    /// The value as text, for people.
    pub value: String,
    /// The purpose of the bytes.
    pub purpose: Purpose,
    /// For a credential: the byte that may replace each of its bytes, so that the message stays valid.
    pub filler: Option<u8>,
}

/// What a message is in a conversation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// A part of a request that is not complete yet.
    Part,
    /// A request, or the last part of one. If it has no call, it gets no response.
    Request,
    /// The response to a request, or its last part.
    Response,
    /// Anything else, for example settings, a heartbeat, or a part of a response.
    Other,
}

/// One unit of a protocol, for example a frame, a header block, or a command.
#[derive(Debug, Clone, PartialEq)]
pub struct Message {
    /// The end that sent it.
    pub from: Side,
    /// Positions in the stream of this direction, counted from the connection's first byte.
    pub span: Range<u64>,
    /// One line: its name first, then what matters most.
    pub summary: String,
    /// Its fields, in the order of their bytes.
    pub fields: Vec<Field>,
    /// What it is in the conversation.
    pub role: Role,
    /// Whether it says that something went wrong, for example a status of 400 or more.
    pub refused: bool,
    /// The calls that it belongs to. A response has the numbers of the requests it answers: several
    /// if one acknowledgement covers many. Each side numbers the requests it sends.
    pub calls: Vec<u64>,
    /// If this message completes a request, the position at which the request began. Otherwise, the
    /// beginning of this message.
    pub begun: u64,
}

impl Message {
    /// Returns the fields that contain no other field. Together, they are the whole message.
    pub fn leaves(&self) -> impl Iterator<Item = &Field> {
        let is_leaf = |index: usize| {
            self.fields.get(index + 1).is_none_or(|next| next.depth <= self.fields[index].depth)
        };
        self.fields.iter().enumerate().filter(move |(index, _)| is_leaf(*index)).map(|(_, field)| field)
    }

    /// Returns where its credentials are, and what may replace each of their bytes.
    pub fn secrets(&self) -> impl Iterator<Item = (Range<u64>, u8)> {
        self.fields.iter().filter_map(|field| Some((field.span.clone(), field.filler?)))
    }
}

/// Reads both directions of one connection. The same bytes give the same messages, however they
/// are split into pieces.
pub trait Decoder: Send {
    /// Takes the next bytes of one direction. Returns the messages that they complete.
    fn push(&mut self, from: Side, bytes: &[u8]) -> Vec<Message>;

    /// Returns what is left over when this direction ends: bytes of an incomplete message, or bytes
    /// that the decoder could not read.
    fn end(&mut self, from: Side) -> Option<Message>;
}
