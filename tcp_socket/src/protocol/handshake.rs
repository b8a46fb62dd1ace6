//! The first bytes in each direction: `HELLO` and `WELCOME`. Their layout is the same in
//! every version, past and future, so an old program and a new one can find out which
//! versions they have in common.

use bytes::{Buf, BufMut};

/// The first four bytes in both directions: "WSTN" in ASCII.
const MAGIC: [u8; 4] = *b"WSTN";

/// The first version. All clients and servers speak it.
pub const VERSION: u16 = 1;

/// The version with `TOKEN`, by which a client says who it is: `PROTOCOL.md`, section 6.10. A
/// server speaks it if it checks its callers, and a client if it has a token.
pub const VERSION_WITH_TOKEN: u16 = 2;

/// Bytes in a `HELLO`.
pub const HELLO: usize = 24;

/// Bytes in a `WELCOME`.
pub const WELCOME: usize = 40;

/// 16 random bytes that identify a client or one run of a server.
pub type Id = [u8; 16];

/// Returns a new random ID.
///
/// # Errors
/// If the system cannot provide random bytes.
pub fn random_id() -> std::io::Result<Id> {
    let mut id = Id::default();
    getrandom::fill(&mut id)?;
    Ok(id)
}

/// The client's first message: which versions it speaks, and who it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hello {
    /// Lowest version that the client speaks.
    pub lowest: u16,
    /// Highest version that the client speaks.
    pub highest: u16,
    /// The same for all connections of one client, and known to nobody else.
    pub client_id: Id,
}

/// The server's first message: the version to speak from here on, and the server's limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Welcome {
    /// The highest version that both sides speak. 0 refuses the connection: an `ERROR` with the
    /// reason follows, always in the layout of version 1.
    pub version: u16,
    /// Whether the server still keeps its replies to this client ID. If not, the ID is new or
    /// the server has forgotten it.
    pub remembered: bool,
    /// Random, and different each time the server starts.
    pub instance_id: Id,
    /// Maximum number of bytes in the payload of a frame to the server.
    pub max_payload: u32,
    /// Number of replies to `RECORD` that the server keeps for a client.
    pub window: u32,
    /// Maximum number of watches of one connection.
    pub max_watches: u32,
    /// Milliseconds after which the server closes a silent connection.
    pub idle_timeout: u32,
}

impl Hello {
    /// Returns whether a `HELLO` can begin with these bytes, however few they are.
    pub fn may_begin(bytes: &[u8]) -> bool {
        let seen = bytes.len().min(MAGIC.len());
        bytes[..seen] == MAGIC[..seen]
    }

    /// Returns the version to speak, for a server that speaks all from 1 to `highest`, or 0 if
    /// there is no common one.
    pub(crate) fn choose(&self, highest: u16) -> u16 {
        let common = self.highest.min(highest);
        if common >= self.lowest.max(VERSION) { common } else { 0 }
    }

    /// Returns its bytes on the wire.
    pub fn encode(&self) -> [u8; HELLO] {
        let mut bytes = [0; HELLO];
        let mut into = bytes.as_mut_slice();
        into.put_slice(&MAGIC);
        into.put_u16(self.lowest);
        into.put_u16(self.highest);
        into.put_slice(&self.client_id);
        bytes
    }

    /// Reverses [`Hello::encode`]. Returns `None` if the magic is missing.
    pub fn decode(bytes: &[u8; HELLO]) -> Option<Self> {
        let mut from = bytes.strip_prefix(&MAGIC)?;
        let (lowest, highest) = (from.get_u16(), from.get_u16());
        let mut client_id = Id::default();
        from.copy_to_slice(&mut client_id);
        Some(Self { lowest, highest, client_id })
    }
}

impl Welcome {
    /// Returns its bytes on the wire.
    pub fn encode(&self) -> [u8; WELCOME] {
        let mut bytes = [0; WELCOME];
        let mut into = bytes.as_mut_slice();
        into.put_slice(&MAGIC);
        into.put_u16(self.version);
        into.put_u16(self.remembered.into());
        into.put_slice(&self.instance_id);
        into.put_u32(self.max_payload);
        into.put_u32(self.window);
        into.put_u32(self.max_watches);
        into.put_u32(self.idle_timeout);
        bytes
    }

    /// Reverses [`Welcome::encode`]. Returns `None` if the magic is missing.
    pub fn decode(bytes: &[u8; WELCOME]) -> Option<Self> {
        let mut from = bytes.strip_prefix(&MAGIC)?;
        let version = from.get_u16();
        let remembered = from.get_u16() != 0;
        let mut instance_id = Id::default();
        from.copy_to_slice(&mut instance_id);
        Some(Self {
            version,
            remembered,
            instance_id,
            max_payload: from.get_u32(),
            window: from.get_u32(),
            max_watches: from.get_u32(),
            idle_timeout: from.get_u32(),
        })
    }
}
