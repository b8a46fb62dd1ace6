//! The first bytes in each direction: `HELLO` and `WELCOME`. Their layout is the
//! same in every version, past and future: it is what two programs of different
//! age have in common, and lets them find out what else they have.

use bytes::{Buf, BufMut};

/// The first four bytes in both directions: "WSTN" in ASCII.
const MAGIC: [u8; 4] = *b"WSTN";

/// The version that this crate speaks: the only one so far.
pub const VERSION: u16 = 1;

/// Bytes in a `HELLO`.
pub const HELLO: usize = 24;

/// Bytes in a `WELCOME`.
pub const WELCOME: usize = 40;

/// 16 random bytes that name a client or one run of a server.
pub type Id = [u8; 16];

/// A new random id.
///
/// # Errors
/// If the system has no randomness to give.
pub fn random_id() -> std::io::Result<Id> {
    let mut id = Id::default();
    getrandom::fill(&mut id)?;
    Ok(id)
}

/// Client: which versions it speaks, and who it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hello {
    /// Lowest version that the client speaks.
    pub lowest: u16,
    /// Highest version that the client speaks.
    pub highest: u16,
    /// The same for all connections of one client, and known to nobody else.
    pub client_id: Id,
}

/// Server: which version is spoken from here on, and the server's limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Welcome {
    /// The highest version that both speak; 0 refuses the connection, and one
    /// `ERROR` that says why follows. It always has the layout of version 1.
    pub version: u16,
    /// Whether the server still knows what it replied to this client id before. If
    /// not, it is new to it, or forgotten.
    pub remembered: bool,
    /// Another one after each start of the server.
    pub instance_id: Id,
    /// Most bytes in the payload of a frame to the server.
    pub max_payload: u32,
    /// How many replies to `RECORD` the server keeps for a client.
    pub window: u32,
    /// Most watches of one connection.
    pub max_watches: u32,
    /// Milliseconds after which the server closes a silent connection.
    pub idle_timeout: u32,
}

impl Hello {
    /// Whether a `HELLO` can begin with these bytes, few as they may be.
    pub fn may_begin(bytes: &[u8]) -> bool {
        let seen = bytes.len().min(MAGIC.len());
        bytes[..seen] == MAGIC[..seen]
    }

    /// The version to speak, 0 if there is none in common.
    pub(crate) fn choose(&self) -> u16 {
        if (self.lowest..=self.highest).contains(&VERSION) { VERSION } else { 0 }
    }

    /// As it is sent.
    pub fn encode(&self) -> [u8; HELLO] {
        let mut bytes = [0; HELLO];
        let mut into = bytes.as_mut_slice();
        into.put_slice(&MAGIC);
        into.put_u16(self.lowest);
        into.put_u16(self.highest);
        into.put_slice(&self.client_id);
        bytes
    }

    /// The reverse of [`Hello::encode`]; `None` without the magic.
    pub fn decode(bytes: &[u8; HELLO]) -> Option<Self> {
        let mut from = bytes.strip_prefix(&MAGIC)?;
        let (lowest, highest) = (from.get_u16(), from.get_u16());
        let mut client_id = Id::default();
        from.copy_to_slice(&mut client_id);
        Some(Self { lowest, highest, client_id })
    }
}

impl Welcome {
    /// As it is sent.
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

    /// The reverse of [`Welcome::encode`]; `None` without the magic.
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
