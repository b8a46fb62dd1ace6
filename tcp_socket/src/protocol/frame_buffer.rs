//! The receiving half of framing: collects what arrives, in whatever pieces, and
//! hands out whole frames.

use std::io;

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt};

use crate::protocol::frame::{BadFrame, Frame, HEADER, payload_length};

/// Bytes asked for in one read, if the next frame does not need fewer.
pub const READ: usize = 8 * 1024;

/// Bytes that arrived and are not yet taken as frames.
///
/// It grows with what has really arrived, never on the word of a header alone,
/// and to no more than one frame of the largest size (or [`READ`], if that is
/// more): a peer that announces much and sends little costs little.
#[derive(Debug)]
pub struct FrameBuffer {
    bytes: BytesMut,
    /// Length of the frame that was handed out last, still at the front.
    taken: usize,
    max_payload: u32,
}

impl FrameBuffer {
    /// An empty buffer for frames with payloads of up to `max_payload` bytes.
    pub fn new(max_payload: u32) -> Self {
        Self { bytes: BytesMut::with_capacity(READ), taken: 0, max_payload }
    }

    /// Waits for more bytes; 0 means that the peer will send no more.
    /// Cancel safe: what was read is in the buffer.
    ///
    /// # Errors
    /// Those of the socket.
    pub async fn read_from(&mut self, from: &mut (impl AsyncRead + Unpin)) -> io::Result<usize> {
        self.make_room();
        from.read_buf(&mut self.bytes).await
    }

    /// Adds bytes that came by another way than [`FrameBuffer::read_from`]; returns
    /// how many fitted.
    pub fn push(&mut self, bytes: &[u8]) -> usize {
        self.make_room();
        let count = bytes.len().min(self.bytes.capacity() - self.bytes.len());
        self.bytes.extend_from_slice(&bytes[..count]);
        count
    }

    /// The next whole frame, if there is one. It stays in the buffer until the
    /// next call, so that nothing is copied.
    ///
    /// # Errors
    /// [`BadFrame`]; then there is nothing more to be had from this stream.
    pub fn next_frame(&mut self) -> Result<Option<Frame<'_>>, BadFrame> {
        self.bytes.advance(std::mem::take(&mut self.taken));
        let frame = Frame::parse(&self.bytes, self.max_payload)?;
        if let Some(frame) = &frame {
            self.taken = frame.wire_len();
        }
        Ok(frame)
    }

    /// The bytes of an incomplete frame, if the stream ended here.
    pub fn rest(&self) -> &[u8] {
        &self.bytes[self.taken..]
    }

    /// Removes and returns the first `count` bytes if they are there: for what
    /// comes before the first frame.
    pub(crate) fn take_bytes<const COUNT: usize>(&mut self) -> Option<[u8; COUNT]> {
        let bytes = *self.bytes.first_chunk::<COUNT>()?;
        self.bytes.advance(COUNT);
        Some(bytes)
    }

    /// Bytes that the buffer could hold without another allocation.
    pub fn capacity(&self) -> usize {
        self.bytes.capacity()
    }

    /// Makes room for at least one byte, without going beyond one largest frame.
    fn make_room(&mut self) {
        self.bytes.advance(std::mem::take(&mut self.taken));
        let length = self.bytes.len();
        let largest = (HEADER + self.max_payload as usize).max(READ);
        // After `next_frame` said `None` the buffer holds less than one frame.
        let missing = match payload_length(&self.bytes, self.max_payload) {
            Ok(Some(payload)) => (HEADER + payload).saturating_sub(length),
            _ => READ.min(largest.saturating_sub(length)),
        };
        if self.bytes.try_reclaim(missing.clamp(1, READ)) {
            return;
        }
        // Not `reserve`, which would double without regard to the limit.
        let mut larger = BytesMut::with_capacity((2 * length).clamp(READ, largest));
        larger.extend_from_slice(&self.bytes);
        self.bytes = larger;
    }
}
