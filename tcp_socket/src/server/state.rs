//! What all connections of a server share.

use std::io;
use std::sync::Arc;

use bytes::BytesMut;

use crate::limits::{Limits, REPLIES_KEPT};
use crate::protocol::handshake::{Id, Welcome, random_id};
use crate::protocol::message::Refusal;
use crate::server::replies::Replies;
use crate::server::store::Store;

/// What all connections of a server share.
pub(crate) struct State {
    pub(crate) store: Arc<Store>,
    pub(crate) replies: Replies,
    pub(crate) limits: Limits,
    instance_id: Id,
}

impl State {
    /// Starts with an empty store, and remembers no clients.
    pub(crate) fn new(limits: Limits) -> io::Result<Self> {
        let replies = Replies::new(limits.connections.max_connections);
        Ok(Self { store: Arc::default(), replies, limits, instance_id: random_id()? })
    }

    /// Returns the response to a `HELLO`.
    pub(crate) fn welcome(&self, version: u16, remembered: bool) -> Welcome {
        let idle_timeout = self.limits.idle_timeout.as_millis();
        Welcome {
            version,
            remembered,
            instance_id: self.instance_id,
            max_payload: self.limits.max_payload,
            window: REPLIES_KEPT as u32,
            max_watches: u32::try_from(self.limits.max_watches).unwrap_or(u32::MAX),
            idle_timeout: u32::try_from(idle_timeout).unwrap_or(u32::MAX),
        }
    }

    /// Returns the bytes for a refused connection: a `WELCOME` with version 0, then an `ERROR`
    /// with the reason.
    pub(crate) fn refusal_of_connection(&self, refusal: &Refusal) -> BytesMut {
        let mut bytes = BytesMut::from(self.welcome(0, false).encode().as_slice());
        refusal.put_frame(&mut bytes, 0);
        bytes
    }
}
