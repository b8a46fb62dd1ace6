//! The two programs, and what the README shows of them.

use grpc::proto::{RecordRequest, RecordResponse};
use prost::Message;
use tests::{apply, assert_same, expected_output, run_program, test};

use crate::support::*;

const README: &str = "grpc/README.md";

#[apply(test!)]
async fn the_minimal_example_prints_what_the_readme_shows() {
    let output = run_program(env!("CARGO_BIN_EXE_grpc-minimal"), &[]).await;
    assert_eq!(output.code, Some(0), "{}", output.stderr);
    assert_same(&output.stdout, &expected_output(README, "cargo run -p grpc --example minimal"));
}

#[apply(test!)]
async fn the_pair_prints_what_the_readme_shows() {
    let server = PAIR.serve().await;
    let client = PAIR.client(&server, &[]).await;
    assert_eq!(client.code, Some(0), "{}", client.stderr);
    assert_same(&client.stdout, include_str!("tour.txt"));
    // The README shows parts of it. A line `...` replaces any other lines.
    assert_same(&client.stdout, &expected_output(README, "cargo run -p grpc --bin client"));
    server.has_printed("CANCELLED").await;
    assert_same(&server.stop().await, &expected_output(README, "cargo run -p grpc --bin server"));
}

#[apply(test!)]
async fn a_client_without_a_server_says_how_to_start_one() {
    PAIR.client_says_how_to_start_a_server("http", &[&[], &["record", "oslo-1", "wind", "3"]]).await;
}

#[apply(test!)]
async fn a_server_whose_port_is_taken_says_how_to_pick_another() {
    PAIR.server_says_how_to_pick_another_port().await;
}

#[apply(test!)]
async fn the_client_refuses_an_address_of_another_protocol() {
    PAIR.client_refuses_another_protocol("http", &[&[], &["monitor"]]).await;
}

#[apply(test!)]
async fn the_client_uploads_a_file() {
    let server = PAIR.serve().await;
    let file = std::env::temp_dir().join(format!("weather-{}.csv", std::process::id()));
    std::fs::write(
        &file,
        "oslo-1,temperature,1.5,1\noslo-1,wind,500,2\noslo-1,wind,5,3\nnonsense\noslo-1,wind,5,4\n",
    )
    .unwrap();
    let client = PAIR.client(&server, &["upload", file.to_str().unwrap()]).await;
    std::fs::remove_file(&file).unwrap();
    assert_eq!(client.code, Some(1));
    assert_eq!(client.stdout, "accepted 2, rejected 1\nmessage 1: reading.value 500 is outside 0 to 120\n");
    assert!(client.stderr.contains("line 4: expected the 4 fields"), "{}", client.stderr);
    let watch = PAIR.client(&server, &["watch", "oslo-1", "--newest", "9", "--deadline", "1"]).await;
    assert_eq!(watch.stdout, "1: oslo-1 temperature 1.5 at 1\n2: oslo-1 wind 5 at 3\n");
    assert_eq!(watch.stderr, "error: DEADLINE_EXCEEDED: the deadline passed\n");
    server.stop().await;
}

#[apply(test!)]
async fn a_unary_call_has_these_bytes_on_the_wire() {
    let server = PAIR.serve().await;
    let connection = connect(server.addr()).await;
    let request = prefixed(&RecordRequest { readings: vec![reading("oslo-1", -3.5)] });
    // Field 1 (readings) holds fields 1 to 4. There are no names, only numbers and
    // lengths.
    assert_eq!(
        &request[..],
        b"\0\0\0\0\x1c\
          \x0a\x1a\x0a\x06oslo-1\x10\x01\x19\0\0\0\0\0\0\x0c\xc0\x20\x80\xd0\xea\xb6\xb73"
    );
    let response = unary(&connection, RECORD, &[], request).await;
    assert_eq!(response.http_status, 200);
    assert_eq!(response.headers["content-type"], "application/grpc");
    assert_eq!(&response.messages[..], b"\0\0\0\0\x02\x08\x01");
    assert_eq!(RecordResponse::decode(&response.messages[5..]).unwrap().accepted, 1);
    assert_eq!(response.trailers.as_ref().unwrap()["grpc-status"], "0");
    server.stop().await;
}

/// The exchange in the README: `> ` and `< ` begin a frame, two spaces continue one, the
/// fields are in hexadecimal, and a comment follows a bar.
#[apply(test!)]
async fn the_bytes_in_the_readme_are_real() {
    let readme = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../grpc/README.md")).unwrap();
    let block = readme.split("```wire\n").nth(1).unwrap().split("```").next().unwrap();
    let mut frames: Vec<(&str, Vec<u8>)> = Vec::new();
    for line in block.lines() {
        let (side, text) = line.split_at(2);
        let fields = text.split('|').next().unwrap().split_whitespace();
        let digits = fields.flat_map(|field| field.as_bytes().chunks(2));
        let bytes = digits.map(|byte| u8::from_str_radix(str::from_utf8(byte).unwrap(), 16).unwrap());
        match side.trim() {
            "" => frames.last_mut().unwrap().1.extend(bytes),
            side => frames.push((side, bytes.collect())),
        }
    }
    let server = PAIR.serve().await;
    let mut raw = Raw::tcp(server.addr()).await;
    let sent: Vec<u8> =
        frames.iter().filter(|(side, _)| *side == ">").flat_map(|(_, bytes)| bytes.clone()).collect();
    raw.send(&sent).await;
    let mut expected: Vec<_> =
        frames.into_iter().filter(|(side, _)| *side == "<").map(|(_, bytes)| bytes).collect();
    let mut received = Vec::new();
    while received.len() < expected.len() {
        let response = raw.frame().await.unwrap();
        received.push(frame(response.kind, response.flags, response.stream, &response.payload));
    }
    // The connection's own frames may arrive in any order; those of the stream have a
    // fixed order.
    let is_of_a_stream = |frame: &Vec<u8>| frame[5..9] != [0, 0, 0, 0];
    received.sort_by_key(is_of_a_stream);
    expected.sort_by_key(is_of_a_stream);
    let (mut ours, mut theirs) = (received.split_off(3), expected.split_off(3));
    received.sort();
    expected.sort();
    received.append(&mut ours);
    expected.append(&mut theirs);
    assert_eq!(received, expected);
    server.stop().await;
}
