//! The page that shows scenes: `wire.html`. An arrow unfolds its bytes.

use std::time::{Duration, Instant};

use maud::{Markup, html};

use super::exchange::fields;
use super::{MAX_SUMMARIES, Row, Scene, asks, one_line, time};
use crate::report::format::grouped;
use crate::report::page::page;
use crate::wire::cursor::hex;
use crate::wire::message::{Message, Role};
use crate::wire::trace::Timed;

/// Maximum number of messages of an arrow whose bytes are shown.
const MAX_MESSAGES: usize = 40;

/// Maximum number of bytes of a field that are shown.
const MAX_BYTES: usize = 256;

/// Maximum number of characters of a summary or a value.
const MAX_TEXT: usize = 200;

/// Time without an event after which the page says how much later the next one is.
const GAP: Duration = Duration::from_millis(20);

/// The colors of the messages: CSS classes that all pages share, with their meanings.
const COLORS: [(&str, &str); 4] = [("s0", "request"), ("s2", "response"), ("s1", "refused"), ("s7", "other")];

/// Returns the whole page.
pub fn html(scenes: &[Scene]) -> String {
    let content = html! {
        p {
            "Time runs down. An arrow is what arrived together. Open it with a click, or with Tab and Enter, to see "
            "its bytes. Then point at a byte or a field, or use the arrow keys, to see which belong together."
        }
        p.legend { @for (class, meaning) in COLORS { span class=(class) { (meaning) } } }
        nav aria-label="Scenes" {
            ol {
                @for (number, scene) in scenes.iter().enumerate() {
                    li { a href={ "#scene-" (number + 1) } { (scene.title) } }
                }
            }
        }
        @for (number, scene) in scenes.iter().enumerate() {
            section id={ "scene-" (number + 1) } style={ "--gaps:" (scene.lanes.len().saturating_sub(1).max(1)) } {
                h2 { (scene.title) }
                (lanes(scene))
            }
        }
    };
    page("What travels on the wire", include_str!("wire.css"), include_str!("wire.js"), &content)
}

/// Returns the diagram of a scene.
fn lanes(scene: &Scene) -> Markup {
    let rows = scene.rows();
    let begin = rows.first().map_or_else(Instant::now, |row| row.step.event.at);
    let mut last = begin;
    html! {
        @if rows.iter().any(|row| row.connection > 0) {
            p.note { "[1] is the first connection of the scene, [2] the second, and so on." }
        }
        div.lanes {
            div.track { @for (at, lane) in scene.lanes.iter().enumerate() { b style={ "--from:" (at) } { (lane) } } }
        }
        div.rows {
            div.lives {
                div.track { @for at in 0..scene.lanes.len() { i style={ "--from:" (at) } {} } }
            }
            @for row in &rows {
                @let gap = row.step.event.at.saturating_duration_since(std::mem::replace(&mut last, row.step.event.at));
                @if gap > GAP { p.gap { span { (time(gap)) " later" } } }
                (self::row(row, begin, scene))
            }
        }
    }
}

/// Returns one row: an arrow that unfolds if it has messages, or an event.
fn row(row: &Row<'_>, begin: Instant, scene: &Scene) -> Markup {
    let (left, right) = (row.from.min(row.to), row.from.max(row.to));
    let messages = &row.step.messages;
    let more = messages.len().saturating_sub(MAX_MESSAGES);
    let way = if row.from < row.to { "right" } else { "left" };
    let shown = if messages.len() > MAX_SUMMARIES { MAX_SUMMARIES - 1 } else { messages.len() };
    let name = |lane: usize| scene.lanes.get(lane).copied().unwrap_or_default();
    let arrow = html! {
        time { (time(row.step.event.at - begin)) }
        div.track {
            div.arrow style={ "--from:" (left) ";--span:" (right - left) } {
                span.hidden { (name(row.from)) " to " (name(row.to)) ": " }
                @for Timed { message, took } in &messages[..shown] {
                    span.say { (one_line(&message.summary, MAX_TEXT)) @if let Some(took) = took { em { " (" (time(*took)) ")" } } }
                }
                @if shown < messages.len() { span.say { "and " (messages.len() - shown) " more" } }
                @if let Some(event) = row.event() { span.say { (one_line(event, MAX_TEXT)) } }
                @else if messages.is_empty() { span.say { "part of a message" } }
                @if !row.is_note() { i.line {} }
                small { (row.size()) @if messages.iter().any(|timed| timed.message.refused) { " · refused" } }
            }
        }
    };
    html! {
        @if messages.is_empty() {
            div.row.s7.event.remark[row.is_note()].{ (way) } { (arrow) }
        } @else {
            details.row.{ (color(messages)) }.{ (way) } {
                summary { (arrow) }
                div.inside {
                    @for timed in messages.iter().take(MAX_MESSAGES) {
                        (message(&timed.message, row.trace.bytes(row.step.event.connection, &timed.message)))
                    }
                    @if more > 0 { p.note { "and " (more) " more messages, which are not shown" } }
                }
            }
        }
    }
}

/// Returns the class of the color that says what these messages are.
fn color(messages: &[Timed]) -> &'static str {
    let any = |is: fn(&Message) -> bool| messages.iter().any(|timed| is(&timed.message));
    match () {
        () if any(|message| message.refused) => "s1",
        () if any(|message| message.role == Role::Response) => "s2",
        () if any(asks) => "s0",
        () => "s7",
    }
}

/// Returns the bytes of a message next to its fields. The leaves are in the same order on both sides,
/// so the script can match them.
fn message(message: &Message, bytes: &[u8]) -> Markup {
    let all: Vec<_> = fields(message, bytes).collect();
    html! {
        div.message {
            h3 { (one_line(&message.summary, MAX_TEXT)) " " small { (bytes.len()) " B" } }
            div.hex aria-hidden="true" {
                @for (_, bytes, _) in all.iter().filter(|(_, _, is_leaf)| *is_leaf) {
                    span { (hex(&bytes[..bytes.len().min(MAX_BYTES)])) } " "
                    @if bytes.len() > MAX_BYTES { em { (grouped((bytes.len() - MAX_BYTES) as f64)) " more bytes" } }
                }
            }
            ul.fields {
                @for (at, (field, _, is_leaf)) in all.iter().enumerate() {
                    li class=[(!is_leaf).then_some("group")] tabindex=[(at == 0).then_some("0")] style={ "--depth:" (field.depth) } {
                        b { (field.name) } " " span { (one_line(&field.value, MAX_TEXT)) }
                    }
                }
            }
        }
    }
}
