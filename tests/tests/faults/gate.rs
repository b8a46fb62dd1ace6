//! Tests of the faults that a proxy makes between a real client and a real server.

use std::sync::Arc;

use lab::wire::decode::Format;
use lab::wire::fault::Fault;
use lab::wire::gate::Faults;
use lab::wire::proxy::Proxy;
use tests::{Server, apply, run_program, test};

use crate::journal::Journal;

/// What a client says about a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Told {
    Done,
    Unknown,
    NotDone,
}

/// Returns what the client of a protocol says about recording one reading at this address.
macro_rules! told {
    ($client:expr, $($reading:ident)::+ { $metric:expr }) => {{
        let (station, metric) = ("oslo-1".into(), $metric);
        let reading = $($reading)::+ { station, metric, value: -3.5, recorded_at: 1_767_225_600_000 };
        match $client.record(&[reading]).await {
            Ok(accepted) => {
                assert_eq!(accepted, 1);
                Told::Done
            }
            Err(error) if error.may_have_been_executed() => Told::Unknown,
            Err(_) => Told::NotDone,
        }
    }};
}

/// Records a reading through a proxy that makes a fault. Returns what the client says, and how often
/// the server has recorded the reading.
async fn record(format: Format, fault: &str) -> (Told, usize) {
    let journal = Journal::new(&format.name());
    let program = match format {
        Format::HttpRest => env!("CARGO_BIN_EXE_http_rest-server"),
        Format::Grpc => env!("CARGO_BIN_EXE_grpc-server"),
        Format::WebSocket => env!("CARGO_BIN_EXE_websocket-server"),
        _ => env!("CARGO_BIN_EXE_tcp_socket-server"),
    };
    let server: Server = journal.server(program, &["--addr", "127.0.0.1:0"]).await;
    let fault: Fault = fault.parse().unwrap();
    let faults = Arc::new(Faults::new(format.decoder()));
    faults.arm(fault);
    let proxy = Proxy::listen("127.0.0.1:0", server.addr().to_owned(), None, Some(faults)).unwrap();
    let url = format!("http://{}", proxy.address());
    let told = match format {
        Format::HttpRest => {
            let client = http_rest::Client::new(&url).unwrap();
            told!(client, http_rest::Reading { http_rest::Metric::Temperature })
        }
        Format::Grpc => {
            let client = grpc::Client::new(&url, &grpc::Options::default()).unwrap();
            told!(client, grpc::proto::Reading { grpc::proto::Metric::Temperature.into() })
        }
        Format::WebSocket => {
            let client = websocket::Client::new(&url);
            told!(client, websocket::Reading { websocket::Metric::Temperature })
        }
        _ => {
            let client = tcp_socket::Client::connect(&proxy.address()).await.unwrap();
            told!(client, tcp_socket::Reading { tcp_socket::Metric::Temperature })
        }
    };
    (told, journal.after_the_death_of(&server).lines().count())
}

#[apply(test!)]
async fn a_sentence_that_describes_no_fault_is_refused_at_its_first_wrong_word() {
    for (sentence, position, expected) in [
        ("break it", 1, "cut, lose, repeat, flip, silence, stop, or delay"),
        ("cut before request 1", 5, "in or after"),
        ("cut in reply 1", 8, "request or response"),
        ("cut after request", 18, "the number of a request, from 1"),
        ("repeat request 0", 16, "the number of a request, from 1"),
        ("silence 2x after request 1", 9, "a time such as 200ms or 2s"),
        ("delay 200ms after request 1", 13, "from"),
        ("flip the bit", 6, "a bit in"),
        ("lose response 1 twice", 17, "nothing more"),
        ("", 1, "cut, lose, repeat, flip, silence, stop, or delay"),
    ] {
        let error = sentence.parse::<Fault>().unwrap_err();
        assert_eq!((error.position, error.expected), (position, expected), "{sentence:?}");
    }
}

#[apply(test!)]
async fn every_sentence_of_the_help_is_understood() {
    let output = run_program(env!("CARGO_BIN_EXE_lab-under-test"), &["tap", "--help"]).await;
    let help = output.stdout.split_whitespace().collect::<Vec<_>>().join(" ");
    let (_, rest) = help.split_once("Break one request on purpose: ").unwrap();
    let sentences: Vec<_> = rest.split_once(" --").unwrap().0.split('"').skip(1).step_by(2).collect();
    assert_eq!(sentences.len(), 10);
    for sentence in sentences {
        let fault: Fault = sentence.replace('N', "3").parse().unwrap();
        assert_eq!(fault.request, 3, "{sentence}");
    }
}

/// The request at which a fault strikes, if the handshake of the protocol counts as a request, too.
fn of_record(format: Format, sentence: &str) -> String {
    let first = match format {
        Format::WebSocket | Format::TcpSocket => "2",
        _ => "1",
    };
    sentence.replace('N', first)
}

#[apply(test!)]
async fn a_client_never_claims_more_than_it_knows_after_a_cut() {
    // HTTP repeats the request under its key, and TCP under its batch ID. The others cannot.
    for (format, told) in [
        (Format::HttpRest, Told::Done),
        (Format::Grpc, Told::Unknown),
        (Format::WebSocket, Told::Unknown),
        (Format::TcpSocket, Told::Done),
    ] {
        let fault = of_record(format, "cut after request N");
        assert_eq!(record(format, &fault).await, (told, 1), "{format:?}");
        let fault = of_record(format, "cut in response N");
        assert_eq!(record(format, &fault).await, (told, 1), "{format:?}");
    }
}

#[apply(test!)]
async fn half_a_request_is_not_executed() {
    for format in [Format::HttpRest, Format::Grpc, Format::WebSocket, Format::TcpSocket] {
        let (told, executed) = record(format, &of_record(format, "cut in request N")).await;
        match told {
            Told::Done => assert_eq!(executed, 1, "{format:?}"),
            Told::Unknown | Told::NotDone => assert_eq!(executed, 0, "{format:?}"),
        }
    }
}

#[apply(test!)]
async fn a_request_with_a_key_or_an_id_is_executed_once_even_if_it_arrives_twice() {
    for format in [Format::HttpRest, Format::TcpSocket] {
        let fault = of_record(format, "repeat request N");
        assert_eq!(record(format, &fault).await, (Told::Done, 1), "{format:?}");
    }
}

#[apply(test!)]
async fn a_slow_network_changes_nothing_but_the_time() {
    for format in [Format::HttpRest, Format::Grpc, Format::WebSocket, Format::TcpSocket] {
        assert_eq!(record(format, "delay 50ms from request 1").await, (Told::Done, 1), "{format:?}");
    }
}

#[apply(test!)]
async fn a_checksum_notices_a_flipped_bit_that_other_protocols_accept() {
    let flipped = async |format| record(format, &of_record(format, "flip a bit in request N")).await;
    assert_eq!(flipped(Format::TcpSocket).await, (Told::Done, 1), "the client sends the batch again");
    assert_eq!(flipped(Format::Grpc).await, (Told::Done, 1), "with another value");
}
