//! Header blocks of HTTP/2: HPACK (RFC 7541).
//!
//! The crate for HPACK knows the table, but not which bytes stand for a header, and it panics on
//! some input that is cut. So this code finds the end of each representation first.

use std::collections::VecDeque;
use std::ops::Range;

use fluke_hpack::decoder::{Decoder, DecoderError};

use crate::wire::cursor::Cursor;
use crate::wire::message::Purpose;

/// Maximum size of the dynamic table. It is 4,096 until one end asks for more.
const MAX_TABLE: usize = 64 * 1024;

/// Maximum number of bytes of a name or value that are shown.
const MAX_TEXT: usize = 256;

/// Headers that contain credentials.
const SECRETS: [&str; 4] = ["authorization", "cookie", "proxy-authorization", "set-cookie"];

/// The byte that stands for `*` in a string with Huffman code.
const HUFFMAN_STAR: u8 = 0xf9;

/// One representation in a header block, decoded.
pub struct Header {
    /// The header's name.
    pub name: String,
    /// Its value. A credential is not in it.
    pub value: String,
    /// How it is represented.
    how: &'static str,
    /// Number of its bytes that have no name yet, without those of a credential.
    open: usize,
    /// Number of bytes of a credential, which come last.
    secret: usize,
    filler: u8,
}

/// The state of one direction: none once a block could not be read, because then the table is wrong
/// for all later blocks.
pub struct Hpack(Option<Decoder<'static>>);

impl Default for Hpack {
    fn default() -> Self {
        let mut decoder = Decoder::new();
        decoder.set_max_allowed_table_size(MAX_TABLE);
        Self(Some(decoder))
    }
}

impl Hpack {
    /// Reads a whole header block. All headers together have as many bytes as the block.
    pub fn read(&mut self, mut block: &[u8]) -> VecDeque<Header> {
        let mut headers = VecDeque::new();
        while !block.is_empty() {
            let header = self.0.as_mut().and_then(|decoder| decode(decoder, block));
            let header = header.unwrap_or_else(|| {
                // It may contain a credential, so nothing of it is shown.
                self.0 = None;
                let (name, value) = ("not valid HPACK".into(), "hidden".into());
                Header { name, value, how: "unreadable", open: 0, secret: block.len(), filler: b'*' }
            });
            block = &block[header.open + header.secret..];
            headers.push_back(header);
        }
        headers
    }
}

/// Decodes the first representation of the block.
fn decode(decoder: &mut Decoder<'_>, block: &[u8]) -> Option<Header> {
    let (span, is_huffman) = value_span(block)?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(&bytes[..bytes.len().min(MAX_TEXT)]).into_owned();
    // The name and the value of a representation that is not a header.
    let mut name = "dynamic table size update".to_owned();
    let mut value = integer(block, 0, 5).map_or(String::new(), |(size, _)| size.to_string());
    let mut is_secret = false;
    let result = decoder.decode_with_cb(&block[..span.end], |its_name, its_value| {
        name = text(&its_name);
        is_secret = SECRETS.iter().any(|secret| name.eq_ignore_ascii_case(secret));
        value = if is_secret { "hidden".into() } else { text(&its_value) };
    });
    // The decoder has applied a size update even if it says that none may come last.
    if result.is_err_and(|error| error != DecoderError::SizeUpdateAtEnd) {
        return None;
    }
    let secret = if is_secret { span.len() } else { 0 };
    let filler = if is_huffman { HUFFMAN_STAR } else { b'*' };
    Some(Header { name, value, how: how(block[0]), open: span.end - secret, secret, filler })
}

/// Names all bytes of the unit, which are the next ones of a block. A header may have begun in the
/// frame before, or end in a later one: then both have its name.
pub fn name(headers: &mut VecDeque<Header>, unit: &mut Cursor<'_>) {
    unit.purposed(Purpose::Header, |unit| {
        while let Some(header) = headers.front_mut().filter(|_| !unit.is_empty()) {
            let value = format!("{} ({})", header.value, header.how);
            header.open -= unit.take(header.open, header.name.clone(), |_| value).len();
            let secret = header.secret.min(unit.left().len());
            unit.secret(secret, header.name.clone(), header.filler);
            header.secret -= secret;
            if header.open + header.secret == 0 {
                headers.pop_front();
            }
        }
    });
}

fn how(first: u8) -> &'static str {
    match first {
        0x80.. => "indexed",
        0x40.. => "literal, added to the table",
        0x20.. => "not a header",
        0x10.. => "literal, never indexed",
        _ => "literal",
    }
}

/// Finds the end of the first representation of a block. Returns where the bytes of its value are if
/// it is a literal, otherwise an empty range at the end; and whether they are in Huffman code. Returns
/// `None` if the representation is cut or a number in it is too long.
fn value_span(block: &[u8]) -> Option<(Range<usize>, bool)> {
    let (index, mut at) = match *block.first()? {
        first @ (0x80.. | 0x20..0x40) => {
            let (_, end) = integer(block, 0, if first < 0x80 { 5 } else { 7 })?;
            return Some((end..end, false));
        }
        0x40.. => integer(block, 0, 6)?,
        _ => integer(block, 0, 4)?,
    };
    if index == 0 {
        let (length, start) = integer(block, at, 7)?;
        at = start + length;
    }
    let is_huffman = block.get(at)? & 0x80 != 0;
    let (length, start) = integer(block, at, 7)?;
    let end = start + length;
    (end <= block.len()).then_some((start..end, is_huffman))
}

/// Returns an integer whose first byte has a prefix of `bits` bits, and where it ends.
fn integer(block: &[u8], at: usize, bits: u32) -> Option<(usize, usize)> {
    let mask = (1 << bits) - 1;
    let first = usize::from(*block.get(at)?) & mask;
    if first < mask {
        return Some((first, at + 1));
    }
    let mut value = mask;
    for (index, byte) in block[at + 1..].iter().enumerate().take(4) {
        value += usize::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            return Some((value, at + 2 + index));
        }
    }
    None
}
