//! Text from the other side cannot control a terminal or forge a line.

use bytes::Bytes;
use grpc::proto::monitor_response::Event;
use grpc::proto::{
    Alert, MonitorResponse, Position, Reading, RecordedReading, Refusal, Rejection, UploadResponse,
    WatchResponse, watch_response,
};
use http::HeaderMap;
use tests::{apply, run_program, test};
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use crate::support::*;

/// A text that clears the screen, rings the bell, overwrites a line, forges one, and so
/// on.
const EVIL: &str = "\u{1b}[2J\u{7}\r\nerror: forged\u{9b}31m\u{202e}\u{2066}\u{200b}\u{3164}\u{2028}";

fn assert_printable(text: &str, context: &str) {
    let bad: Vec<char> =
        text.chars().filter(|c| c.is_control() && *c != '\n' || EVIL.contains(*c) && !c.is_ascii()).collect();
    assert!(bad.is_empty(), "{context}: {bad:?} in {text:?}");
    assert!(!text.lines().any(|line| line.starts_with("error: forged")), "{context}: {text:?}");
}

/// Starts a server that puts [`EVIL`] into every text of its responses.
async fn evil_server() -> String {
    let (listener, url) = listen().await;
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let mut connection = h2::server::handshake(stream).await.unwrap();
                while let Some(Ok((request, mut respond))) = connection.accept().await {
                    let mut body = respond.send_response(response_headers(), false).unwrap();
                    let (messages, status) = response_to(request.uri().path());
                    for message in messages {
                        body.send_data(message, false).unwrap();
                    }
                    let mut trailers = HeaderMap::new();
                    status.add_header(&mut trailers).unwrap();
                    body.send_trailers(trailers).unwrap();
                }
            });
        }
    });
    url
}

fn response_to(path: &str) -> (Vec<Bytes>, Status) {
    let evil = || EVIL.to_owned();
    let recorded =
        || RecordedReading { sequence: 1, reading: Some(Reading { station: evil(), ..reading("", 1.0) }) };
    match path {
        RECORD => {
            let details = ErrorDetails::with_bad_request_violation(EVIL, EVIL);
            (vec![], Status::with_error_details(Code::InvalidArgument, EVIL, details))
        }
        WATCH => {
            let started = watch_response::Event::Started(Position { boot_id: 1, sequence: 0 });
            let events = [started, watch_response::Event::Recorded(recorded())];
            let messages = events.map(|event| prefixed(&WatchResponse { event: Some(event) }));
            (messages.into(), Status::unavailable(EVIL))
        }
        UPLOAD => {
            let rejection = Rejection { index: 0, field: evil(), description: evil() };
            let response = UploadResponse { accepted: 0, rejected: 1, rejections: vec![rejection] };
            (vec![prefixed(&response)], Status::new(Code::Ok, ""))
        }
        _ => {
            let events = [
                Event::Added(evil()),
                Event::Removed(evil()),
                Event::Refused(Refusal { id: evil(), field: evil(), description: evil() }),
                Event::Alert(Alert { id: evil(), recorded: Some(recorded()) }),
            ];
            let messages = events.map(|event| prefixed(&MonitorResponse { event: Some(event) }));
            (messages.into(), Status::data_loss(EVIL))
        }
    }
}

#[apply(test!)]
async fn the_client_prints_nothing_that_controls_a_terminal() {
    let url = evil_server().await;
    let file = std::env::temp_dir().join(format!("weather-evil-{}.csv", std::process::id()));
    std::fs::write(&file, "oslo-1,temperature,1.5,1\n").unwrap();
    let record = ["record", "oslo-1", "wind", "1"];
    let watch = ["watch", "oslo-1", "--newest", "1", "--deadline", "1"];
    for (args, code, stdout, stderr) in [
        (&[][..], 1, 0, 1),
        (&record, 1, 0, 1),
        (&["upload", file.to_str().unwrap()], 0, 2, 0),
        (&["monitor"], 1, 4, 1),
        (&watch, 1, 1, 0),
    ] {
        let client = run_program(PAIR.client, &[args, &["--url", &url]].concat()).await;
        assert_printable(&client.stdout, args.first().unwrap_or(&"tour"));
        assert_printable(&client.stderr, args.first().unwrap_or(&"tour"));
        let all = client.stdout.clone() + &client.stderr;
        assert!(all.contains("\\u001b[2J\\u0007\\r\\nerror: forged\\u009b31m\\u202e"), "{args:?}: {all}");
        assert_eq!(client.code, Some(code), "{args:?}: {all}");
        if args != watch {
            // Each text stays on its line. (A watch reconnects an unknown number of
            // times.)
            assert_eq!((client.stdout.lines().count(), client.stderr.lines().count()), (stdout, stderr));
        }
    }
    std::fs::remove_file(&file).unwrap();
}

#[apply(test!)]
async fn the_server_logs_nothing_that_controls_a_terminal() {
    let server = PAIR.serve().await;
    for (index, text) in
        ["\u{202e}", "\u{9b}31m", "\u{3164}", "\u{1b}[2J", "\r\n", "\u{2028}"].iter().enumerate()
    {
        let path = format!("/weather{text}/{index}");
        let mut headers = call_headers(&path);
        headers.extend(hpack(&[("x-request-id", text)]));
        let mut raw = Raw::connect(server.addr()).await;
        raw.send(&frame(HEADERS, END_HEADERS | END_STREAM, 1, &headers)).await;
        // Either the library refuses the request, or the server responds and logs it.
        let mut responded = false;
        while let Some(frame) = raw.frame().await {
            if frame.stream == 1 {
                responded = frame.kind == HEADERS;
                break;
            }
        }
        if responded {
            server.has_printed(&format!("/{index} UNIMPLEMENTED")).await;
        }
    }
    // The HTTP library accepts at least this one as a path.
    server.has_printed("/weather\\u202e/0 UNIMPLEMENTED").await;
    let long = "x".repeat(5_000);
    let connection = connect(server.addr()).await;
    let metadata = [("x-request-id", &long[..1_000])];
    unary(&connection, &format!("/{long}"), &metadata, Bytes::new()).await;
    server.has_printed("xxx UNIMPLEMENTED").await;
    let log = server.stop().await;
    assert_printable(&log, "log");
    assert!(log.lines().all(|line| line.len() < 400), "a line is too long");
}
