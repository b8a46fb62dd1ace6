//! RESP2 and RESP3, the protocols of Redis. A client sends commands as arrays of strings, or as a
//! line of words (an inline command). Replies have no number: they come in the order of the
//! commands. What a subscriber receives comes between them.

use std::collections::VecDeque;

use crate::wire::cursor::{Cursor, hex, shown};
use crate::wire::json::json;
use crate::wire::message::{Decoder, Purpose, Role, Side};
use crate::wire::units::{MAX_UNIT, Protocol, Reading, Units, Unreadable};

/// Maximum length of a line, which is Redis's own for inline commands.
const MAX_LINE: usize = 64 * 1024;

/// Maximum number of subscriptions without a confirmation that are remembered.
const MAX_SUBSCRIBING: usize = 10_000;

/// Returns a decoder for one connection.
pub fn decoder() -> Box<dyn Decoder> {
    Box::new(Units::new(Resp::default()))
}

/// A connection.
#[derive(Default)]
struct Resp {
    scans: [Scan; 2],
    /// Number of commands.
    asked: u64,
    /// Number of commands with a reply.
    answered: u64,
    /// Whether the client has switched to RESP3, in which only pushes come between replies.
    is_resp3: bool,
    /// Whether the client has ever subscribed.
    is_subscriber: bool,
    subscribing: VecDeque<Subscribing>,
}

/// A command such as `SUBSCRIBE`. Instead of a reply, it gets a confirmation for each channel.
struct Subscribing {
    call: u64,
    /// What the confirmations are called.
    name: String,
    /// Number of confirmations that have not arrived.
    left: usize,
}

/// Progress through a value with all its elements, so that no byte is scanned twice when more of
/// them arrive.
#[derive(Default)]
struct Scan {
    at: usize,
    /// Number of values that follow the next one.
    following: u64,
}

impl Scan {
    /// Returns the length of the value once all of it is there.
    fn advance(&mut self, bytes: &[u8]) -> Result<Option<usize>, Unreadable> {
        loop {
            let Some(head) = head(&bytes[self.at..])? else { return Ok(None) };
            // A string ends like a line.
            let string = head.string.map_or(0, |length| length.saturating_add(2));
            let end = (self.at + head.length).saturating_add(string);
            if end > bytes.len() {
                return Ok((end > MAX_UNIT).then_some(end));
            }
            if !bytes[..end].ends_with(b"\r\n") {
                return Err("not RESP: a string without its end".into());
            }
            self.at = end;
            // An attribute comes before the value that it describes.
            let described = u64::from(head.kind == b'|');
            self.following = self.following.saturating_add(head.elements.saturating_add(described));
            if self.following == 0 {
                return Ok(Some(end));
            }
            self.following -= 1;
        }
    }
}

/// The first line of a value.
struct Head<'a> {
    kind: u8,
    /// What is between the type and the end of the line.
    text: &'a [u8],
    /// Length of the line with its type and its end.
    length: usize,
    /// Length of the string that follows, without its end.
    string: Option<usize>,
    /// Number of values that follow, as parts of this one.
    elements: u64,
}

/// Returns the first line of the value that bytes begin with, once all of it is there.
fn head(bytes: &[u8]) -> Result<Option<Head<'_>>, Unreadable> {
    let Some((&kind, line)) = bytes.split_first() else { return Ok(None) };
    if type_name(kind).is_none() {
        return Err("not RESP".into());
    }
    let text = match line.iter().take(MAX_LINE).position(|byte| *byte == b'\n') {
        Some(end) => line[..end].strip_suffix(b"\r").ok_or("not RESP")?,
        None if line.len() >= MAX_LINE => return Err("a line of more than 64 KiB".into()),
        None => return Ok(None),
    };
    let mut head = Head { kind, text, length: text.len() + 3, string: None, elements: 0 };
    if !b"$=!*~>%|".contains(&kind) || (b"$*".contains(&kind) && text == b"-1") {
        return Ok(Some(head));
    }
    if text == b"?" {
        return Err("a streamed RESP3 type (its length is \"?\"), which this decoder does not know".into());
    }
    let number = std::str::from_utf8(text).ok().and_then(|text| text.parse::<u64>().ok());
    let number = number.ok_or("not RESP: a length that is not a number")?;
    match kind {
        b'$' | b'=' | b'!' => head.string = Some(number as usize),
        b'%' | b'|' => head.elements = number.saturating_mul(2), // Each of them has a name.
        _ => head.elements = number,
    }
    Ok(Some(head))
}

/// Returns what the specification calls a type, or `None` if there is no such type.
fn type_name(kind: u8) -> Option<&'static str> {
    Some(match kind {
        b'+' => "simple string",
        b'-' => "simple error",
        b':' => "integer",
        b'$' => "bulk string",
        b'*' => "array",
        b'_' => "null",
        b'#' => "boolean",
        b',' => "double",
        b'(' => "big number",
        b'!' => "bulk error",
        b'=' => "verbatim string",
        b'%' => "map",
        b'~' => "set",
        b'>' => "push",
        b'|' => "attribute",
        _ => return None,
    })
}

impl Protocol for Resp {
    fn length(&mut self, from: Side, bytes: &[u8]) -> Result<Option<usize>, Unreadable> {
        if from == Side::Client && bytes[0] != b'*' {
            return inline_length(bytes);
        }
        let scan = &mut self.scans[from as usize];
        let length = scan.advance(bytes)?;
        if length.is_some() {
            *scan = Scan::default();
        }
        Ok(length)
    }

    fn read(&mut self, from: Side, unit: &mut Cursor<'_>) -> Reading {
        match from {
            Side::Client => self.command(unit),
            Side::Server => self.reply(unit),
        }
    }
}

impl Resp {
    /// Reads a command.
    fn command(&mut self, unit: &mut Cursor<'_>) -> Reading {
        let words = words(unit.whole());
        let Some(name) = words.first().map(|name| name.to_ascii_lowercase()) else {
            return Reading::other("empty command");
        };
        read_command(unit, &words);
        self.asked += 1;
        let name = String::from_utf8_lossy(&name).into_owned();
        if name == "hello" && words.len() > 1 {
            self.is_resp3 = words[1] == b"3";
        }
        if name.ends_with("subscribe") && self.subscribing.len() < MAX_SUBSCRIBING {
            self.is_subscriber = true;
            let left = words.len().saturating_sub(1).max(1);
            self.subscribing.push_back(Subscribing { call: self.asked, name, left });
        }
        Reading::of_call(summary(&words), Role::Request, self.asked)
    }

    /// Reads a reply, or what a subscriber receives.
    fn reply(&mut self, unit: &mut Cursor<'_>) -> Reading {
        let words = words(unit.whole());
        let (kind, text) = read_value(unit);
        let name = words.first().map(|name| String::from_utf8_lossy(name)).unwrap_or_default();
        let may_be_message = self.is_subscriber && !self.is_resp3 && kind == b'*';
        if kind == b'>' || (may_be_message && (name.ends_with("message") || name.ends_with("subscribe"))) {
            let channel = words.get(if name == "pmessage" { 2 } else { 1 }).copied().unwrap_or_default();
            let summary = format!("{} {}", shown(name.as_bytes()), shown(channel));
            return self.aside(&name, summary.trim_end());
        }
        if self.answered == self.asked {
            return Reading::other(text);
        }
        self.answered += 1;
        if self.subscribing.front().is_some_and(|first| first.call == self.answered) {
            self.subscribing.pop_front(); // Redis refused it.
        }
        let refused = matches!(kind, b'-' | b'!');
        Reading::of_call(text, Role::Response, self.answered).refused(refused)
    }

    /// Returns the reading of what comes between replies. The last confirmation of a subscription is the
    /// response to it.
    fn aside(&mut self, name: &str, summary: &str) -> Reading {
        match self.subscribing.front_mut() {
            Some(first) if first.call == self.answered + 1 && first.name == name => {
                first.left -= 1;
                if first.left > 0 {
                    return Reading::other(summary);
                }
                self.subscribing.pop_front();
                self.answered += 1;
                Reading::of_call(summary, Role::Response, self.answered)
            }
            _ => Reading::other(summary),
        }
    }
}

/// Returns the length of an inline command.
fn inline_length(bytes: &[u8]) -> Result<Option<usize>, Unreadable> {
    let length = bytes.iter().take(MAX_LINE).position(|byte| *byte == b'\n').map(|end| end + 1);
    let line = &bytes[..length.unwrap_or(bytes.len())];
    let is_text = line.trim_ascii_end().iter().all(|byte| !byte.is_ascii_control() || *byte == b'\t');
    let begins_well = line[0].is_ascii_alphabetic() || line[0].is_ascii_whitespace();
    if !is_text || !begins_well || line.windows(6).any(|part| part == b" HTTP/") {
        return Err("not RESP".into());
    }
    if length.is_none() && bytes.len() >= MAX_LINE {
        return Err("a line of more than 64 KiB".into());
    }
    Ok(length)
}

/// Returns the words of an inline command, or the strings that an array begins with.
fn words(bytes: &[u8]) -> Vec<&[u8]> {
    let Ok(Some(array)) = head(bytes) else {
        return bytes.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty()).collect();
    };
    let (mut words, mut rest) = (Vec::new(), &bytes[array.length..]);
    while let Ok(Some(Head { kind: b'$', length, string: Some(string), .. })) = head(rest)
        && let Some(word) = rest.get(length..length + string)
    {
        words.push(word);
        rest = rest.get(length + string + 2..).unwrap_or_default();
    }
    words
}

/// Returns a command's name, and the key or the channel that it is about.
fn summary(words: &[&[u8]]) -> String {
    let streams = words.iter().position(|word| word.eq_ignore_ascii_case(b"STREAMS")).unwrap_or_default();
    let about = match words[0].to_ascii_uppercase().as_slice() {
        b"EVAL" | b"EVALSHA" | b"EVAL_RO" | b"EVALSHA_RO" | b"FCALL" | b"FCALL_RO" => 3..4,
        b"XREAD" | b"XREADGROUP" => streams + 1..streams + 2,
        b"XGROUP" | b"XINFO" | b"OBJECT" | b"MEMORY" => 1..3,
        _ => 1..2,
    };
    let shown_words = about.filter(|at| *at < words.len() && !is_credential(words, *at));
    let shown_words = shown_words.map(|at| format!(" {}", shown(words[at])));
    shown(words[0]) + &shown_words.collect::<String>()
}

/// Returns whether an argument is a credential.
fn is_credential(words: &[&[u8]], index: usize) -> bool {
    let is = |at: usize, word: &str| words[at].eq_ignore_ascii_case(word.as_bytes());
    if index == 0 {
        return false;
    }
    let follows = |word: &str| is(index - 1, word);
    let sign = words[index].first().copied().unwrap_or_default();
    match words[0].to_ascii_uppercase().as_slice() {
        b"AUTH" => true,
        // AUTH is followed by a user and a password.
        b"HELLO" | b"MIGRATE" => (index.saturating_sub(2)..index).any(|at| is(at, "AUTH") || is(at, "AUTH2")),
        b"CONFIG" => is(1, "SET") && (follows("requirepass") || follows("masterauth")),
        b"ACL" => is(1, "SETUSER") && b"><#!".contains(&sign),
        _ => false,
    }
}

/// Names the parts of a command.
fn read_command(unit: &mut Cursor<'_>, words: &[&[u8]]) {
    let is_array = unit.peek(1) == b"*";
    let spaces = |unit: &mut Cursor<'_>| {
        let count = unit.left().iter().take_while(|byte| byte.is_ascii_whitespace()).count();
        unit.take(if is_array { 2 } else { count }, "end", hex);
    };
    if is_array {
        read_line(unit, "elements");
    } else {
        spaces(unit);
    }
    for (index, word) in words.iter().enumerate() {
        if is_array {
            read_line(unit, "length");
        }
        if index == 0 {
            unit.text(word.len(), "command");
        } else if !is_credential(words, index) {
            read_content(unit, word.len(), "argument");
        } else if is_array {
            unit.secret(word.len(), "credential", b'*');
        } else {
            // It may be in quotes and contain spaces.
            unit.secret(unit.left().trim_ascii_end().len(), "credential", b'*');
        }
        spaces(unit);
        if unit.is_full() {
            return;
        }
    }
}

/// Names the first line of a value.
fn read_line(unit: &mut Cursor<'_>, name: &'static str) {
    let length = unit.left().iter().position(|byte| *byte == b'\n').map_or(0, |end| end + 1);
    unit.take(length, name, |line| String::from_utf8_lossy(&line[1..]).trim_end().to_owned());
}

/// Names the content of a string.
fn read_content(unit: &mut Cursor<'_>, length: usize, name: &'static str) {
    if matches!(unit.peek(1), b"{" | b"[") {
        json(unit, length);
    } else {
        unit.purposed(Purpose::Information, |unit| unit.text(length, name));
    }
}

/// Names a value with all its elements. Returns its type, and what a summary says of it.
fn read_value(unit: &mut Cursor<'_>) -> (u8, String) {
    loop {
        let Ok(Some(head)) = head(unit.left()) else { return (0, String::new()) };
        let name = type_name(head.kind).unwrap_or_default();
        if !unit.may_go_deeper() {
            let length = Scan::default().advance(unit.left()).ok().flatten();
            unit.text(length.unwrap_or(unit.left().len()), "not decoded");
            return (head.kind, name.to_owned());
        }
        let said = unit.group(name, |unit| {
            let said = read_parts(unit, &head);
            (said.clone(), said)
        });
        let summary = match head.kind {
            b'|' => continue, // The value that it describes comes next.
            b'_' => name.to_owned(),
            b'+' | b'-' | b'!' => said,
            _ if said == "null" => said,
            _ => format!("{name} {said}").trim_end().to_owned(),
        };
        return (head.kind, summary);
    }
}

/// Names the parts of a value. Returns the value, or the number of its elements.
fn read_parts(unit: &mut Cursor<'_>, head: &Head<'_>) -> String {
    if let Some(mut length) = head.string {
        read_line(unit, "length");
        let said = shown(unit.peek(length));
        if head.kind == b'=' && length >= 4 {
            unit.text(4, "format");
            length -= 4;
        }
        read_content(unit, length, "value");
        unit.take(2, "end", hex);
        return said;
    }
    if !b"$*~>%|".contains(&head.kind) {
        unit.text(1, "type");
        read_content(unit, head.text.len(), "value");
        unit.take(2, "end", hex);
        return shown(head.text);
    }
    read_line(unit, "elements");
    for _ in 0..head.elements {
        if unit.is_full() {
            break;
        }
        read_value(unit);
    }
    if head.text == b"-1" { "null".into() } else { format!("of {}", shown(head.text)) }
}
