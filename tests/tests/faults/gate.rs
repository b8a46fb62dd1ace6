//! Tests of the faults that a proxy makes between a real client and a real server.

use std::sync::Arc;
use std::time::Duration;

use lab::wire::decode::Format;
use lab::wire::fault::Fault;
use lab::wire::gate::Faults;
use lab::wire::proxy::Proxy;
use tests::{Server, apply, test};

const PROGRAMS: [(Format, &str); 4] = [
    (Format::HttpRest, env!("CARGO_BIN_EXE_http_rest-server")),
    (Format::Grpc, env!("CARGO_BIN_EXE_grpc-server")),
    (Format::WebSocket, env!("CARGO_BIN_EXE_websocket-server")),
    (Format::TcpSocket, env!("CARGO_BIN_EXE_tcp_socket-server")),
];

#[apply(test!)]
async fn a_sentence_that_describes_no_fault_is_refused_at_its_first_wrong_word() {
    for (sentence, position, expected) in [
        ("break it", 1, "cut, lose, repeat, flip, silence, or delay"),
        ("cut before request 1", 5, "in or after"),
        ("cut in reply 1", 8, "request or response"),
        ("cut after request", 18, "the number of a request, from 1"),
        ("repeat request 0", 16, "the number of a request, from 1"),
        ("silence 2x after request 1", 9, "a time such as 200ms or 2s"),
        ("delay 200ms after request 1", 13, "from"),
        ("flip the bit", 6, "a bit in"),
        ("lose response 1 twice", 17, "nothing more"),
        ("", 1, "cut, lose, repeat, flip, silence, or delay"),
    ] {
        let error = sentence.parse::<Fault>().unwrap_err();
        assert_eq!((error.position, error.expected), (position, expected), "{sentence:?}");
    }
}

#[apply(test!)]
async fn every_sentence_of_the_help_is_understood() {
    let sentences = "cut in request N, cut after request N, cut in response N, lose response N, repeat request N, \
                     flip a bit in request N, silence after request N, silence 2s after request N, \
                     delay 200ms from request N";
    for sentence in sentences.split(", ") {
        let fault: Fault = sentence.replace('N', "3").parse().unwrap();
        assert_eq!(fault.request, 3, "{sentence}");
    }
}
