//! The messages: JSON objects whose `type` says what they are.
//!
//! | endpoint | to the server | answered by |
//! |---|---|---|
//! | `/chat` | `join` `id` `room` `name`, to come back also `token` `boot_id` `after` | `joined` `id` `room` `name` `boot_id` `token` `resumed` `sequence` `present` |
//! | `/chat` | `say` `id` `room` `message_id` `text` | `said` `id` `sequence` `duplicate` |
//! | `/chat` | `leave` `id` `room` | `left` `id` |
//! | `/live` | `record` `id` `readings` | `recorded` `id` `accepted` |
//! | `/live` | `readings` `id` `station` `limit` | `readings` `id` `readings` |
//! | `/live` | `subscribe` `id` `stations` `metrics` | `subscribed` `id` `boot_id` `stations` `recorded` |
//! | `/live` | `unsubscribe` `id` `stations` `metrics` | `unsubscribed` `id` |
//! | both | anything that is refused | `error` `id` `code` `reason` |
//!
//! | endpoint | from the server, unasked | meaning |
//! |---|---|---|
//! | `/chat` | `message` `room` `sequence` `name` `message_id` `text` `sent_at` | somebody said this |
//! | `/chat` | `presence` `room` `sequence` `name` `change` | somebody `joined` or `left` |
//! | `/chat` | `gap` `room` `missed` | so many events are older than the room's buffer |
//! | `/live` | `reading` `sequence` `station` `metric` `value` `recorded_at` | this was recorded |
//! | `/live` | `skipped` `readings` | so many were not sent, since this peer reads slowly |
//! | both | `heartbeat` `next_within_ms` | the server lives |
//!
//! A request's `id` is chosen by its sender, and the answer repeats it: that is
//! how a reply finds its request among everything else that comes in. WebSocket
//! itself has no requests.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

use serde::de::value::MapAccessDeserializer;
use serde::de::{DeserializeSeed, IgnoredAny, IntoDeserializer, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use tcp_socket::base::json::{Object, whole_number};

use crate::model::{Metric, Reading, shorten};

/// To the server on `/chat`.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ChatRequest {
    /// Enter a room, or come back to it.
    Join(Join),
    /// Say something there.
    Say(Say),
    /// Leave it.
    Leave(Leave),
}

/// To the server on `/live`.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum LiveRequest<'a> {
    /// Record a batch, all or nothing.
    Record(Record<'a>),
    /// Read back the newest readings of a station.
    Readings(ReadBack),
    /// From now on send these series' readings as they are recorded.
    Subscribe(Series),
    /// No longer send these.
    Unsubscribe(Series),
}

/// Enter a room, or come back to it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Join {
    /// Repeated in the answer.
    #[serde(deserialize_with = "whole_number")]
    pub id: u64,
    /// The room, `[a-z0-9-]{1,32}`; made if there is none.
    pub room: String,
    /// The name to be known by there: 1 to 32 letters with their marks, digits, `-`, `_`,
    /// and `.`, all of one script or of scripts that do not look alike. It may not look
    /// like the name of somebody else in the room.
    pub name: String,
    /// What `joined` gave: takes over the name and the place in the room from
    /// the connection that had it, which is closed with code 4001. After the
    /// place was given up it is worth nothing, and does no harm.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
    /// What `joined` gave: if it is still the same run of the server, what came
    /// after the event `after` follows, instead of the last messages.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boot_id: Option<String>,
    /// The last sequence number seen.
    #[serde(default, deserialize_with = "whole_number")]
    pub after: u64,
}

/// Say something in a room.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Say {
    /// Repeated in the answer.
    #[serde(deserialize_with = "whole_number")]
    pub id: u64,
    /// A room that this connection has joined.
    pub room: String,
    /// The sender's own id for this message, 1 to 64 bytes, never used twice
    /// under this name: a message that is sent again, since nobody knows whether
    /// it had arrived, is stored once.
    pub message_id: String,
    /// 1 to 1,000 bytes, without control characters other than line feed and tab.
    pub text: String,
}

/// Leave a room.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Leave {
    /// Repeated in the answer.
    #[serde(deserialize_with = "whole_number")]
    pub id: u64,
    /// A room that this connection has joined.
    pub room: String,
}

/// Record a batch.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record<'a> {
    /// Repeated in the answer.
    #[serde(deserialize_with = "whole_number")]
    pub id: u64,
    /// 1 to 10,000 readings.
    #[serde(deserialize_with = "readings")]
    pub readings: Cow<'a, [Reading]>,
}

/// Read back the newest readings of a station.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReadBack {
    /// Repeated in the answer.
    #[serde(deserialize_with = "whole_number")]
    pub id: u64,
    /// The station's id.
    pub station: String,
    /// How many, 1 to 500.
    #[serde(deserialize_with = "whole_number")]
    pub limit: usize,
}

/// Every combination of these stations and these metrics.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Series {
    /// Repeated in the answer.
    #[serde(deserialize_with = "whole_number")]
    pub id: u64,
    /// Stations' ids, whether they exist yet or not; none means all.
    #[serde(default)]
    pub stations: Vec<String>,
    /// None means all.
    #[serde(default)]
    pub metrics: Vec<Metric>,
}

/// From the server.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
#[expect(missing_docs, reason = "the table above tells what each field is")]
pub enum ServerMessage {
    /// The answer to `join`; the room's last messages follow, or with `resumed`
    /// all that was missed.
    Joined {
        id: u64,
        room: String,
        name: String,
        /// Of the running server: sequence numbers mean nothing to another one.
        boot_id: String,
        token: String,
        resumed: bool,
        /// Of the newest event; `present` includes everything up to it.
        sequence: u64,
        present: Vec<String>,
    },
    Said {
        id: u64,
        sequence: u64,
        /// It had been stored already, under this sequence number.
        duplicate: bool,
    },
    Left {
        id: u64,
    },
    Message {
        room: String,
        sequence: u64,
        name: String,
        message_id: String,
        text: String,
        /// Milliseconds since the Unix epoch, by the server's clock.
        sent_at: u64,
    },
    Presence {
        room: String,
        sequence: u64,
        name: String,
        change: Change,
    },
    Gap {
        room: String,
        missed: u64,
    },
    Recorded {
        id: u64,
        accepted: usize,
    },
    /// Oldest first; none if there is no such station.
    Readings {
        id: u64,
        readings: Vec<Numbered>,
    },
    Subscribed {
        id: u64,
        boot_id: String,
        /// The stations of this subscription that exist already, sorted. Each new one is
        /// first seen in a `reading`.
        stations: Vec<String>,
        /// Number of readings that the series of this subscription ever had.
        recorded: u64,
    },
    Unsubscribed {
        id: u64,
    },
    Reading(Numbered),
    /// The newest reading of each series that was skipped follows.
    Skipped {
        readings: u64,
    },
    Heartbeat {
        /// Milliseconds until the next one; a page that waits much longer has
        /// lost its server. (Scripts are not shown pings.)
        next_within_ms: u64,
    },
    /// The request was not carried out; the connection lives.
    Error {
        /// Missing if the request had none that could be read.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        id: Option<u64>,
        code: ErrorCode,
        /// For a person.
        reason: String,
    },
}

/// A reading and its place.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Numbered {
    /// Number of the reading in its series (one metric of one station), from 1.
    /// Who reads back and subscribes sees by it which readings came twice.
    pub sequence: u64,
    /// The reading.
    #[serde(flatten)]
    pub reading: Reading,
}

/// What happened to a member of a room.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    /// Is here now.
    Joined,
    /// Is no longer here.
    Left,
}

/// What a program can branch on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorCode {
    /// Not a request of this endpoint, or a field is not as it must be.
    Invalid,
    /// Somebody else in the room has this name.
    NameTaken,
    /// This connection has not joined the room, or already has.
    WrongRoom,
    /// A bound of the server: rooms, members, stations.
    Full,
}

/// Why a request is not carried out.
#[derive(Debug)]
pub(crate) struct Refusal {
    pub(crate) id: Option<u64>,
    pub(crate) code: ErrorCode,
    pub(crate) reason: String,
}

impl Refusal {
    pub(crate) fn new(id: u64, code: ErrorCode, reason: impl Into<String>) -> Self {
        Self { id: Some(id), code, reason: reason.into() }
    }
}

/// What every request has. Read by itself first, so that a request with one
/// wrong field is still answered under its id. Scanning the text twice is
/// cheaper than what serde does for a tagged enum: it builds a tree of the whole
/// message, ten thousand readings included, before it has seen the tag.
#[derive(Deserialize)]
struct Head<'a> {
    #[serde(rename = "type", borrow)]
    kind: Cow<'a, str>,
    id: Option<Id>,
}

#[derive(Deserialize, Clone, Copy)]
struct Id(#[serde(deserialize_with = "whole_number")] u64);

impl<'a> Head<'a> {
    fn parse(text: &'a str) -> Result<Self, Refusal> {
        let Object(head) = parse(text).map_err(|reason| invalid(None, reason))?;
        Ok(head)
    }

    fn id(&self) -> Option<u64> {
        self.id.map(|Id(id)| id)
    }

    fn rest<T: Deserialize<'a>>(&self, text: &'a str) -> Result<T, Refusal> {
        let Fields(request) = parse(text).map_err(|reason| invalid(self.id(), reason))?;
        Ok(request)
    }

    fn unknown(&self, known: &str) -> Refusal {
        let reason = format!("type {:?} is none of {known}", shorten(&self.kind));
        Refusal { id: self.id(), code: ErrorCode::Invalid, reason }
    }
}

fn invalid(id: Option<u64>, reason: String) -> Refusal {
    Refusal { id, code: ErrorCode::Invalid, reason }
}

/// Parses JSON. The error names the field that is wrong.
fn parse<'a, T: Deserialize<'a>>(text: &'a str) -> Result<T, String> {
    serde_json::from_str(text).map_err(|error| {
        // Keeping track of the field costs time, so only what is wrong is parsed with it.
        let mut json = serde_json::Deserializer::from_str(text);
        let path =
            serde_path_to_error::deserialize::<_, T>(&mut json).err().map(|error| error.path().to_string());
        let field = path.filter(|path| path != ".").map(|path| format!("{}: ", shorten(&path)));
        let mut reason = error.to_string();
        if reason.len() > 300 {
            // Only the beginning of a long message is quoted; line and column are at its end.
            reason = format!("{}… at line {} column {}", shorten(&reason), error.line(), error.column());
        }
        field.unwrap_or_default() + &reason
    })
}

/// The fields of a request without its `type`, which its type in Rust already says.
/// Only an object has fields: see [`Object`].
struct Fields<T>(T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Fields<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct WithoutType<A>(A);

        impl<'de, A: MapAccess<'de>> MapAccess<'de> for WithoutType<A> {
            type Error = A::Error;

            fn next_key_seed<K: DeserializeSeed<'de>>(
                &mut self,
                seed: K,
            ) -> Result<Option<K::Value>, A::Error> {
                let Some(mut key) = self.0.next_key::<Name<'de>>()? else { return Ok(None) };
                while key.0 == "type" {
                    self.0.next_value::<IgnoredAny>()?;
                    let Some(next) = self.0.next_key()? else { return Ok(None) };
                    key = next;
                }
                seed.deserialize(key.0.into_deserializer()).map(Some)
            }

            fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, A::Error> {
                self.0.next_value_seed(seed)
            }
        }

        struct Request<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for Request<T> {
            type Value = T;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<T, A::Error> {
                T::deserialize(MapAccessDeserializer::new(WithoutType(map)))
            }
        }

        deserializer.deserialize_map(Request(PhantomData)).map(Self)
    }
}

/// The name of a field.
#[derive(Deserialize)]
#[serde(transparent)]
struct Name<'a>(#[serde(borrow)] Cow<'a, str>);

/// Reads a batch, each reading as an object.
fn readings<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Cow<'static, [Reading]>, D::Error> {
    let readings: Vec<Object<Reading>> = Deserialize::deserialize(deserializer)?;
    Ok(readings.into_iter().map(|Object(reading)| reading).collect())
}

impl ChatRequest {
    pub(crate) fn parse(text: &str) -> Result<Self, Refusal> {
        let head = Head::parse(text)?;
        Ok(match &*head.kind {
            "join" => Self::Join(head.rest(text)?),
            "say" => Self::Say(head.rest(text)?),
            "leave" => Self::Leave(head.rest(text)?),
            _ => return Err(head.unknown("join, say, leave")),
        })
    }
}

impl LiveRequest<'static> {
    pub(crate) fn parse(text: &str) -> Result<Self, Refusal> {
        let head = Head::parse(text)?;
        Ok(match &*head.kind {
            "record" => Self::Record(head.rest(text)?),
            "readings" => Self::Readings(head.rest(text)?),
            "subscribe" => Self::Subscribe(head.rest(text)?),
            "unsubscribe" => Self::Unsubscribe(head.rest(text)?),
            _ => return Err(head.unknown("record, readings, subscribe, unsubscribe")),
        })
    }
}
