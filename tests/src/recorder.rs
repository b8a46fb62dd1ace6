//! Records what passes between a test and a server, and shows the end of it if the test fails.

use std::collections::HashMap;
use std::sync::Arc;
use std::thread;

use lab::scenes::view::exchange::message_text;
use lab::wire::decode::Format;
use lab::wire::message::{Message, Side};
use lab::wire::proxy::Proxy;
use lab::wire::tape::{Tape, What};
use tcp_socket::base::text::printable;

/// The line before what a failed test shows. [`END`] follows it. The exercise runner looks for both.
pub const BEGIN: &str = "--- what traveled last:";

/// The line after what a failed test shows.
pub const END: &str = "---";

/// Maximum number of messages that are shown byte by byte.
const IN_FULL: usize = 3;

/// Maximum number of messages before those, of which one line is shown.
const IN_SHORT: usize = 6;

/// Maximum number of lines of a part of an HTTP message.
const MAX_LINES: usize = 30;

/// Maximum number of characters in a line.
const WIDTH: usize = 100;

/// A proxy in front of a server. If the test fails, the last messages are printed.
pub struct Recorder {
    proxy: Proxy,
    tape: Arc<Tape>,
    format: Format,
}

impl Recorder {
    /// Starts a proxy in front of the server at this `host:port`.
    pub fn start(format: Format, server: &str) -> Self {
        let tape = Arc::new(Tape::default());
        let proxy = Proxy::start(server.to_owned(), Some(tape.clone())).expect("a free port");
        Self { proxy, tape, format }
    }

    /// Returns the `host:port` to which the test connects instead of the server's.
    pub fn addr(&self) -> String {
        self.proxy.address()
    }

    /// Returns the last messages on the connection that was used last: the newest byte by byte, with
    /// the names and values of their fields.
    pub fn last_messages(&self) -> String {
        let events = self.tape.events().0;
        let is_data = |what: &What| matches!(what, What::Data(_));
        let Some(last) = events.iter().rfind(|event| is_data(&event.what)) else {
            return "nothing\n".to_owned();
        };
        let mut decoder = self.format.decoder()();
        let mut messages: Vec<Message> = Vec::new();
        let mut streams: HashMap<Side, Vec<u8>> = HashMap::new();
        for event in events.iter().filter(|event| event.connection == last.connection) {
            if let What::Data(bytes) = &event.what {
                streams.entry(event.from).or_default().extend(bytes);
                messages.extend(decoder.push(event.from, bytes));
            }
        }
        messages.extend([Side::Client, Side::Server].into_iter().filter_map(|side| decoder.end(side)));
        if self.format == Format::Grpc {
            // Settings and flow control belong to no call.
            messages.retain(|message| message.refused || !message.calls.is_empty());
        }
        let full = messages.len().saturating_sub(IN_FULL);
        let short = full.saturating_sub(IN_SHORT);
        let mut text = if short > 0 { format!("({short} messages before)\n") } else { String::new() };
        for (at, message) in messages.iter_mut().enumerate().skip(short) {
            let sender = if message.from == Side::Client { "client" } else { "server" };
            let stream = streams.get(&message.from).map_or(&[][..], Vec::as_slice);
            let bytes =
                stream.get(message.span.start as usize..message.span.end as usize).unwrap_or_default();
            // The handshake of WebSocket is HTTP, too.
            let is_head = [&b"GET "[..], b"HTTP/"].iter().any(|head| bytes.starts_with(head));
            let whole = if self.format == Format::HttpRest || is_head {
                as_text(sender, bytes)
            } else {
                without_parts_of_json(message);
                message_text(sender, message, bytes, WIDTH)
            };
            text += if at < full { whole.split_inclusive('\n').next().unwrap_or_default() } else { &whole };
        }
        text
    }
}

/// Returns a part of an HTTP message, which is text, line by line.
fn as_text(sender: &str, bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let lines = text.split_terminator('\n').map(|line| line.strip_suffix('\r').unwrap_or(line));
    let lines = lines.map(|line| format!("  {sender}: {}\n", printable(line)));
    lines.take(MAX_LINES).collect()
}

/// Leaves the text of JSON whole, because people read it more easily than its parts.
fn without_parts_of_json(message: &mut Message) {
    let mut json = None;
    message.fields.retain(|field| {
        if json.is_some_and(|depth| field.depth > depth) {
            return false;
        }
        json = (field.name == "JSON").then_some(field.depth);
        true
    });
}

impl Drop for Recorder {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("{BEGIN}\n{}{END}", self.last_messages());
        }
    }
}
