//! The README's tested exercises. Each test fails until its exercise is solved. It sends
//! raw bytes, since the proto does not have the new call or field yet.

use std::sync::Arc;
use std::time::Duration;

use tests::exercises::root;
use tests::practice::{Dialog, assert_predicted, environment};
use tests::recorder::Recorder;
use tests::{apply, test};

use bytes::{Buf, Bytes, BytesMut};
use grpc::proto::watch_request::Start;
use grpc::proto::watch_response::Event;
use grpc::proto::{Metric, Reading, RecordedReading, WatchResponse};
use h2::RecvStream;
use lab::wire::decode::Format;
use lab::wire::gate::Faults;
use lab::wire::proxy::Proxy;
use prost::Message;
use tokio::time::timeout;
use tonic::Status;
use tonic_types::StatusExt;

use crate::support::*;

const LATEST: &str = "/weather.v1.WeatherService/Latest";

/// As the exercise describes it: `message LatestRequest { string station = 1; }`.
#[derive(Clone, PartialEq, Message)]
struct LatestRequest {
    #[prost(string, tag = "1")]
    station: String,
}

/// As the exercise describes it:
/// `message LatestResponse { repeated RecordedReading readings = 1; }`.
#[derive(Clone, PartialEq, Message)]
struct LatestResponse {
    #[prost(message, repeated, tag = "1")]
    readings: Vec<RecordedReading>,
}

fn measured(metric: Metric, value: f64) -> Reading {
    Reading { metric: metric.into(), ..reading("oslo-1", value) }
}

/// Returns the first invalid field that the status names, if the response is only a
/// status.
fn invalid_field(response: &WholeResponse) -> Option<String> {
    let status = Status::from_header_map(&response.headers)?;
    Some(status.get_details_bad_request()?.field_violations.first()?.field.clone())
}

#[apply(test!)]
#[exercise]
async fn exercise_latest_returns_the_newest_reading_of_each_metric() {
    let server = PAIR.serve().await;
    let recorded = [
        measured(Metric::Wind, 3.0),
        measured(Metric::Temperature, -3.5),
        measured(Metric::Wind, 4.0),
        measured(Metric::Temperature, -3.4),
        measured(Metric::Wind, 5.0),
    ];
    client(server.url()).record(&recorded).await.unwrap();
    let recorder = Recorder::start(Format::Grpc, server.addr());
    let connection = connect(&recorder.addr()).await;
    let ask = async |station: &str| {
        let request = prefixed(&LatestRequest { station: station.into() });
        unary(&connection, LATEST, &[], request).await
    };

    let response = ask("oslo-1").await;
    assert_ne!(
        response.code(),
        "12",
        "UNIMPLEMENTED: the server has no call `Latest`. Add it to weather.proto; the compiler then \
         asks for the method in service.rs"
    );
    assert_eq!(response.code(), "0", "`Latest` of a known station should end with OK");
    let latest =
        LatestResponse::decode(response.messages.get(5..).expect("the response should hold a message"))
            .expect("the message should be a LatestResponse");
    let newest = |metric: Metric, value| (metric as i32, value);
    let got: Vec<_> = latest
        .readings
        .iter()
        .filter_map(|recorded| Some((recorded.reading.as_ref()?.metric, recorded.reading.as_ref()?.value)))
        .collect();
    assert_eq!(
        got,
        [newest(Metric::Temperature, -3.4), newest(Metric::Wind, 5.0)],
        "`Latest` should return each metric's newest reading, in the order of the metrics' numbers"
    );
    let numbers: Vec<_> = latest.readings.iter().map(|recorded| recorded.sequence).collect();
    assert_eq!(numbers, [4, 5], "each reading should have the number that `Watch` gives it");

    assert_eq!(
        ask("atlantis").await.code(),
        "5",
        "a station without readings should get NOT_FOUND, as in `Watch`"
    );
    let wrong = ask("OSLO").await;
    assert_eq!(wrong.code(), "3", "an invalid station ID should get INVALID_ARGUMENT");
    assert_eq!(invalid_field(&wrong).as_deref(), Some("station"), "the BadRequest should name the field");
    server.stop().await;
}

/// Returns the bytes of the exercise's `repeated Metric metrics = 4;`, packed: the key
/// (field 4, wire type 2), how many bytes follow, and a number for each metric.
fn field_4(metrics: &[u8]) -> Vec<u8> {
    [&[4 << 3 | 2, metrics.len().try_into().unwrap()], metrics].concat()
}

/// Returns a request for the readings of these metrics only: of the newest 500 of oslo-1,
/// and of those that follow.
fn watch_only(metrics: &[u8]) -> Bytes {
    let mut message = watch_of("oslo-1", Some(Start::Newest(500))).encode_to_vec();
    message.extend(field_4(metrics));
    let mut bytes = BytesMut::from(&[0][..]);
    bytes.extend(u32::try_from(message.len()).unwrap().to_be_bytes());
    bytes.extend(message);
    bytes.freeze()
}

/// A response that is read message by message.
struct Responses {
    body: RecvStream,
    read: BytesMut,
}

impl Responses {
    async fn next(&mut self) -> Event {
        loop {
            if let Some(length) = self.read.get(1..5) {
                let length = u32::from_be_bytes(length.try_into().unwrap()) as usize;
                if self.read.len() >= 5 + length {
                    self.read.advance(5);
                    let message = WatchResponse::decode(self.read.split_to(length)).unwrap();
                    return message.event.expect("the response should hold an event");
                }
            }
            let data = timeout(Duration::from_secs(60), self.body.data()).await.expect(
                "no response arrived: after a chunk without a wanted reading, there may be more readings in \
                 the store",
            );
            let data = data.expect("the stream should stay open").unwrap();
            self.body.flow_control().release_capacity(data.len()).unwrap();
            self.read.extend_from_slice(&data);
        }
    }

    /// Returns the number, metric, and value of the next reading.
    async fn recorded(&mut self) -> (u64, i32, f64) {
        let Event::Recorded(RecordedReading { sequence, reading: Some(reading) }) = self.next().await else {
            panic!("not a reading")
        };
        (sequence, reading.metric, reading.value)
    }
}

#[apply(test!)]
#[exercise]
async fn exercise_a_watch_may_ask_for_some_metrics_only() {
    let server = PAIR.serve().await;
    let client = client(server.url());
    let wind = Metric::Wind as i32;
    // More readings without wind than the server copies out of its store at once.
    let mut recorded = vec![measured(Metric::Temperature, -3.5); 200];
    recorded.push(measured(Metric::Wind, 5.0));
    client.record(&recorded).await.unwrap();
    let recorder = Recorder::start(Format::Grpc, server.addr());
    let connection = connect(&recorder.addr()).await;
    let watch = async |request: Bytes| {
        let (response, mut send) = open(&connection, WATCH, &[]).await;
        send.send_data(request, true).unwrap();
        let body = within(response).await.unwrap().into_body();
        let mut responses = Responses { body, read: BytesMut::new() };
        assert!(
            matches!(responses.next().await, Event::Started(_)),
            "the first response should be `started`"
        );
        (responses, send)
    };

    let (mut windy, _send) = watch(watch_only(&[Metric::Wind as u8])).await;
    let first = windy.recorded().await;
    assert_eq!(
        first.1, wind,
        "field 4 asked for wind (metric 4) only, but the server sent metric {}: it skips a field that \
         it does not know. Add `repeated Metric metrics = 4;` to WatchRequest, and use it in watch.rs",
        first.1
    );
    assert_eq!(first, (201, wind, 5.0), "a reading should keep its number among all readings of the station");
    client.record(&[measured(Metric::Humidity, 40.0), measured(Metric::Wind, 6.0)]).await.unwrap();
    assert_eq!(windy.recorded().await, (203, wind, 6.0), "later readings should be filtered, too");

    // Two metrics, one of them twice.
    let (mut both, _send) = watch(watch_only(&[4, 2, 4])).await;
    for (sequence, metric, value) in [(201, 4, 5.0), (202, 2, 40.0), (203, 4, 6.0)] {
        assert_eq!(both.recorded().await, (sequence, metric, value), "wind and humidity were asked for");
    }
    // A client that was built before field 4 existed asks for everything.
    let (mut old, _send) = watch(watch_request(500)).await;
    for sequence in 1..=203 {
        assert_eq!(old.recorded().await.0, sequence, "without field 4, every reading should arrive");
    }

    // The deadline is for a server that accepts metric 77 and would never end the call.
    let response = unary(&connection, WATCH, &[("grpc-timeout", "10S")], watch_only(&[4, 77])).await;
    assert_eq!(response.code(), "3", "metric 77 should get INVALID_ARGUMENT");
    assert_eq!(
        invalid_field(&response).as_deref(),
        Some("metrics[1]"),
        "the BadRequest should name the field"
    );
    server.stop().await;
}

#[apply(test!)]
#[exercise]
#[needs(environment("grpc"))]
async fn exercise_a_follower_goes_on_where_it_was() {
    let server = PAIR.serve().await;
    let values: Vec<_> = (1..=5).map(|value| measured(Metric::Wind, f64::from(value))).collect();
    client(server.url()).record(&values).await.unwrap();
    let faults = Arc::new(Faults::new(Format::Grpc.decoder()));
    let network = Proxy::listen("127.0.0.1:0", server.addr().to_owned(), None, Some(faults.clone())).unwrap();
    let recorder = Recorder::start(Format::Grpc, &network.address());
    let script = root().join("tests/exercises/grpc/follow.py");
    let python = root().join("grpc/python/.venv/bin/python");
    let mut program = Dialog::start(&python, &["-B", script.to_str().unwrap(), &recorder.addr(), "oslo-1"]);
    assert_eq!([program.line().await, program.line().await], ["4 4.0", "5 5.0"]);
    faults.cut();
    client(server.url()).record(&[measured(Metric::Wind, 6.0)]).await.unwrap();
    assert_eq!(program.line().await, "6 6.0", "the line after the connection broke");
    server.stop().await;
}

#[apply(test!)]
#[exercise]
async fn exercise_the_responses_to_another_contract_are_predicted() {
    let server = PAIR.serve().await;
    let connection = connect(server.addr()).await;
    // A reading of oslo-1. The value's key is field 3 or 6, each with wire type 1: eight bytes.
    let record = async |metric: u8, value_key: u8| {
        let mut reading = b"\x0a\x06oslo-1".to_vec();
        reading.extend([0x10, metric, value_key]);
        reading.extend(1000_f64.to_le_bytes());
        let message = [&[0x0a, reading.len() as u8], &reading[..]].concat();
        grpc::protocol::status::name(
            unary(&connection, RECORD, &[], framed(false, &message))
                .await
                .code()
                .parse::<i32>()
                .unwrap()
                .into(),
        )
    };
    let (key_3, key_6) = (3 << 3 | 1, 6 << 3 | 1);
    let happened = [
        record(Metric::Pressure as u8, key_3).await,
        record(Metric::Pressure as u8, key_6).await,
        record(Metric::Temperature as u8, key_6).await,
        record(5, key_3).await,
    ];
    let (response, mut send) = open(&connection, WATCH, &[]).await;
    send.send_data(watch_request(1), true).unwrap();
    let body = within(response).await.unwrap().into_body();
    let mut responses = Responses { body, read: BytesMut::new() };
    responses.next().await;
    let (_, metric, value) = responses.recorded().await;
    assert_eq!(metric, Metric::Temperature as i32);
    let happened = [&happened[..], &[value.to_string()]].concat();
    assert_predicted("grpc/other_contract.txt", &happened);
    server.stop().await;
}
