//! Framing: where one message ends and the next begins.
//!
//! TCP delivers a stream of bytes. One side may write two pieces, and the other may read
//! them as one, or as seven. So every message is a *frame*: a header of fixed size that says
//! how long the payload is, then the payload. The receiver collects bytes in a
//! [`FrameBuffer`], in whatever pieces they arrive, until it has a whole frame.
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

use std::io;

use bytes::{Buf, BufMut, BytesMut};
use crc32c::{crc32c, crc32c_append};
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Bytes in a header: kind 2, flags 2, request ID 4, payload length 4, checksum 4.
/// All numbers are big-endian, as in most network protocols.
pub const HEADER: usize = 16;

/// Offset of the checksum in the header. It covers all bytes before and after it.
const CHECKSUM_AT: usize = 12;

/// The kinds of frames. The values are those of `PROTOCOL.md`, section 5.
pub mod kind {
    /// Client: record a batch.
    pub const RECORD: u16 = 0x0001;
    /// Client: stream the readings of a station.
    pub const WATCH: u16 = 0x0002;
    /// Client: end the watch with this request ID.
    pub const CANCEL: u16 = 0x0003;
    /// Client: respond with a `PONG`.
    pub const PING: u16 = 0x0004;
    /// Either side: nothing follows.
    pub const GOODBYE: u16 = 0x0005;
    /// Client, since version 2: the token that says who it is.
    pub const TOKEN: u16 = 0x0010;
    /// Server: the batch is recorded.
    pub const RECORDED: u16 = 0x0101;
    /// Server: some readings of a watched station.
    pub const READING: u16 = 0x0102;
    /// Server: the response to a `PING`.
    pub const PONG: u16 = 0x0104;
    /// Server, since version 2: the name of the principal with the token.
    pub const CALLER: u16 = 0x0110;
    /// Server: the request failed or, with request ID 0, the connection.
    pub const ERROR: u16 = 0x01ff;
}

/// Flag of a `READING`: it is the last one of its watch.
pub const FLAG_END: u16 = 0x0100;

/// Flags in these bits change the meaning of a frame, so a receiver must not act on a frame
/// if it does not know one of them. It ignores unknown flags in the other bits.
pub(crate) const CRITICAL_FLAGS: u16 = 0xff00;

/// One frame, with its payload still in the receive buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame<'a> {
    /// One of [`kind`], or one that this version does not know.
    pub kind: u16,
    /// [`FLAG_END`], or flags that this version does not know.
    pub flags: u16,
    /// Chosen by the client for its request and repeated in each response to it; 0 in a frame
    /// about the connection.
    pub request_id: u32,
    /// Depends on the kind: see [`crate::protocol::message`].
    pub payload: &'a [u8],
}

/// Why the rest of a stream cannot be read: the receiver can't know where the next frame
/// begins.
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
    /// The checksum does not match the bytes.
    #[error("the frame says checksum {announced:08x}, its bytes say {computed:08x}")]
    Checksum {
        /// The checksum in the header.
        announced: u32,
        /// The checksum of the bytes that arrived.
        computed: u32,
    },
}

impl<'a> Frame<'a> {
    /// Returns the frame at the beginning of `bytes`, or `None` if it is still incomplete.
    ///
    /// # Errors
    /// [`BadFrame`]. The length is checked as soon as the header is complete.
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

    /// Returns the number of bytes of the frame on the wire, header included.
    pub fn wire_len(&self) -> usize {
        HEADER + self.payload.len()
    }
}

/// Returns the CRC-32C of everything except the checksum itself.
fn checksum(header: &[u8; HEADER], payload: &[u8]) -> u32 {
    let checksum = crc32c(&header[..CHECKSUM_AT]);
    if payload.is_empty() { checksum } else { crc32c_append(checksum, payload) }
}

/// Returns the announced length of the payload, or `None` if the header is still incomplete.
pub(crate) fn payload_length(bytes: &[u8], limit: u32) -> Result<Option<usize>, BadFrame> {
    let Some(mut header) = bytes.get(8..HEADER) else { return Ok(None) };
    let length = header.get_u32();
    if length > limit {
        return Err(BadFrame::TooLarge { length, limit });
    }
    Ok(Some(length as usize))
}

/// Appends one frame; `write` appends its payload. The payload need not be copied, since the
/// length and the checksum are filled in after it.
///
/// A payload over 4 GiB would not fit its length field, but the limits of all callers are
/// far below that.
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

/// Writes all of `output`, and flushes the stream. Cancel safe: bytes that were written are no
/// longer in `output`.
pub(crate) async fn write_out(to: &mut (impl AsyncWrite + Unpin), output: &mut BytesMut) -> io::Result<()> {
    to.write_all_buf(output).await?;
    to.flush().await
}

/// Number of bytes to make room for before a read, unless the next frame needs fewer.
pub const READ: usize = 8 * 1024;

/// Bytes that have arrived but have not been returned as frames yet.
///
/// The buffer grows only with the bytes that have arrived, never because a header announces
/// more. It holds at most one frame of the largest size (or [`READ`] bytes, if that is more).
/// So a peer that announces a lot but sends little costs little memory.
#[derive(Debug)]
pub struct FrameBuffer {
    bytes: BytesMut,
    /// Length of the frame that was returned last and is still at the front.
    taken: usize,
    max_payload: u32,
}

impl FrameBuffer {
    /// Creates an empty buffer for frames with payloads of up to `max_payload` bytes.
    pub fn new(max_payload: u32) -> Self {
        Self { bytes: BytesMut::with_capacity(READ), taken: 0, max_payload }
    }

    /// Waits for more bytes, and returns how many arrived; 0 means that the peer will send no
    /// more. Cancel safe: bytes that were read are in the buffer.
    ///
    /// # Errors
    /// Those of the socket.
    pub async fn read_from(&mut self, from: &mut (impl AsyncRead + Unpin)) -> io::Result<usize> {
        self.make_room();
        from.read_buf(&mut self.bytes).await
    }

    /// Adds bytes that did not come through [`FrameBuffer::read_from`]. Returns how many of
    /// them fit.
    pub fn push(&mut self, bytes: &[u8]) -> usize {
        self.make_room();
        let count = bytes.len().min(self.bytes.capacity() - self.bytes.len());
        self.bytes.extend_from_slice(&bytes[..count]);
        count
    }

    /// Returns the next whole frame, if there is one. It stays in the buffer until the next
    /// call, so that nothing is copied.
    ///
    /// # Errors
    /// [`BadFrame`]; after that, nothing more can be read from this stream.
    pub fn next_frame(&mut self) -> Result<Option<Frame<'_>>, BadFrame> {
        self.bytes.advance(std::mem::take(&mut self.taken));
        let frame = Frame::parse(&self.bytes, self.max_payload)?;
        if let Some(frame) = &frame {
            self.taken = frame.wire_len();
        }
        Ok(frame)
    }

    /// Returns the bytes that do not belong to a returned frame. Once
    /// [`FrameBuffer::next_frame`] has returned `None`, they are an incomplete frame.
    pub fn rest(&self) -> &[u8] {
        &self.bytes[self.taken..]
    }

    /// Removes and returns the first `COUNT` bytes if they have arrived. The handshake uses
    /// this before the first frame.
    pub(crate) fn take_bytes<const COUNT: usize>(&mut self) -> Option<[u8; COUNT]> {
        let bytes = *self.bytes.first_chunk::<COUNT>()?;
        self.bytes.advance(COUNT);
        Some(bytes)
    }

    /// Returns how many bytes the buffer can hold without another allocation.
    pub fn capacity(&self) -> usize {
        self.bytes.capacity()
    }

    /// Makes room for at least one byte, without growing beyond one largest frame.
    fn make_room(&mut self) {
        self.bytes.advance(std::mem::take(&mut self.taken));
        let length = self.bytes.len();
        let largest = (HEADER + self.max_payload as usize).max(READ);
        // After `next_frame` has returned `None`, the buffer holds less than one frame.
        let missing = match payload_length(&self.bytes, self.max_payload) {
            Ok(Some(payload)) => (HEADER + payload).saturating_sub(length),
            _ => READ.min(largest.saturating_sub(length)),
        };
        if self.bytes.try_reclaim(missing.clamp(1, READ)) {
            return;
        }
        // `reserve` would double the capacity, whatever the limit is.
        let mut larger = BytesMut::with_capacity((2 * length).clamp(READ, largest));
        larger.extend_from_slice(&self.bytes);
        self.bytes = larger;
    }
}
