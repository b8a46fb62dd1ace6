//! Framing: where one message ends and the next begins.
//!
//! TCP delivers a stream of bytes. What one side wrote in two pieces the other
//! may read in one, or in seven. So every message is a *frame*: a header of
//! fixed size that says how long the payload is, then the payload. The receiver
//! collects bytes until a whole frame is there: [`crate::protocol::frame_buffer`].
//!
//! ```
//! use bytes::BytesMut;
//! use tcp_socket::protocol::frame::{Frame, kind, put_frame};
//!
//! let mut wire = BytesMut::new();
//! put_frame(&mut wire, kind::PING, 0, 7, |_payload| {});
//! assert_eq!(Frame::parse(&wire[..15], 1024), Ok(None)); // one byte is missing
//! let frame = Frame::parse(&wire, 1024).unwrap().unwrap();
//! assert_eq!((frame.kind, frame.request_id), (kind::PING, 7));
//! ```

use bytes::{Buf, BufMut, BytesMut};
use crc32c::{crc32c, crc32c_append};
use thiserror::Error;

/// Bytes in a header: kind 2, flags 2, request id 4, payload length 4, checksum 4.
/// All numbers are big-endian, as is the custom in network protocols.
pub const HEADER: usize = 16;

/// Offset of the checksum in the header; it covers what lies before and behind it.
const CHECKSUM_AT: usize = 12;

/// What a frame is. The values are those of `PROTOCOL.md`, section 5.
pub mod kind {
    /// Client: record a batch.
    pub const RECORD: u16 = 0x0001;
    /// Client: stream the readings of a station.
    pub const WATCH: u16 = 0x0002;
    /// Client: end the watch with this request id.
    pub const CANCEL: u16 = 0x0003;
    /// Client: answer with a `PONG`.
    pub const PING: u16 = 0x0004;
    /// Either: nothing follows.
    pub const GOODBYE: u16 = 0x0005;
    /// Server: the batch is recorded.
    pub const RECORDED: u16 = 0x0101;
    /// Server: some readings of a watched station.
    pub const READING: u16 = 0x0102;
    /// Server: answer to `PING`.
    pub const PONG: u16 = 0x0104;
    /// Server: the request failed, or with request id 0 the connection did.
    pub const ERROR: u16 = 0x01ff;
}

/// Flag of a `READING`: the last one of its watch.
pub const FLAG_END: u16 = 0x0100;

/// Flags in these bits change the meaning of a frame: a receiver that does not
/// know one must refuse the frame. It ignores unknown flags in the other bits.
pub(crate) const CRITICAL_FLAGS: u16 = 0xff00;

/// One frame, its payload still in the receive buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame<'a> {
    /// One of [`kind`], or one that this version does not know.
    pub kind: u16,
    /// [`FLAG_END`], or flags that this version does not know.
    pub flags: u16,
    /// Chosen by the client for its request and repeated in each answer to it;
    /// 0 concerns the connection.
    pub request_id: u32,
    /// Depends on the kind: see [`crate::protocol::message`].
    pub payload: &'a [u8],
}

/// The stream cannot be read on: where the next frame begins is unknown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum BadFrame {
    /// The header announces a payload over the limit.
    #[error("a payload holds at most {limit} bytes, not {length}")]
    TooLarge {
        /// The announced length.
        length: u32,
        /// The receiver's limit.
        limit: u32,
    },
    /// The checksum does not fit the bytes.
    #[error("the frame says checksum {announced:08x}, its bytes say {computed:08x}")]
    Checksum {
        /// What the header holds.
        announced: u32,
        /// What the bytes give.
        computed: u32,
    },
}

impl<'a> Frame<'a> {
    /// The frame at the beginning of `bytes`; `None` if it is not all there yet.
    ///
    /// # Errors
    /// [`BadFrame`], the length as soon as the header is there.
    pub fn parse(bytes: &'a [u8], max_payload: u32) -> Result<Option<Self>, BadFrame> {
        let Some(length) = payload_length(bytes, max_payload)? else { return Ok(None) };
        let Some(frame) = bytes.get(..HEADER + length) else { return Ok(None) };
        let Some((header, payload)) = frame.split_first_chunk::<HEADER>() else { return Ok(None) };
        let mut fields = header.as_slice();
        let (kind, flags, request_id) = (fields.get_u16(), fields.get_u16(), fields.get_u32());
        let (_length, announced) = (fields.get_u32(), fields.get_u32());
        let computed = checksum(header, payload);
        if announced != computed {
            return Err(BadFrame::Checksum { announced, computed });
        }
        Ok(Some(Self { kind, flags, request_id, payload }))
    }

    /// Bytes of the frame on the wire, its header included.
    pub fn wire_len(&self) -> usize {
        HEADER + self.payload.len()
    }
}

/// CRC-32C of all but the checksum itself.
fn checksum(header: &[u8; HEADER], payload: &[u8]) -> u32 {
    let checksum = crc32c(&header[..CHECKSUM_AT]);
    if payload.is_empty() { checksum } else { crc32c_append(checksum, payload) }
}

/// The announced length of the payload, once the header is there.
pub(crate) fn payload_length(bytes: &[u8], limit: u32) -> Result<Option<usize>, BadFrame> {
    let Some(mut header) = bytes.get(8..HEADER) else { return Ok(None) };
    let length = header.get_u32();
    if length > limit {
        return Err(BadFrame::TooLarge { length, limit });
    }
    Ok(Some(length as usize))
}

/// Appends one frame, whose payload `write` appends in its turn. Nothing is
/// copied: length and checksum are filled in when the payload is there.
///
/// A payload over 4 GiB would not fit its length field; what calls this is
/// bounded far below that.
pub fn put_frame(
    into: &mut BytesMut,
    kind: u16,
    flags: u16,
    request_id: u32,
    write: impl FnOnce(&mut BytesMut),
) {
    let start = into.len();
    into.put_slice(&[0; HEADER]);
    write(into);
    let Some((header, payload)) = into[start..].split_first_chunk_mut::<HEADER>() else { return };
    let mut fields = header.as_mut_slice();
    fields.put_u16(kind);
    fields.put_u16(flags);
    fields.put_u32(request_id);
    fields.put_u32(payload.len() as u32);
    let checksum = checksum(header, payload);
    header[CHECKSUM_AT..].copy_from_slice(&checksum.to_be_bytes());
}
