//! One request and its response: every byte with its name, and the purpose of the bytes.

use super::{Scene, asks, one_line};
use crate::report::format::grouped;
use crate::report::table::Table;
use crate::wire::cursor::hex;
use crate::wire::message::{Field, Message, Role, Side};

/// Number of bytes in a line of hexadecimal.
const BYTES: usize = 8;

/// Maximum number of bytes of a field that the terminal shows.
const MAX_BYTES: usize = 64;

/// A request and its response. Each has all its messages, for example a frame of headers and one
/// of data.
pub struct Exchange<'a> {
    /// The end that sent the request.
    client: Side,
    /// The messages with their senders and their bytes, in the order of time.
    messages: Vec<(&'a str, &'a Message, &'a [u8])>,
}

/// Finds the first message of a request for which `wanted` returns `true`. Returns it with the
/// rest of its request and the response.
pub fn find(scene: &Scene, wanted: impl Fn(&Message) -> bool) -> Option<Exchange<'_>> {
    let rows = scene.rows();
    let all = rows.iter().flat_map(|row| row.step.messages.iter().map(move |timed| (row, &timed.message)));
    let begins = |message: &Message| asks(message) && !message.calls.is_empty() && wanted(message);
    let mut rest = all.skip_while(|(_, message)| !begins(message)).peekable();
    let (begun, request) = *rest.peek()?;
    let mut messages = Vec::new();
    for (row, message) in rest {
        let belongs = row.connection == begun.connection && message.calls.contains(&request.calls[0]);
        if belongs && asks(message) == (message.from == request.from) {
            let sender = scene.lanes.get(row.from).copied().unwrap_or_default();
            messages.push((sender, message, row.trace.bytes(row.step.event.connection, message)));
            if message.role == Role::Response {
                break;
            }
        }
    }
    Some(Exchange { client: request.from, messages })
}

impl Exchange<'_> {
    /// Returns each byte in hexadecimal, at its offset in the message, with the name and the value
    /// of its field. `width` is in characters.
    pub fn text(&self, width: usize) -> String {
        let mut text = String::new();
        for (sender, message, bytes) in &self.messages {
            text += &message_text(sender, message, bytes, width);
            text.push('\n');
        }
        text
    }

    /// Counts the bytes of the request and of the response.
    pub fn purposes(&self) -> [Purposes; 2] {
        let mut counted = [Purposes::default(); 2];
        for (_, message, _) in &self.messages {
            let of_way = &mut counted[usize::from(message.from != self.client)];
            for leaf in message.leaves() {
                of_way[leaf.purpose as usize] += leaf.span.end - leaf.span.start;
            }
        }
        counted
    }
}

/// Returns one message in the form of [`Exchange::text`].
pub fn message_text(sender: &str, message: &Message, bytes: &[u8], width: usize) -> String {
    let head = format!("{sender} sends {} B: {}", bytes.len(), message.summary);
    let mut text = format!("{}\n", one_line(&head, width));
    for (field, bytes, is_leaf) in fields(message, bytes) {
        let bytes = if is_leaf { bytes } else { &[] };
        text += &field_lines(field, field.span.start - message.span.start, bytes, width);
    }
    text
}

/// Returns the fields of a message with their bytes, and whether each of them is a leaf.
pub(super) fn fields<'a>(
    message: &'a Message,
    bytes: &'a [u8],
) -> impl Iterator<Item = (&'a Field, &'a [u8], bool)> {
    let mut leaves = message.leaves().map(std::ptr::from_ref).peekable();
    message.fields.iter().map(move |field| {
        let is_leaf = leaves.next_if_eq(&std::ptr::from_ref(field)).is_some();
        let [start, end] = [field.span.start, field.span.end].map(|at| (at - message.span.start) as usize);
        (field, bytes.get(start..end).unwrap_or_default(), is_leaf)
    })
}

/// Returns a field's lines: the first with its name, the others with its further bytes.
fn field_lines(field: &Field, offset: u64, bytes: &[u8], width: usize) -> String {
    let value = field.value.trim();
    let colon = if value.is_empty() { "" } else { ": " };
    let mut name = format!("{}{}{colon}{value}", "  ".repeat(field.depth.into()), field.name);
    let mut text = String::new();
    for at in (0..bytes.len().clamp(1, MAX_BYTES)).step_by(BYTES) {
        let line = hex(&bytes[at..bytes.len().min(at + BYTES)]);
        let line = format!("{:04x}  {line:<hex$}  {name}", offset + at as u64, hex = 3 * BYTES - 1);
        text += &format!("{}\n", one_line(&line, width).trim_end());
        name.clear();
    }
    if bytes.len() > MAX_BYTES {
        text += &format!("      {} more bytes\n", bytes.len() - MAX_BYTES);
    }
    text
}

/// Numbers of bytes, in the order of [`Purpose`](crate::wire::message::Purpose): information, framing, headers, and text.
pub type Purposes = [u64; 4];

/// Returns a table of the bytes of one exchange per protocol.
pub fn table(exchanges: &[(String, [Purposes; 2])]) -> Table {
    let note = "Information is what the programs tell each other. Framing separates, counts, and numbers messages. \
                Headers describe them. Text makes JSON readable: quotes, braces, and names. A broker's response \
                is its own, not the worker's. All bytes are TCP payload.";
    let columns = ["protocol", "", "information", "framing", "headers", "text", "total"];
    let mut table = Table::new("Bytes per request, by purpose".into(), note, &columns);
    for (protocol, both) in exchanges {
        for (way, counted) in ["request", "response"].into_iter().zip(both) {
            let counts = counted.iter().copied().chain([counted.iter().sum()]);
            let counts = counts.map(|count| grouped(count as f64));
            table.rows.push([protocol.clone(), way.into()].into_iter().chain(counts).collect());
        }
    }
    table
}
