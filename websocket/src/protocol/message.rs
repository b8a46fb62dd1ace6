//! The messages: JSON objects whose `type` says what they are.
//!
//! | endpoint | request | response |
//! |---|---|---|
//! | `/chat` | `join` `id` `room` `name`; to come back, also `token` `boot_id` `after` | `joined` `id` `room` `name` `boot_id` `token` `resumed` `sequence` `present` |
//! | `/chat` | `say` `id` `room` `message_id` `text` | `said` `id` `sequence` `duplicate` |
//! | `/chat` | `leave` `id` `room` | `left` `id` |
//! | `/live` | `record` `id` `readings` | `recorded` `id` `accepted` |
//! | `/live` | `readings` `id` `station` `limit` | `readings` `id` `readings` |
//! | `/live` | `subscribe` `id` `stations` `metrics` | `subscribed` `id` `boot_id` `stations` `recorded` |
//! | `/live` | `unsubscribe` `id` `stations` `metrics` | `unsubscribed` `id` |
//! | both | any request that the server refuses | `error` `id` `code` `reason` |
//!
//! | endpoint | from the server, without a request | meaning |
//! |---|---|---|
//! | `/chat` | `message` `room` `sequence` `name` `message_id` `text` `sent_at` | somebody said this |
//! | `/chat` | `presence` `room` `sequence` `name` `change` | somebody `joined` or `left` |
//! | `/chat` | `gap` `room` `missed` | `missed` events are no longer in the room's buffer |
//! | `/live` | `reading` `sequence` `station` `metric` `value` `recorded_at` | somebody recorded this |
//! | `/live` | `skipped` `readings` | the server left out this number of readings because the client reads too slowly |
//! | both | `heartbeat` `next_within_ms` | the server is alive |
//!
//! The sender of a request chooses its `id`, and the response repeats it. That is how a
//! response finds its request among everything else that arrives: WebSocket itself knows only
//! messages.

use std::borrow::Cow;

use serde::{Deserialize, Deserializer, Serialize};
use tcp_socket::base::json::{Object, whole_number};
use tokio_tungstenite::tungstenite::Utf8Bytes;

use super::model::{Metric, Reading};

/// A request to `/chat`.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(crate) enum ChatRequest {
    /// Enter a room, or come back to it.
    Join(Join),
    /// Say something in a room.
    Say(Say),
    /// Leave a room.
    Leave(Leave),
}

/// A request to `/live`.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(crate) enum LiveRequest<'a> {
    /// Record a batch, all or nothing.
    Record(Record<'a>),
    /// Read back the newest readings of a station.
    Readings(ReadBack),
    /// From now on, receive the readings of these series as they are recorded.
    Subscribe(Series),
    /// Stop receiving the readings of these series.
    Unsubscribe(Series),
}

/// The request to enter a room, or to come back to it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Join {
    /// Repeated in the response.
    #[serde(deserialize_with = "whole_number")]
    pub(crate) id: u64,
    /// The room's name, 1 to 32 characters: a-z, 0-9, and -. The server creates a room that
    /// doesn't exist.
    pub(crate) room: String,
    /// The member's name, 1 to 32 characters: letters with their marks, digits, `-`, `_`, and
    /// `.`. It must not mix scripts that look alike, and must not look like the name of another
    /// member of the room.
    pub(crate) name: String,
    /// The token from `joined`. With it, this connection takes over the member's name and place
    /// in the room; the server closes the old connection with code 4001. Once the member has
    /// left the room, the server ignores the token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) token: Option<String>,
    /// The instance ID from `joined`. If the server has not restarted since then, it sends the
    /// events after number `after` instead of the room's last messages.
    #[serde(rename = "boot_id", default, skip_serializing_if = "Option::is_none")]
    pub(crate) instance_id: Option<String>,
    /// The highest sequence number that the client has seen.
    #[serde(default, deserialize_with = "whole_number")]
    pub(crate) after: u64,
}

/// The request to say something in a room.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Say {
    /// Repeated in the response.
    #[serde(deserialize_with = "whole_number")]
    pub(crate) id: u64,
    /// A room that this connection has joined.
    pub(crate) room: String,
    /// The sender's own ID for this message, 1 to 64 bytes, unique among the messages under
    /// this name. If the sender resends a message under its ID, the server stores it only once.
    pub(crate) message_id: String,
    /// 1 to 1,000 bytes, without control characters other than line feed and tab.
    pub(crate) text: String,
}

/// The request to leave a room.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Leave {
    /// Repeated in the response.
    #[serde(deserialize_with = "whole_number")]
    pub(crate) id: u64,
    /// A room that this connection has joined.
    pub(crate) room: String,
}

/// The request to record a batch.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Record<'a> {
    /// Repeated in the response.
    #[serde(deserialize_with = "whole_number")]
    pub(crate) id: u64,
    /// 1 to 10,000 readings.
    #[serde(deserialize_with = "readings")]
    pub(crate) readings: Cow<'a, [Reading]>,
}

/// The request to read back the newest readings of a station.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ReadBack {
    /// Repeated in the response.
    #[serde(deserialize_with = "whole_number")]
    pub(crate) id: u64,
    /// The station's ID.
    pub(crate) station: String,
    /// Maximum number of readings to return, 1 to 500.
    #[serde(deserialize_with = "whole_number")]
    pub(crate) limit: usize,
}

/// The request to subscribe to every combination of these stations and these metrics, or to
/// unsubscribe from them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Series {
    /// Repeated in the response.
    #[serde(deserialize_with = "whole_number")]
    pub(crate) id: u64,
    /// The IDs of stations, which need not exist yet. An empty list means all stations.
    #[serde(default)]
    pub(crate) stations: Vec<String>,
    /// An empty list means all metrics.
    #[serde(default)]
    pub(crate) metrics: Vec<Metric>,
}

/// A message from the server.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(crate) enum ServerMessage {
    /// The response to `join`. If `resumed` is true, the missed events follow; otherwise, the
    /// room's last messages.
    Joined {
        id: u64,
        room: String,
        name: String,
        /// Identifies this run of the server. The sequence numbers of another run mean nothing.
        #[serde(rename = "boot_id")]
        instance_id: String,
        token: String,
        resumed: bool,
        /// Number of the newest event. `present` is the list of members after this event.
        sequence: u64,
        present: Vec<String>,
    },
    Said {
        id: u64,
        sequence: u64,
        /// Whether the server had already stored the message, under this sequence number.
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
    /// Oldest first. The list is empty if there is no such station.
    Readings {
        id: u64,
        readings: Vec<Numbered>,
    },
    Subscribed {
        id: u64,
        #[serde(rename = "boot_id")]
        instance_id: String,
        /// The stations of this subscription that already exist, sorted. A client learns of
        /// later ones from their first `reading`.
        stations: Vec<String>,
        /// Number of readings ever recorded in the series of this subscription.
        recorded: u64,
    },
    Unsubscribed {
        id: u64,
    },
    Reading(Numbered),
    /// The server left out readings. The newest one of each affected series follows.
    Skipped {
        readings: u64,
    },
    Heartbeat {
        /// Maximum time until the next heartbeat, in milliseconds. If it takes much longer, the
        /// server is gone. (A page needs this message because browsers hide pings from scripts.)
        next_within_ms: u64,
    },
    /// The server did not execute the request. The connection stays open.
    Error {
        /// The request's `id`, or `None` if it could not be read.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        id: Option<u64>,
        code: ErrorCode,
        /// The explanation, for people.
        reason: String,
    },
}

/// A reading and its number.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Numbered {
    /// Number of the reading in its series (one metric of one station), from 1. A client that
    /// both subscribes and reads back uses it to drop duplicates.
    pub(crate) sequence: u64,
    /// The reading.
    #[serde(flatten)]
    pub(crate) reading: Reading,
}

/// What a member of a room did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    /// Entered the room.
    Joined,
    /// Left the room.
    Left,
}

/// The kind of error, for programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorCode {
    /// The message is not a request of this endpoint, or one of its fields is invalid.
    Invalid,
    /// Somebody else in the room has this name, or one that looks like it.
    NameTaken,
    /// The connection is not in the room or, for a `join`, already is.
    WrongRoom,
    /// The request exceeds the server's limit on rooms, members, or stations.
    Full,
}

/// Reads a batch. Each reading must be a JSON object.
fn readings<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Cow<'static, [Reading]>, D::Error> {
    let readings: Vec<Object<Reading>> = Deserialize::deserialize(deserializer)?;
    Ok(readings.into_iter().map(|Object(reading)| reading).collect())
}

impl ServerMessage {
    /// Returns the message as the text of a frame.
    pub(crate) fn to_text(&self) -> Utf8Bytes {
        // Serialization fails only for maps whose keys are not strings. There are none here.
        serde_json::to_string(self).unwrap_or_default().into()
    }
}
