//! Tests of the scenes that the lab plays, and of what the documents show of them.

use std::sync::OnceLock;
use std::{fs, thread};

use lab::run::brokers::Brokers;
use lab::scenes::documents::{DOCUMENTS, rendered, topic};
use lab::scenes::view::{Conversation, Scene};
use lab::scenes::{self, Subject};
use lab::wire::message::Side;
use lab::wire::tape::What;
use message_queue::brokers::available;
use tests::{apply, test};

use crate::views::by_connection;

/// Returns how many connections were opened, after checking that both sides have closed all of them.
fn connections(conversation: &Conversation) -> usize {
    let steps = &conversation.trace.steps;
    let count = |is: &dyn Fn(Side, &What) -> bool| {
        steps.iter().filter(|step| is(step.event.from, &step.event.what)).count()
    };
    let opened = count(&|_, what| matches!(what, What::Open { .. }));
    for side in [Side::Client, Side::Server] {
        let ended = count(&|from, what| from == side && matches!(what, What::End | What::Reset));
        assert_eq!(ended, opened, "{side:?} should have closed each connection");
    }
    opened
}

/// Plays a scene, unless another test has played it: a broker takes seconds to start.
pub fn played(subject: &'static Subject) -> &'static Scene {
    static SCENES: [OnceLock<Scene>; scenes::ALL.len()] = [const { OnceLock::new() }; scenes::ALL.len()];
    let at = scenes::ALL.iter().position(|other| other.format == subject.format).unwrap();
    let play = || scenes::record(subject, &mut Brokers::default()).unwrap();
    // The scene needs a runtime of its own, and so a thread.
    SCENES[at].get_or_init(|| thread::scope(|scope| scope.spawn(play).join().unwrap()))
}

/// Checks a scene: its connections, its messages, and the diagrams in the documents.
fn check(name: &str, opened: &[usize]) {
    let subject = scenes::ALL.into_iter().find(|subject| subject.name == name).unwrap();
    let scene = played(subject);
    let counted: Vec<_> = scene.conversations.iter().map(connections).collect();
    assert_eq!(counted, opened, "connections of {name}");
    let steps = scene.conversations.iter().flat_map(|conversation| &conversation.trace.steps);
    for message in steps.flat_map(|step| &step.messages).map(|timed| &timed.message) {
        assert!(!message.summary.contains("cannot read"), "{name}: {message:?}");
    }
    let drawn = rendered(scene, subject.format);
    for (path, format) in DOCUMENTS.into_iter().filter(|(_, format)| *format == subject.format) {
        let shown = shown(path, &topic(format));
        assert_eq!(
            arrows(&shown),
            arrows(drawn.trim()),
            "{path} does not show this run; run cargo run -- wire --write-docs"
        );
    }
}

/// Returns what a document shows between its markers.
fn shown(path: &str, topic: &str) -> String {
    let document = fs::read_to_string(format!("../{path}")).unwrap();
    let marks = ["begin", "end"].map(|place| format!("<!-- {topic}: {place} -->"));
    let rest = document.split_once(&marks[0]).and_then(|(_, rest)| rest.split_once(&marks[1]));
    rest.unwrap_or_else(|| panic!("{path} has no place for the diagram")).0.trim().to_owned()
}

/// Returns the arrows of each connection in a diagram.
fn arrows(drawn: &str) -> Vec<String> {
    let lines = drawn.strip_prefix("```text\n").and_then(|rest| rest.strip_suffix("```"));
    by_connection(lines.expect("a diagram is a block of text"))
}

#[apply(test!)]
async fn a_scene_over_each_protocol_is_what_the_documents_show() {
    for (name, opened) in [("HTTP/REST", 2), ("gRPC", 1), ("WebSocket", 2), ("TCP", 1)] {
        check(name, &[opened]);
    }
}

#[apply(test!)]
#[long]
#[needs(available())]
async fn a_scene_over_each_broker_is_what_the_documents_show() {
    // The client connects for requests, for a job, and for a reading. Behind the broker, the server,
    // the worker, and the subscriber do. A worker on RabbitMQ also has a connection for retries.
    for (name, opened) in [("RabbitMQ", [3, 4]), ("Redis", [3, 3])] {
        check(name, &opened);
    }
}
