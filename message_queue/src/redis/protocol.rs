//! Requests and replies as messages. What AMQP has as properties must be in them.

use serde::{Deserialize, Serialize};

use crate::model::{Reading, objects, whole_number};
use crate::record::Reply;

/// What travels to the server.
#[derive(Serialize)]
pub(super) struct Request<'a> {
    pub(super) id: u64,
    pub(super) reply_to: &'a str,
    pub(super) readings: &'a [Reading],
}

/// The same, as the server reads it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Received {
    #[serde(deserialize_with = "whole_number")]
    pub(super) id: u64,
    pub(super) reply_to: String,
    #[serde(deserialize_with = "objects")]
    pub(super) readings: Vec<Reading>,
}

/// Of a request that can't be understood otherwise, where to say so.
#[derive(Deserialize)]
pub(super) struct Address {
    #[serde(deserialize_with = "whole_number")]
    pub(super) id: u64,
    pub(super) reply_to: String,
}

/// What travels back.
#[derive(Serialize, Deserialize)]
pub(super) struct ReplyMessage {
    pub(super) id: u64,
    pub(super) answer: Reply,
}
