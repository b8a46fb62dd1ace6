//! Shows what a scene's programs sent each other.
//!
//! - [`diagram`]: a sequence diagram for the terminal and for documents.
//! - [`exchange`]: a request and its response, byte by byte, and the purpose of the bytes.
//! - [`html`]: everything on one page.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::wire::message::{Message, Role, Side};
use crate::wire::tape::What;
use crate::wire::trace::{Step, Trace};

pub mod diagram;
pub mod exchange;
pub mod html;

/// Maximum number of messages that an arrow names. The others are counted.
const MAX_SUMMARIES: usize = 6;

/// A recorded scene.
#[derive(Debug)]
pub struct Scene {
    /// The heading, usually the name of the protocol.
    pub title: String,
    /// The programs, from left to right. Programs that talk to each other should be neighbors, for
    /// example client, broker, worker.
    pub lanes: Vec<&'static str>,
    /// One recording for each pair of lanes that talk to each other.
    pub conversations: Vec<Conversation>,
}

/// What passed between two lanes.
#[derive(Debug)]
pub struct Conversation {
    /// The recording with its messages.
    pub trace: Trace,
    /// The lane of the program that connects, counted from 0.
    pub client: usize,
    /// The lane of the program that it connects to.
    pub server: usize,
}

/// A step of a scene, with the lanes that it concerns.
struct Row<'a> {
    trace: &'a Trace,
    step: &'a Step,
    /// The lane that caused it.
    from: usize,
    /// The other lane of the connection.
    to: usize,
    /// The connection, counted from 1 in the whole scene. 0 if there is only one.
    connection: usize,
}

impl Scene {
    /// Returns the steps of all recordings, in the order of time. A note concerns all lanes.
    fn rows(&self) -> Vec<Row<'_>> {
        let lanes = self.lanes.len().saturating_sub(1);
        let all = self.conversations.iter().enumerate();
        let steps =
            all.flat_map(|(at, conversation)| conversation.trace.steps.iter().map(move |step| (at, step)));
        let connections: BTreeSet<_> = steps.clone().map(|(at, step)| (at, step.event.connection)).collect();
        let mut rows: Vec<_> = steps
            .map(|(at, step)| {
                let Conversation { trace, client, server } = &self.conversations[at];
                let is_client = step.event.from == Side::Client;
                let (from, to) = if is_client { (client, server) } else { (server, client) };
                let number = connections.range(..=(at, step.event.connection)).count();
                let connection = if connections.len() > 1 { number } else { 0 };
                match step.event.what {
                    What::Note(_) => Row { trace, step, from: 0, to: lanes, connection: 0 },
                    _ => Row { trace, step, from: (*from).min(lanes), to: (*to).min(lanes), connection },
                }
            })
            .collect();
        rows.sort_by_key(|row| row.step.event.at);
        rows
    }
}

impl Row<'_> {
    /// Returns the text of a row that is not about bytes.
    fn event(&self) -> Option<&str> {
        match &self.step.event.what {
            What::Open { .. } => Some("connects"),
            What::End => Some("closes"),
            What::Reset => Some("resets the connection"),
            What::Note(text) => Some(text),
            What::Data(_) => None,
        }
    }

    /// Returns whether this is a note: something that did not travel.
    fn is_note(&self) -> bool {
        matches!(self.step.event.what, What::Note(_))
    }

    /// Returns the number of bytes that passed, and the connection if there are several.
    fn size(&self) -> String {
        match &self.step.event.what {
            What::Data(bytes) => format!("{} B {}", bytes.len(), mark(self.connection)).trim_end().into(),
            _ => mark(self.connection),
        }
    }
}

/// Returns whether a message belongs to a request.
fn asks(message: &Message) -> bool {
    matches!(message.role, Role::Part | Role::Request)
}

/// Returns how a connection is marked if there are several.
fn mark(connection: usize) -> String {
    if connection == 0 { String::new() } else { format!("[{connection}]") }
}

/// Returns text on one line of at most `most` characters. Control characters become spaces, so
/// that nothing that was received can act on a terminal.
fn one_line(text: &str, most: usize) -> String {
    let visible = |c: char| if c.is_control() { ' ' } else { c };
    match text.char_indices().nth(most) {
        None => text.chars().map(visible).collect(),
        Some(_) => text.chars().take(most.saturating_sub(1)).map(visible).chain(['…']).take(most).collect(),
    }
}

/// Formats a time with the unit that suits it.
fn time(time: Duration) -> String {
    let seconds = time.as_secs_f64();
    match time.as_micros() {
        0..1_000 => format!("{:.0} µs", seconds * 1e6),
        1_000..1_000_000 => format!("{:.1} ms", seconds * 1e3),
        _ => format!("{seconds:.3} s"),
    }
}
