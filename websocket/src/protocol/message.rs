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
//! | `/chat` | `gap` `room` `missed` | `missed` events are no longer in the room's buffer |
//! | `/live` | `reading` `sequence` `station` `metric` `value` `recorded_at` | this was recorded |
//! | `/live` | `skipped` `readings` | this number was not sent, because this peer reads too slowly |
//! | both | `heartbeat` `next_within_ms` | the server is alive |
//!
//! A request's `id` is chosen by its sender, and the response repeats it: that is
//! how a reply finds its request among everything else that comes in. WebSocket
//! itself has no requests.

use std::borrow::Cow;

use serde::{Deserialize, Deserializer, Serialize};
use tcp_socket::base::json::{Object, whole_number};
use tokio_tungstenite::tungstenite::Utf8Bytes;

use super::model::{Metric, Reading};

/// To the server on `/chat`.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(crate) enum ChatRequest {
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
pub(crate) enum LiveRequest<'a> {
    /// Record a batch, all or nothing.
    Record(Record<'a>),
    /// Read back the newest readings of a station.
    Readings(ReadBack),
    /// Receive the readings of these series as they are recorded, from now on.
    Subscribe(Series),
    /// Stop receiving these.
    Unsubscribe(Series),
}

/// Enter a room, or come back to it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Join {
    /// Repeated in the response.
    #[serde(deserialize_with = "whole_number")]
    pub(crate) id: u64,
    /// The room, `[a-z0-9-]{1,32}`; made if there is none.
    pub(crate) room: String,
    /// The member's name: 1 to 32 letters with their marks, digits, `-`, `_`, and `.`. It must
    /// not mix scripts that look alike, and must not look like the name of another member of
    /// the room.
    pub(crate) name: String,
    /// The token from `joined`. It takes over the name and the place in the room from the
    /// connection that had them, which is closed with code 4001. Once the member has left
    /// the room, the token is ignored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) token: Option<String>,
    /// The instance ID from `joined`. If the server is still the same run, the events after
    /// number `after` follow instead of the room's last messages.
    #[serde(rename = "boot_id", default, skip_serializing_if = "Option::is_none")]
    pub(crate) instance_id: Option<String>,
    /// The last sequence number seen.
    #[serde(default, deserialize_with = "whole_number")]
    pub(crate) after: u64,
}

/// Say something in a room.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Say {
    /// Repeated in the response.
    #[serde(deserialize_with = "whole_number")]
    pub(crate) id: u64,
    /// A room that this connection has joined.
    pub(crate) room: String,
    /// The sender's own ID for this message, 1 to 64 bytes, unique among the messages under
    /// this name. A message that is sent again under its ID is stored once.
    pub(crate) message_id: String,
    /// 1 to 1,000 bytes, without control characters other than line feed and tab.
    pub(crate) text: String,
}

/// Leave a room.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Leave {
    /// Repeated in the response.
    #[serde(deserialize_with = "whole_number")]
    pub(crate) id: u64,
    /// A room that this connection has joined.
    pub(crate) room: String,
}

/// Record a batch.
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

/// Read back the newest readings of a station.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ReadBack {
    /// Repeated in the response.
    #[serde(deserialize_with = "whole_number")]
    pub(crate) id: u64,
    /// The station's id.
    pub(crate) station: String,
    /// How many, 1 to 500.
    #[serde(deserialize_with = "whole_number")]
    pub(crate) limit: usize,
}

/// Every combination of these stations and these metrics.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Series {
    /// Repeated in the response.
    #[serde(deserialize_with = "whole_number")]
    pub(crate) id: u64,
    /// Stations' ids, whether they exist yet or not; none means all.
    #[serde(default)]
    pub(crate) stations: Vec<String>,
    /// None means all.
    #[serde(default)]
    pub(crate) metrics: Vec<Metric>,
}

/// From the server.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(crate) enum ServerMessage {
    /// The response to `join`. The room's last messages follow or, if `resumed` is true, the
    /// missed events.
    Joined {
        id: u64,
        room: String,
        name: String,
        /// Identifies this run of the server; another run has other sequence numbers.
        #[serde(rename = "boot_id")]
        instance_id: String,
        token: String,
        resumed: bool,
        /// Number of the newest event; `present` includes everything up to it.
        sequence: u64,
        present: Vec<String>,
    },
    Said {
        id: u64,
        sequence: u64,
        /// Whether the message had been stored already, under this sequence number.
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
        #[serde(rename = "boot_id")]
        instance_id: String,
        /// The stations of this subscription that exist already, sorted. Each new one is
        /// first seen in a `reading`.
        stations: Vec<String>,
        /// Number of readings ever recorded in the series of this subscription.
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
        /// Maximum time until the next one, in milliseconds. If a page waits much longer, the
        /// server is gone. (Browsers hide pings from scripts.)
        next_within_ms: u64,
    },
    /// The request was not executed; the connection stays open.
    Error {
        /// Missing if the request had no readable `id`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        id: Option<u64>,
        code: ErrorCode,
        /// The explanation, for a person.
        reason: String,
    },
}

/// A reading and its place.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Numbered {
    /// Number of the reading in its series (one metric of one station), from 1.
    /// A client that both reads back and subscribes can drop duplicates by it.
    pub(crate) sequence: u64,
    /// The reading.
    #[serde(flatten)]
    pub(crate) reading: Reading,
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

/// The kind of error, for a program to branch on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorCode {
    /// Not a request of this endpoint, or one of its fields is invalid.
    Invalid,
    /// Somebody else in the room has this name.
    NameTaken,
    /// This connection has not joined the room, or already has.
    WrongRoom,
    /// A limit of the server is reached: rooms, members, or stations.
    Full,
}

/// Reads a batch, each reading as an object.
fn readings<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Cow<'static, [Reading]>, D::Error> {
    let readings: Vec<Object<Reading>> = Deserialize::deserialize(deserializer)?;
    Ok(readings.into_iter().map(|Object(reading)| reading).collect())
}

impl ServerMessage {
    /// Returns the message as the text of a frame.
    pub(crate) fn to_text(&self) -> Utf8Bytes {
        // Fails only for maps whose keys are not strings, and there are none.
        serde_json::to_string(self).unwrap_or_default().into()
    }
}
