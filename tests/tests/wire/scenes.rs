//! Tests of the scenes that the lab plays.

use lab::run::brokers::Brokers;
use lab::scenes::{self, Recording};
use lab::wire::message::Side;
use lab::wire::tape::{Event, What};
use message_queue::brokers::available;
use tests::{apply, test};

async fn play(id: &str) -> Recording {
    let subject = scenes::ALL.into_iter().find(|subject| subject.id == id).unwrap();
    scenes::record(subject, &mut Brokers::default()).await.unwrap()
}

/// Returns how many connections the client opened, after checking that both sides have closed all of
/// them.
fn connections(events: &[Event]) -> usize {
    let count = |is: &dyn Fn(&Event) -> bool| events.iter().filter(|event| is(event)).count();
    let opened = count(&|event| matches!(event.what, What::Open { .. }));
    for side in [Side::Client, Side::Server] {
        let ended = count(&|event| event.from == side && matches!(event.what, What::End | What::Reset));
        assert_eq!(ended, opened, "{side:?} should have closed each connection");
    }
    opened
}

#[apply(test!)]
async fn a_scene_over_each_protocol_ends_with_closed_connections() {
    for (id, opened) in [("http_rest", 2), ("grpc", 1), ("websocket", 2), ("tcp_socket", 1)] {
        let recording = play(id).await;
        assert_eq!(connections(&recording.client), opened, "{id}");
        assert!(recording.other.is_empty(), "{id} needs no broker");
    }
}

#[apply(test!)]
#[needs(available())]
async fn a_scene_over_each_broker_ends_with_closed_connections() {
    // The client connects for requests, for a job, and for a reading. Behind the broker, the server,
    // the worker, and the subscriber do.
    for (id, client, other) in [("rabbitmq", 3, 4), ("redis", 3, 3)] {
        let recording = play(id).await;
        assert_eq!(connections(&recording.client), client, "{id}");
        assert_eq!(connections(&recording.other), other, "{id}");
    }
}
