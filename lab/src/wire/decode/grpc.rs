//! gRPC in HTTP/2: messages in DATA frames, each after a prefix of five bytes. A frame may end
//! anywhere in them.

use std::io::Read;
use std::sync::LazyLock;

use flate2::read::GzDecoder;
use prost_reflect::{DescriptorPool, MessageDescriptor, MethodDescriptor};

use super::protobuf::message;
use crate::wire::cursor::{Cursor, number, shown};
use crate::wire::message::Purpose;

/// Length of the prefix: a flag and the message's length.
const PREFIX: usize = 5;

/// Maximum length of a message that arrives in several frames or compressed. A longer one is not
/// shown as a whole.
const MAX_MESSAGE: usize = 512 * 1024;

/// What is shown for a message that ends in a later frame.
const CONTINUES: &str = "continues in the next frame";

/// The chapter's proto.
static PROTO: LazyLock<DescriptorPool> =
    LazyLock::new(|| DescriptorPool::decode(grpc::proto::DESCRIPTORS).unwrap_or_default());

/// Returns the method at a request's path, such as `/weather.v1.WeatherService/Record`.
pub fn method(path: &str) -> Option<MethodDescriptor> {
    let (service, method) = path.strip_prefix('/')?.split_once('/')?;
    PROTO.get_service_by_name(service)?.methods().find(|known| known.name() == method)
}

/// The messages in one direction of a call.
#[derive(Default)]
pub struct Messages {
    kind: Option<MessageDescriptor>,
    /// The prefix of the current message, or its first bytes.
    prefix: Vec<u8>,
    /// Number of the message's bytes that have not arrived.
    left: usize,
    /// The message's bytes, if it is compressed or in several frames.
    kept: Vec<u8>,
}

impl Messages {
    /// Returns a reader for messages of this type, if it is known.
    pub fn new(kind: Option<MessageDescriptor>) -> Self {
        Self { kind, ..Self::default() }
    }

    /// Returns how much memory they take.
    pub fn kept(&self) -> usize {
        self.kept.len()
    }

    /// Names all bytes of the unit, which are the next ones of this direction, and keeps at most
    /// `room` of them. Returns the messages that they complete, for a summary.
    pub fn read(&mut self, unit: &mut Cursor<'_>, room: usize) -> String {
        let (mut first, mut count) = (None, 0);
        while !unit.is_empty() {
            if let Some(message) = self.read_part(unit, room) {
                first.get_or_insert(message);
                count += 1;
            }
        }
        match first {
            None if self.prefix.is_empty() => String::new(),
            None => format!("part of {}", self.name()),
            Some(first) if count == 1 => first,
            Some(first) => format!("{first} and {} more", count - 1),
        }
    }

    fn name(&self) -> String {
        self.kind.as_ref().map_or("message".into(), |kind| kind.name().to_owned())
    }

    /// Names the unit's part of one message. Returns the message if it is complete.
    fn read_part(&mut self, unit: &mut Cursor<'_>, room: usize) -> Option<String> {
        let name = self.name();
        unit.group(name.clone(), |unit| {
            let begins = self.prefix.len() < PREFIX;
            if begins {
                self.read_prefix(unit);
            }
            let count = self.left.min(unit.left().len());
            let is_compressed = self.prefix[0] != 0;
            let text = if begins && count == self.left && !is_compressed && self.prefix.len() == PREFIX {
                unit.within(count, |unit| message(unit, self.kind.as_ref()))
            } else {
                if self.kept.len() + count <= MAX_MESSAGE && count <= room {
                    self.kept.extend(unit.peek(count));
                }
                let name = if is_compressed { "compressed message" } else { "part of the message" };
                unit.purposed(Purpose::Information, |unit| unit.text(count, name));
                self.kept_text()
            };
            self.left -= count;
            if self.prefix.len() < PREFIX || self.left > 0 {
                return (CONTINUES.into(), None);
            }
            (self.prefix, self.kept) = Default::default();
            (text.clone(), Some(shown(format!("{name} {text}"))))
        })
    }

    fn read_prefix(&mut self, unit: &mut Cursor<'_>) {
        if self.prefix.is_empty() {
            let meaning = |flag| if flag == 0 { "0: not compressed" } else { "1: compressed" };
            self.prefix.push(unit.coded(1, "Compressed-Flag", |flag| meaning(flag).into()) as u8);
        }
        let missing = unit.peek(PREFIX - self.prefix.len());
        self.prefix.extend(missing);
        let is_whole = self.prefix.len() == PREFIX;
        self.left = if is_whole { number(&self.prefix[1..]) as usize } else { 0 };
        let length = if is_whole { self.left.to_string() } else { CONTINUES.into() };
        unit.take(missing.len(), "Message-Length", |_| length);
    }

    /// Returns the message whose bytes were kept, for people.
    fn kept_text(&self) -> String {
        if self.kept.len() as u64 != number(&self.prefix[1..]) {
            return "{…}".into(); // Incomplete, or too long.
        }
        let text = |bytes: &[u8]| message(&mut Cursor::new(bytes, 0), self.kind.as_ref());
        if self.prefix[0] == 0 {
            return text(&self.kept);
        }
        let mut content = Vec::new();
        match GzDecoder::new(&*self.kept).take(MAX_MESSAGE as u64).read_to_end(&mut content) {
            Ok(MAX_MESSAGE) => "(gzip) {…}".into(), // Too long.
            Ok(_) => format!("(gzip) {}", text(&content)),
            Err(_) => "(compressed, but not with gzip)".into(),
        }
    }
}
