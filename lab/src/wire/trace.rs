//! A recording with its messages: what the views show and what a capture contains. Credentials that
//! a decoder recognizes are replaced in it before anything is shown or written.

use std::collections::HashMap;
use std::ops::Range;
use std::time::Duration;

use super::decode::NewDecoder;
use super::message::{Message, Role, Side};
use super::tape::{Event, What};

/// A recording with its messages.
#[derive(Debug, Default)]
pub struct Trace {
    /// Everything that happened, in order.
    pub steps: Vec<Step>,
    /// All bytes of each direction.
    streams: HashMap<(u32, Side), Vec<u8>>,
}

/// Something that happened, with the messages that it completed.
#[derive(Debug)]
pub struct Step {
    /// What happened.
    pub event: Event,
    /// Position of its first byte in the stream of its direction.
    pub start: u64,
    /// The messages that its bytes completed.
    pub messages: Vec<Timed>,
}

/// A message, and how long its sender took.
#[derive(Debug)]
pub struct Timed {
    /// The message.
    pub message: Message,
    /// For a response: the time since its request was complete.
    pub took: Option<Duration>,
}

impl Trace {
    /// Decodes a recording.
    pub fn new(events: Vec<Event>, new: NewDecoder) -> Self {
        Self::decode(events, new, |_message| {})
    }

    /// Decodes a recording without keeping the fields, which take many times the memory of the bytes.
    pub fn without_fields(events: Vec<Event>, new: NewDecoder) -> Self {
        Self::decode(events, new, |message| message.fields = Vec::new())
    }

    fn decode(events: Vec<Event>, new: NewDecoder, shorten: fn(&mut Message)) -> Self {
        let mut trace = Self::default();
        let mut secrets = Vec::new();
        let mut decoders = HashMap::new();
        let mut asked = HashMap::new();
        for event in events {
            let (connection, from) = (event.connection, event.from);
            let decoder = decoders.entry(connection).or_insert_with(new);
            let stream = trace.streams.entry((connection, from)).or_default();
            let start = stream.len() as u64;
            let messages: Vec<Message> = match &event.what {
                What::Data(bytes) => {
                    stream.extend_from_slice(bytes);
                    decoder.push(from, bytes)
                }
                What::End | What::Reset => decoder.end(from).into_iter().collect(),
                What::Open { .. } | What::Note(_) => Vec::new(),
            };
            let mut timed = Vec::new();
            for mut message in messages {
                secrets.extend(message.secrets().map(|(span, filler)| (connection, from, span, filler)));
                shorten(&mut message);
                let mut took = None;
                for call in &message.calls {
                    match message.role {
                        Role::Request => drop(asked.insert((connection, from, *call), event.at)),
                        Role::Response => {
                            let at = asked.remove(&(connection, from.other(), *call));
                            took = took.or(at.map(|at| event.at - at));
                        }
                        Role::Part | Role::Other => {}
                    }
                }
                timed.push(Timed { message, took });
            }
            trace.steps.push(Step { event, start, messages: timed });
        }
        // A connection that is still open may have sent half a credential.
        for (connection, decoder) in &mut decoders {
            for from in [Side::Client, Side::Server] {
                let rest = decoder.end(from);
                let hidden = rest.iter().flat_map(Message::secrets);
                secrets.extend(hidden.map(|(span, filler)| (*connection, from, span, filler)));
            }
        }
        trace.hide_credentials(secrets);
        trace
    }

    /// Returns the bytes of a message on this connection.
    pub fn bytes(&self, connection: u32, message: &Message) -> &[u8] {
        let span = message.span.start as usize..message.span.end as usize;
        self.streams.get(&(connection, message.from)).and_then(|stream| stream.get(span)).unwrap_or_default()
    }

    /// Replaces each byte of a credential.
    fn hide_credentials(&mut self, secrets: Vec<(u32, Side, Range<u64>, u8)>) {
        for (connection, from, span, filler) in secrets {
            if let Some(stream) = self.streams.get_mut(&(connection, from)) {
                stream[span.start as usize..span.end as usize].fill(filler);
            }
        }
        for step in &mut self.steps {
            let stream = self.streams.get(&(step.event.connection, step.event.from));
            if let (What::Data(bytes), Some(stream)) = (&mut step.event.what, stream) {
                let end = step.start as usize + bytes.len();
                bytes.copy_from_slice(&stream[step.start as usize..end]);
            }
        }
    }
}
