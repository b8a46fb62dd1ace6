//! A scene as a sequence diagram in text: each program has a lane, and time runs down.

use std::collections::BTreeSet;
use std::sync::LazyLock;
use std::time::Instant;

use regex::Regex;

use super::{MAX_SUMMARIES, Row, Scene, asks, mark, one_line, time};
use crate::wire::message::{Message, Role, Side};
use crate::wire::tape::What;

/// Width of the times to the left of the lanes, in characters.
const TIMES: usize = 10;

/// Returns a diagram with an arrow for each read of the proxy: the messages that it completed, the
/// number of bytes, and how long a response took. `width` is in characters.
pub fn diagram(scene: &Scene, width: usize) -> String {
    let mut drawing = Drawing::new(scene, TIMES, width);
    let rows = scene.rows();
    let Some(begin) = rows.first().map(|row| row.step.event.at) else { return drawing.text };
    for row in &rows {
        let when = format!("{:>width$}", time(row.step.event.at - begin), width = TIMES - 1);
        let summaries = row.step.messages.iter().map(|timed| timed.message.summary.as_str());
        let texts = summaries.chain(row.event()).map(str::to_owned).collect();
        let took = row.step.messages.iter().filter_map(|timed| timed.took).max();
        let took = took.map_or(String::new(), |took| format!("({}) ", time(took)));
        drawing.row(&when, row, texts, &format!("{took}{}", row.size()));
    }
    drawing.text
}

/// Returns a diagram whose text does not depend on the run: without times, sizes, random IDs, and
/// dates. An arrow is a request or a response, with what the same side sent right before it. So it
/// does not matter how the messages were split into reads.
///
/// The arrows of one connection are always the same. If there are several connections, the order
/// between their arrows is that of this run. Each arrow ends with the mark of its connection.
///
/// What differs from run to run is left out: how connections end, and housekeeping of the protocol
/// that belongs to no request, such as heartbeats, settings, and window updates. Messages whose
/// summary begins with one of `set_up` are left out as well, and so are their responses.
pub fn stable(scene: &Scene, width: usize, set_up: &[&str]) -> String {
    let mut drawing = Drawing::new(scene, 0, width);
    let rows = scene.rows();
    let last = rows.iter().map(|row| row.connection).max().unwrap_or(0);
    let rows_of = |connection| rows.iter().filter(move |row| row.connection == connection);
    let mut arrows: Vec<_> = (0..=last).flat_map(|connection| arrows(rows_of(connection), set_up)).collect();
    arrows.sort_by_key(|(complete, ..)| *complete);
    for (_, row, messages) in arrows {
        let summaries = messages.iter().map(|message| message.summary.as_str());
        let texts = summaries.chain(row.event().filter(|_| messages.is_empty())).map(without_ids);
        drawing.row("", row, texts.collect(), &mark(row.connection));
    }
    drawing.text
}

/// A message, or a row without messages.
type Item<'a> = (&'a Row<'a>, Option<&'a Message>);

/// When it was complete, its row, and its messages. An event has no messages.
type Arrow<'a> = (Option<Instant>, &'a Row<'a>, Vec<&'a Message>);

/// Returns the arrows of one connection.
fn arrows<'a>(rows: impl Iterator<Item = &'a Row<'a>>, set_up: &[&str]) -> Vec<Arrow<'a>> {
    let (mut items, mut calls, mut set_ups) = (Vec::new(), Vec::new(), BTreeSet::new());
    for row in rows {
        if matches!(row.step.event.what, What::Open { .. } | What::Note(_)) {
            items.push((row, None));
        }
        let messages = row.step.messages.iter().map(|timed| &timed.message);
        for message in messages.filter(|message| !is_housekeeping(message)) {
            let asker = if asks(message) { message.from } else { message.from.other() };
            let call = message.calls.first().map(|call| (asker, *call));
            if set_up.iter().any(|begin| message.summary.starts_with(begin)) {
                set_ups.extend(call);
                continue;
            }
            if call.is_some_and(|call| set_ups.contains(&call)) {
                continue;
            }
            items.push((row, Some(message)));
            calls.extend(message.calls.iter().filter(|_| asks(message)).map(|call| (message.from, *call)));
        }
    }
    let (mut arrows, mut complete) = (Vec::new(), None);
    let from = |item: &Item<'a>| item.1.map(|message| message.from);
    let is_last =
        |item: &Item<'a>| item.1.is_none_or(|message| matches!(message.role, Role::Request | Role::Response));
    for side in items.chunk_by_mut(|one, next| from(one) == from(next)) {
        sort(side, &calls);
        for items in side.split_inclusive(is_last) {
            let row = items[items.len() - 1].0;
            complete = complete.max(Some(row.step.event.at));
            arrows.push((complete, row, items.iter().filter_map(|(_, message)| *message).collect()));
        }
    }
    arrows
}

/// Returns whether a message is housekeeping that may appear anywhere, or not at all. An HTTP/2
/// server, for example, sends its settings without waiting for those of the client.
fn is_housekeeping(message: &Message) -> bool {
    let names = ["SETTINGS", "WINDOW_UPDATE", "PING", "PONG", "HEARTBEAT", "GOAWAY"];
    let summary = message.summary.to_ascii_uppercase();
    message.role == Role::Other && names.into_iter().any(|name| summary.starts_with(name))
}

/// Sorts what one side sends: first its responses, in the order of the requests, and then everything
/// else. A program works on several calls at the same time, so its own order varies.
fn sort(items: &mut [Item<'_>], calls: &[(Side, u64)]) {
    items.sort_by_key(|(_, message)| {
        let message = message.filter(|message| !asks(message));
        let call = message.and_then(|message| Some((message.from.other(), *message.calls.first()?)));
        call.and_then(|call| calls.iter().position(|asked| *asked == call)).unwrap_or(usize::MAX)
    });
}

/// Replaces what differs from run to run with "…": ports, dates, names that a broker made up, and
/// numbers of 5 digits or more, which are IDs and times. How much of a shortened text is left
/// depends on their length, so everything after the first one is removed, too.
fn without_ids(text: &str) -> String {
    static VARYING: LazyLock<Regex> = LazyLock::new(|| {
        let patterns = [
            r"(?P<host>(?:127\.0\.0\.1|localhost|\[::1\]):)\d+",
            r"(?P<broker>amq\.(?:gen|ctag|rabbitmq\.reply-to)[-.])[\w.=+/-]+",
            r"\w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d GMT",
            r"\d{4}-\d\d-\d\d(?:[T ]\d\d:\d\d(?::[\d.]+)?(?:Z|[+-]\d\d:\d\d)?)?",
            r"[0-9a-fA-F]{8,}(?:-[0-9a-fA-F]+)*",
            r"\d{5,}(?:-\d+)?",
            r"[0-9a-fA-F]+…",
        ];
        #[allow(clippy::unwrap_used, reason = "a test uses the pattern")]
        Regex::new(&patterns.join("|")).unwrap()
    });
    let first = VARYING.find(text).map_or(text.len(), |found| found.end());
    let end = if text.contains('…') { first } else { text.len() };
    let kept = VARYING.replace_all(&text[..end], "${host}${broker}…");
    if end < text.len() && !kept.ends_with('…') { format!("{kept}…") } else { kept.into_owned() }
}

/// The text of a diagram, line by line.
struct Drawing {
    /// The column of each lane's line.
    columns: Vec<usize>,
    text: String,
}

impl Drawing {
    /// Begins with the names of the lanes. The first `left` columns are free.
    fn new(scene: &Scene, left: usize, width: usize) -> Self {
        let half = |name: Option<&&str>| name.map_or(0, |name| name.chars().count() / 2);
        let first = left + half(scene.lanes.first());
        let last = width.saturating_sub(1 + half(scene.lanes.last())).max(first + 1);
        let gaps = scene.lanes.len().saturating_sub(1).max(1);
        let columns: Vec<_> = (0..=gaps).map(|lane| first + (last - first) * lane / gaps).collect();
        let mut head = String::new();
        for (name, column) in scene.lanes.iter().zip(&columns) {
            put(&mut head, column - half(Some(name)), name);
        }
        Self { columns, text: head + "\n" }
    }

    /// Adds an arrow with its texts above each other. The last text is on the arrow itself. The arrow
    /// of an event is dotted. A note has no arrow.
    fn row(&mut self, when: &str, row: &Row<'_>, mut texts: Vec<String>, size: &str) {
        let room = self.columns[row.from].abs_diff(self.columns[row.to]).saturating_sub(1);
        if texts.len() > MAX_SUMMARIES {
            let more = texts.len() - (MAX_SUMMARIES - 1);
            texts.truncate(MAX_SUMMARIES - 1);
            texts.push(format!("and {more} more"));
        }
        let last = texts.pop().unwrap_or_else(|| "part of a message".into());
        if row.is_note() {
            for line in textwrap::wrap(&one_line(&last, usize::MAX), room.saturating_sub(6)) {
                self.line("", row, &format!("{:=<room$}", format!("== {line} ")));
            }
            return;
        }
        for text in texts {
            self.line("", row, &format!("   {}", one_line(&text, room.saturating_sub(6))));
        }
        let fill = if row.event().is_some() { "." } else { "-" };
        let (head, tail) = if row.from < row.to { (fill, ">") } else { ("<", "") };
        let end = if size.is_empty() { tail.to_owned() } else { format!(" {size} {fill}{fill}{tail}") };
        let text = one_line(&last, room.saturating_sub(end.chars().count() + 6));
        let begin = format!("{head}{fill} {text} ");
        let used = begin.chars().count() + end.chars().count();
        self.line(when, row, &format!("{begin}{}{end}", fill.repeat(room.saturating_sub(used))));
    }

    /// Adds a line: the lanes' own lines, and a text between two of them.
    fn line(&mut self, when: &str, row: &Row<'_>, text: &str) {
        let (left, right) = (row.from.min(row.to), row.from.max(row.to));
        let mut line = when.to_owned();
        for (lane, column) in self.columns.iter().enumerate() {
            if lane <= left || lane >= right {
                put(&mut line, *column, "|");
            }
            if lane == left {
                line += text;
            }
        }
        self.text += &format!("{line}\n");
    }
}

/// Appends text at a column.
fn put(line: &mut String, column: usize, text: &str) {
    let missing = column.saturating_sub(line.chars().count());
    line.extend(std::iter::repeat_n(' ', missing));
    line.push_str(text);
}
