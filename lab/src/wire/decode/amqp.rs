//! AMQP 0-9-1 as RabbitMQ speaks it. Everything travels in frames, and each frame belongs to a
//! channel. A message is a method (such as `basic.publish`), a content header, and body frames.
//!
//! - A method and its `-ok` are a request and its response.
//! - On a channel with confirms, a published message is a request of the client, and the broker's
//!   `basic.ack` or `basic.nack` with its delivery tag is the response.
//! - A delivered message is a request of the broker, and the consumer's `basic.ack`, `basic.nack`,
//!   or `basic.reject` is the response. With automatic acknowledgement, there is none.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};

use super::amqp_arguments::{self, Arguments, Method};
use crate::wire::cursor::{Cursor, number, shown, text};
use crate::wire::json::Json;
use crate::wire::message::{Decoder, Purpose, Role, Side};
use crate::wire::units::{MAX_UNIT, Protocol, Reading, Units, Unreadable};

/// Maximum number of channels that are remembered. RabbitMQ allows 2,047 by default.
const MAX_CHANNELS: usize = 2_047;

/// Maximum number of methods of a channel that are remembered until their `-ok`, in each direction.
const MAX_WAITING: usize = 100;

/// Maximum number of messages that are remembered until their acknowledgement, in each direction.
const MAX_UNSETTLED: usize = 100_000;

/// Maximum number of consumers of a channel with automatic acknowledgement that are remembered.
const MAX_AUTOMATIC: usize = 100;

/// The bytes that a client sends first: the name of the protocol and its version.
const PROTOCOL_HEADER: &[u8; 8] = b"AMQP\0\0\x09\x01";

/// Number of bytes around the payload of a frame: type, channel, size, and end.
const FRAME_OVERHEAD: usize = 8;

/// The last byte of each frame.
const FRAME_END: u8 = 0xCE;

/// Returns a decoder for one connection.
pub fn decoder() -> Box<dyn Decoder> {
    Box::new(Units::new(Amqp::default()))
}

/// A connection.
#[derive(Default)]
struct Amqp {
    /// Whether the client has sent its protocol header.
    greeted: bool,
    channels: HashMap<u64, Channel>,
    /// Number of requests that each side has sent.
    calls: [u64; 2],
    /// The calls of messages without an acknowledgement, by channel and delivery tag: those that
    /// the client published, and those that the broker delivered.
    unsettled: [BTreeMap<(u64, u64), u64>; 2],
}

/// One channel of a connection.
#[derive(Default)]
struct Channel {
    /// Methods of each side without a response, the oldest first.
    waiting: [VecDeque<Waiting>; 2],
    /// The message that each side is sending.
    content: [Content; 2],
    /// Number of messages published since `confirm.select`; `None` on a channel without confirms.
    published: Option<u64>,
    /// Tags of consumers with automatic acknowledgement.
    automatic: HashSet<Vec<u8>>,
}

/// A method that waits for its response.
struct Waiting {
    name: &'static str,
    call: u64,
    /// Whether it is `basic.consume` with automatic acknowledgement.
    is_automatic: bool,
}

/// A message after its method. Its last frame completes it.
#[derive(Default)]
struct Content {
    /// What the whole message is, with its call if it gets a response.
    whole: Option<(Role, Option<u64>)>,
    /// Number of bytes of the body that have not arrived.
    left: u64,
    body: Json,
}

impl Content {
    /// Returns the role and the calls of the frame that was just read.
    fn part(&mut self) -> (Role, Vec<u64>) {
        let whole = if self.left == 0 { self.whole.take() } else { self.whole };
        match whole {
            Some((role, call)) if self.left == 0 => (role, call.into_iter().collect()),
            Some((Role::Request, call)) => (Role::Part, call.into_iter().collect()),
            _ => (Role::Other, Vec::new()),
        }
    }
}

impl Protocol for Amqp {
    fn length(&mut self, from: Side, bytes: &[u8]) -> Result<Option<usize>, Unreadable> {
        // A server sends the header instead of a frame if it does not know the client's version.
        if bytes[0] == PROTOCOL_HEADER[0] || (from == Side::Client && !self.greeted) {
            let name = &PROTOCOL_HEADER[..bytes.len().min(4)];
            return match bytes.starts_with(name) {
                true => Ok((name.len() == 4).then_some(PROTOCOL_HEADER.len())),
                false => Err("not AMQP 0-9-1".into()),
            };
        }
        if !matches!(bytes[0], 1..=3 | 8) {
            return Err("not a frame of AMQP 0-9-1".into());
        }
        let Some(size) = bytes.get(3..7) else { return Ok(None) };
        let length = number(size) as usize + FRAME_OVERHEAD;
        match bytes.get(length - 1) {
            Some(&FRAME_END) => Ok(Some(length)),
            Some(_) => Err("a frame of AMQP 0-9-1 without its end".into()),
            None if length > MAX_UNIT => Err("a frame that is too long to decode".into()),
            None => Ok(None),
        }
    }

    fn read(&mut self, from: Side, unit: &mut Cursor<'_>) -> Reading {
        if unit.peek(1) == &PROTOCOL_HEADER[..1] {
            self.greeted = true;
            unit.take(4, "protocol", text);
            unit.number(1, "protocol id");
            let version = ["major", "minor", "revision"].map(|name| unit.number(1, name).to_string());
            let summary = format!("protocol header AMQP {}", version.join("-"));
            return Reading::other(summary).refused(from == Side::Server);
        }
        let kind = unit.coded(1, "type", |kind| {
            let kinds = ["", "method", "content header", "content body"];
            (*kinds.get(kind as usize).unwrap_or(&"heartbeat")).into()
        });
        let channel = unit.number(2, "channel");
        let size = unit.number(4, "size") as usize;
        let reading = unit.within(size, |unit| match kind {
            1 => self.method(from, channel, unit),
            2 => self.header(from, channel, unit),
            3 => self.body(from, channel, unit),
            _ => Reading::other("heartbeat"),
        });
        unit.coded(1, "frame-end", |end| format!("{end:#x}"));
        reading
    }
}

impl Amqp {
    /// Reads a method.
    fn method(&mut self, from: Side, channel: u64, unit: &mut Cursor<'_>) -> Reading {
        let (class, id) = (number(unit.peek(2)), number(unit.peek(4)) & 0xFFFF);
        let Some(method) = amqp_arguments::method(class, id) else {
            return Reading::other(format!("unknown method {class}.{id}"));
        };
        let (class, own) = method.name.split_once('.').unwrap_or_default();
        unit.coded(2, "class-id", |id| format!("{id} ({class})"));
        unit.coded(2, "method-id", |id| format!("{id} ({own})"));
        let arguments = amqp_arguments::read(unit, &method.arguments);
        let (role, calls) = self.role(from, channel, method, &arguments);
        let refused = matches!(method.name.as_str(), "basic.nack" | "basic.reject" | "basic.return")
            || is_error(&method.name, &arguments);
        Reading { summary: summary(&method.name, &arguments), role, refused, calls }
    }

    /// Returns the role of a method, with its calls, and remembers it.
    fn role(
        &mut self,
        from: Side,
        channel: u64,
        method: &'static Method,
        arguments: &Arguments<'_>,
    ) -> (Role, Vec<u64>) {
        let name = method.name.as_str();
        match name {
            "basic.publish" | "basic.deliver" | "basic.return" | "basic.get-ok" => {
                let whole = self.whole_message(from, channel, name, arguments);
                let content = &mut self.channel(channel).content[from as usize];
                *content = Content { whole, left: u64::MAX, body: Json::default() };
                return content.part();
            }
            "basic.ack" | "basic.nack" | "basic.reject" => {
                let calls = self.settle(from.other(), channel, arguments);
                return (if calls.is_empty() { Role::Other } else { Role::Response }, calls);
            }
            "channel.open" => self.forget(channel),
            "confirm.select" => self.channel(channel).published = Some(0),
            _ => {}
        }
        if let Some(answered) = self.answered(from.other(), channel, name) {
            if answered.is_automatic {
                self.consume_automatically(channel, arguments);
            }
            return (Role::Response, vec![answered.call]);
        }
        if is_error(name, arguments) {
            // An error closes the channel, so the methods that wait get no other response.
            let failed = &mut self.channel(channel).waiting[from.other() as usize];
            let calls: Vec<u64> = failed.drain(..).map(|waiting| waiting.call).collect();
            if !calls.is_empty() {
                return (Role::Response, calls);
            }
        }
        let is_automatic = name == "basic.consume" && arguments.is_set("no-ack");
        if method.has_response && !arguments.is_set("no-wait") {
            let call = self.new_call(from);
            let waiting = &mut self.channel(channel).waiting[from as usize];
            if waiting.len() >= MAX_WAITING {
                waiting.pop_front();
            }
            waiting.push_back(Waiting { name, call, is_automatic });
            return (Role::Request, vec![call]);
        }
        if is_automatic {
            self.consume_automatically(channel, arguments);
        }
        (Role::Other, Vec::new())
    }

    /// Returns the role and the call of a message once it is complete.
    fn whole_message(
        &mut self,
        from: Side,
        channel: u64,
        name: &str,
        arguments: &Arguments<'_>,
    ) -> Option<(Role, Option<u64>)> {
        let tag = match name {
            "basic.publish" => match &mut self.channel(channel).published {
                Some(published) => {
                    *published += 1;
                    *published
                }
                None => return Some((Role::Request, None)),
            },
            "basic.deliver" => {
                if self.channel(channel).automatic.contains(arguments.string("consumer-tag")) {
                    return Some((Role::Request, None));
                }
                arguments.number("delivery-tag")
            }
            _ => {
                let get = self.answered(from.other(), channel, name)?;
                return Some((Role::Response, Some(get.call)));
            }
        };
        let call = self.new_call(from);
        let unsettled = &mut self.unsettled[from as usize];
        if unsettled.len() >= MAX_UNSETTLED {
            return None;
        }
        unsettled.insert((channel, tag), call);
        Some((Role::Request, Some(call)))
    }

    /// Returns the calls of `sender` that an acknowledgement answers.
    fn settle(&mut self, sender: Side, channel: u64, arguments: &Arguments<'_>) -> Vec<u64> {
        let unsettled = &mut self.unsettled[sender as usize];
        let tag = arguments.number("delivery-tag");
        if !arguments.is_set("multiple") {
            return unsettled.remove(&(channel, tag)).into_iter().collect();
        }
        let last = if tag == 0 { u64::MAX } else { tag }; // 0 stands for all of them.
        settle_up_to(unsettled, channel, last)
    }

    /// Returns the request of `sender` that a method answers. Older requests stay without a response.
    fn answered(&mut self, sender: Side, channel: u64, name: &str) -> Option<Waiting> {
        let waiting = &mut self.channels.get_mut(&channel)?.waiting[sender as usize];
        let is_response =
            |waiting: &Waiting| matches!(name.strip_prefix(waiting.name), Some("-ok" | "-empty"));
        let index = waiting.iter().position(is_response)?;
        waiting.drain(..=index).next_back()
    }

    /// Remembers that the consumer with this tag acknowledges automatically.
    fn consume_automatically(&mut self, channel: u64, arguments: &Arguments<'_>) {
        let automatic = &mut self.channel(channel).automatic;
        if automatic.len() < MAX_AUTOMATIC {
            automatic.insert(arguments.string("consumer-tag").to_vec());
        }
    }

    /// Forgets everything about a channel, because its number is used again.
    fn forget(&mut self, channel: u64) {
        self.channels.remove(&channel);
        for unsettled in &mut self.unsettled {
            settle_up_to(unsettled, channel, u64::MAX);
        }
    }

    fn channel(&mut self, channel: u64) -> &mut Channel {
        if self.channels.len() >= MAX_CHANNELS && !self.channels.contains_key(&channel) {
            self.channels.clear();
        }
        self.channels.entry(channel).or_default()
    }

    fn new_call(&mut self, from: Side) -> u64 {
        self.calls[from as usize] += 1;
        self.calls[from as usize]
    }

    /// Reads a content header: the size of the body, and the message's properties.
    fn header(&mut self, from: Side, channel: u64, unit: &mut Cursor<'_>) -> Reading {
        unit.coded(2, "class-id", |id| if id == 60 { "60 (basic)".into() } else { id.to_string() });
        unit.number(2, "weight");
        let size = unit.number(8, "body size");
        let flags = unit.coded(2, "property flags", |flags| format!("{flags:016b}"));
        let properties = amqp_arguments::properties(flags);
        unit.group("property list", |unit| {
            unit.purposed(Purpose::Header, |unit| amqp_arguments::read(unit, &properties));
            (format!("{} properties", properties.len()), ())
        });
        let content = &mut self.channel(channel).content[from as usize];
        content.left = size;
        let (role, calls) = content.part();
        Reading { summary: format!("content header, body of {size} bytes"), role, refused: false, calls }
    }

    /// Reads all of a message's body, or a part of it.
    fn body(&mut self, from: Side, channel: u64, unit: &mut Cursor<'_>) -> Reading {
        let content = &mut self.channel(channel).content[from as usize];
        let size = unit.left().len();
        content.left = content.left.saturating_sub(size as u64);
        let body = content.body.piece(unit, size, content.left == 0);
        let (role, calls) = content.part();
        Reading { summary: format!("body {}", shown(body.as_bytes())), role, refused: false, calls }
    }
}

/// Removes the messages of a channel up to a delivery tag. Returns their calls.
fn settle_up_to(unsettled: &mut BTreeMap<(u64, u64), u64>, channel: u64, last: u64) -> Vec<u64> {
    let tags: Vec<_> = unsettled.range((channel, 0)..=(channel, last)).map(|(key, _)| *key).collect();
    tags.iter().filter_map(|key| unsettled.remove(key)).collect()
}

/// Returns whether a method closes the channel or the connection because of an error.
fn is_error(name: &str, arguments: &Arguments<'_>) -> bool {
    name.ends_with(".close") && arguments.number("reply-code") != 200
}

/// Returns one line about a method.
fn summary(name: &str, arguments: &Arguments<'_>) -> String {
    let string = |argument| shown(arguments.string(argument));
    let tag = arguments.number("delivery-tag");
    match name {
        "basic.publish" if arguments.string("exchange").is_empty() => {
            format!("{name} to {}", string("routing-key"))
        }
        "basic.publish" => format!("{name} to {}, key {}", string("exchange"), string("routing-key")),
        "basic.deliver" | "basic.get-ok" if arguments.is_set("redelivered") => {
            format!("{name} #{tag}, redelivered")
        }
        "basic.ack" | "basic.nack" if arguments.is_set("multiple") && tag == 0 => format!("{name} of all"),
        "basic.ack" | "basic.nack" if arguments.is_set("multiple") => format!("{name} up to #{tag}"),
        _ if tag != 0 => format!("{name} #{tag}"),
        "basic.qos" => format!("{name} prefetch {}", arguments.number("prefetch-count")),
        _ if arguments.is_set("reply-code") => {
            format!("{name} {} {}", arguments.number("reply-code"), string("reply-text"))
        }
        _ => format!("{name} {}", shown(arguments.first_string())).trim_end().to_owned(),
    }
}
