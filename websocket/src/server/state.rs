//! The state that all connections of a server share.

use std::io;
use std::sync::Arc;

use super::live::Live;
use super::origin::Origin;
use super::room::Rooms;
use super::tickets::Tickets;
use crate::limits::Limits;
use crate::protocol::random_id;

/// The state of one run of the server.
pub(super) struct Shared {
    pub(super) rooms: Arc<Rooms>,
    pub(super) live: Arc<Live>,
    pub(super) limits: Limits,
    pub(super) tickets: Tickets,
    /// Marks the page's own script and style: see [`page`](super::page).
    pub(super) nonce: String,
    /// The origins whose pages may connect, including the server's own.
    pub(super) allowed_origins: Vec<Origin>,
}

impl Shared {
    /// Creates the state, without rooms or readings.
    pub(super) fn new(limits: Limits, allowed_origins: Vec<Origin>) -> io::Result<Self> {
        let instance_id = random_id().map_err(io::Error::other)?;
        let nonce = random_id().map_err(io::Error::other)?;
        let rooms = Arc::new(Rooms::new(instance_id.clone()));
        let live = Arc::new(Live::new(instance_id));
        Ok(Self { rooms, live, limits, tickets: Tickets::default(), nonce, allowed_origins })
    }
}
