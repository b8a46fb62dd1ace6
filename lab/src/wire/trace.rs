//! A recording with its messages: what the views show and what a capture contains. Credentials are
//! replaced in it, so that nothing written or shown contains them.

use std::collections::HashMap;
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
        let mut trace = Self::default();
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
            for message in messages {
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
        trace.hide_credentials();
        trace
    }

    /// Returns the bytes of a message on this connection.
    pub fn bytes(&self, connection: u32, message: &Message) -> &[u8] {
        let span = message.span.start as usize..message.span.end as usize;
        self.streams.get(&(connection, message.from)).and_then(|stream| stream.get(span)).unwrap_or_default()
    }

    /// Replaces each byte of a credential.
    fn hide_credentials(&mut self) {
        for step in &self.steps {
            for field in step.messages.iter().flat_map(|timed| &timed.message.fields) {
                let stream = self.streams.get_mut(&(step.event.connection, step.event.from));
                let span = field.span.start as usize..field.span.end as usize;
                if let (Some(filler), Some(stream)) = (field.filler, stream) {
                    stream[span].fill(filler);
                }
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
