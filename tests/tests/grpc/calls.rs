//! The four kinds of call, as the contract describes them.

use std::time::Duration;

use bytes::Bytes;
use futures::stream::{self, TryStreamExt};
use grpc::Error;
use grpc::client::Failure;
use grpc::proto::monitor_response::Event;
use grpc::proto::threshold::Bound;
use grpc::proto::watch_request::Start;
use grpc::proto::{Metric, Position, Reading, Threshold, UploadResponse};
use grpc::protocol::status::{FELL_BEHIND, SERVER_RESTARTED};
use prost::Message;
use tests::{apply, test};
use tokio::time::Instant;
use tonic::Code;

use crate::support::*;

/// Returns the failure of a call.
pub fn failure<T: std::fmt::Debug>(result: Result<T, Error>) -> Box<Failure> {
    match result {
        Err(Error::Status(failure)) => failure,
        other => panic!("not a status: {other:?}"),
    }
}

#[apply(test!)]
async fn an_invalid_batch_is_not_recorded_and_its_fields_are_named() {
    let server = PAIR.serve().await;
    let client = client(server.url());
    let wrong = [
        reading("oslo-1", 1.0),
        Reading { station: "Oslo".into(), metric: 0, value: 1.0, recorded_at: u64::MAX },
        Reading { metric: 77, ..reading("oslo-1", 1.0) },
        reading("oslo-1", f64::NAN),
    ];
    let failed = failure(client.record(&wrong).await);
    assert_eq!(failed.code, Code::InvalidArgument);
    let fields: Vec<&str> = failed.violations.iter().map(|violation| violation.field.as_str()).collect();
    assert_eq!(
        fields,
        [
            "readings[1].station",
            "readings[1].metric",
            "readings[1].recorded_at",
            "readings[2].metric",
            "readings[3].value"
        ]
    );
    assert_eq!(failure(client.watch("oslo-1", None, None).await).code, Code::NotFound);

    let empty = failure(client.record(&[]).await);
    assert_eq!((empty.code, empty.violations[0].field.as_str()), (Code::InvalidArgument, "readings"));
    let large = failure(client.record(&vec![reading("a", 0.0); 10_001]).await);
    assert_eq!((large.code, large.violations[0].field.as_str()), (Code::InvalidArgument, "readings"));
    let many = failure(client.record(&vec![reading("a", 999.0); 10_000]).await);
    assert_eq!((many.code, many.violations.len()), (Code::InvalidArgument, 50));
    assert_eq!(many.message, "10000 fields are invalid; the first 50 are listed, and 9950 are left out");
    assert_eq!(client.record(&vec![reading("a", 9.0); 10_000]).await.unwrap(), 10_000);
    server.stop().await;
}

/// Values that Protocol Buffers can carry but the contract excludes, in each kind of
/// call.
#[apply(test!)]
async fn the_error_for_an_impossible_value_names_its_field() {
    let server = PAIR.serve().await;
    let client = client(server.url());
    let good = reading("oslo-1", 1.0);
    let valued = |metric: Metric, value| Reading { metric: metric.into(), value, ..good.clone() };
    let mut wrong = vec![
        (Reading { station: String::new(), ..good.clone() }, "station"),
        (Reading { station: "a".repeat(33), ..good.clone() }, "station"),
        (Reading { station: "oslo_1".into(), ..good.clone() }, "station"),
        (Reading { recorded_at: 253_402_300_800_000, ..good.clone() }, "recorded_at"),
        (Reading { recorded_at: u64::MAX, ..good.clone() }, "recorded_at"),
        (Reading::default(), "station"),
    ];
    for metric in [0, 5, 77, -1, i32::MAX, i32::MIN] {
        wrong.push((Reading { metric, ..good.clone() }, "metric"));
    }
    for (metric, low, high) in [
        (Metric::Temperature, -100.0, 70.0),
        (Metric::Humidity, 0.0, 100.0),
        (Metric::Pressure, 800.0, 1100.0),
        (Metric::Wind, 0.0, 120.0),
    ] {
        for value in [f64::NAN, -f64::NAN, f64::INFINITY, f64::NEG_INFINITY, f64::MAX, low - 0.1, high + 0.1]
        {
            wrong.push((valued(metric, value), "value"));
        }
        let batch = [valued(metric, low), valued(metric, high)];
        assert_eq!(client.record(&batch).await.unwrap(), 2, "{metric:?}");
    }
    // -0.0 equals 0.0, so it is not below the range.
    assert_eq!(client.record(&[valued(Metric::Wind, -0.0)]).await.unwrap(), 1);
    let last = Reading { station: "a".repeat(32), recorded_at: 253_402_300_799_999, ..good.clone() };
    assert_eq!(client.record(&[last]).await.unwrap(), 1);
    for (reading, field) in wrong {
        let failed = failure(client.record(&[good.clone(), reading.clone()]).await);
        assert_eq!(failed.code, Code::InvalidArgument, "{reading:?}");
        assert_eq!(failed.violations[0].field, format!("readings[1].{field}"), "{reading:?}");
        let summary = client.upload(stream::iter([reading.clone()]), None).await.unwrap();
        assert_eq!((summary.accepted, summary.rejected), (0, 1), "{reading:?}");
        assert_eq!(summary.rejections[0].field, format!("reading.{field}"), "{reading:?}");
    }
    let connection = connect(server.addr()).await;
    let empty = unary(&connection, UPLOAD, &[], prefixed(&())).await;
    let summary = UploadResponse::decode(&empty.messages[5..]).unwrap();
    assert_eq!(summary.rejections[0].field, "reading");
    for station in ["", "OSLO", &"a".repeat(33)] {
        let failed = failure(client.watch(station, None, None).await);
        assert_eq!((failed.code, &*failed.violations[0].field), (Code::InvalidArgument, "station"));
    }
    server.stop().await;
}

#[apply(test!)]
async fn a_full_store_refuses_only_new_stations() {
    let server = PAIR.serve().await;
    let client = client(server.url());
    let batch: Vec<_> = (0..1000).map(|i| reading(&format!("s{i}"), 1.0)).collect();
    assert_eq!(client.record(&batch).await.unwrap(), 1000);
    let refused = failure(client.record(&[reading("s1", 2.0), reading("new", 2.0)]).await);
    assert_eq!(refused.code, Code::ResourceExhausted);
    let mut watching = client.watch("s1", Some(Start::Newest(9)), None).await.unwrap();
    assert_eq!(client.record(&[reading("s1", 3.0)]).await.unwrap(), 1);
    for (sequence, value) in [(1, 1.0), (2, 3.0)] {
        let recorded = within(watching.next_reading()).await.unwrap().unwrap();
        assert_eq!((recorded.sequence, recorded.reading.unwrap().value), (sequence, value));
    }
    let summary = client.upload(stream::iter([reading("s1", 4.0), reading("new", 4.0)]), None).await.unwrap();
    assert_eq!((summary.accepted, summary.rejected), (1, 1));
    assert_eq!(summary.rejections[0].field, "reading.station");
    server.stop().await;
}

#[apply(test!)]
async fn watch_resumes_where_it_broke_off() {
    let server = PAIR.serve().await;
    let client = client(server.url());
    let batch: Vec<_> = (0..500).map(|i| reading("oslo-1", f64::from(i) / 10.0)).collect();
    client.record(&batch).await.unwrap();
    let first = client.watch("oslo-1", Some(Start::Newest(500)), None).await.unwrap();
    let start = first.position();
    drop(first);
    assert_eq!(start.sequence, 0);
    let after = Some(Start::After(Position { sequence: 200, ..start }));
    let mut watching = client.watch("oslo-1", after, None).await.unwrap();
    for sequence in 201..=500 {
        assert_eq!(within(watching.next_reading()).await.unwrap().unwrap().sequence, sequence);
    }
    assert_eq!(watching.position(), Position { sequence: 500, ..start });

    let future = Some(Start::After(Position { sequence: 501, ..start }));
    assert_eq!(failure(client.watch("oslo-1", future, None).await).code, Code::InvalidArgument);
    let other = Some(Start::After(Position { boot_id: !start.boot_id, ..start }));
    let restarted = failure(client.watch("oslo-1", other, None).await);
    assert_eq!(restarted.code, Code::FailedPrecondition);
    assert_eq!(restarted.reason.as_deref(), Some(SERVER_RESTARTED));
    server.stop().await;
}

#[apply(test!)]
#[long]
async fn watch_fails_if_the_next_reading_is_no_longer_kept() {
    let server = PAIR.serve().await;
    let client = client(server.url());
    let batch = vec![reading("oslo-1", 1.0); 10_000];
    client.record(&batch).await.unwrap();
    let start = client.watch("oslo-1", None, None).await.unwrap().position();
    for _ in 0..10 {
        client.record(&batch).await.unwrap();
    }
    // 110,000 were recorded, so 10,001 is the oldest kept.
    let kept = Some(Start::After(start));
    let mut watching = client.watch("oslo-1", kept, None).await.unwrap();
    assert_eq!(within(watching.next_reading()).await.unwrap().unwrap().sequence, 10_001);
    let gone = Some(Start::After(Position { sequence: 9_999, ..start }));
    let failed = failure(client.watch("oslo-1", gone, None).await);
    assert_eq!(failed.code, Code::ResourceExhausted);
    assert_eq!(failed.reason.as_deref(), Some(FELL_BEHIND));
    server.stop().await;
}

#[apply(test!)]
async fn upload_counts_the_readings_it_rejects() {
    let server = PAIR.serve().await;
    let client = client(server.url());
    let readings = (0..1000).map(|i| reading("oslo-1", if i % 10 == 3 { 1e9 } else { 1.0 }));
    let summary = client.upload(stream::iter(readings.collect::<Vec<_>>()), None).await.unwrap();
    assert_eq!((summary.accepted, summary.rejected, summary.rejections.len()), (900, 100, 50));
    assert_eq!((summary.rejections[1].index, summary.rejections[1].field.as_str()), (13, "reading.value"));
    let empty = client.upload(stream::empty(), None).await.unwrap();
    assert_eq!((empty.accepted, empty.rejected), (0, 0));
    server.stop().await;
}

fn threshold(id: &str, station: &str, bound: Option<Bound>) -> Threshold {
    Threshold { id: id.into(), station: station.into(), metric: Metric::Temperature.into(), bound }
}

#[apply(test!)]
async fn monitor_interleaves_alerts_and_acknowledgements() {
    let server = PAIR.serve().await;
    let client = client(server.url());
    client.record(&[reading("oslo-1", 50.0), reading("rome-1", 50.0)]).await.unwrap();
    let mut monitoring = client.monitor().await.unwrap();
    monitoring.add(threshold("hot", "oslo-1", Some(Bound::Above(30.0)))).await.unwrap();
    monitoring.add(threshold("cold", "oslo-1", Some(Bound::Below(0.0)))).await.unwrap();
    assert_eq!(within(monitoring.try_next()).await.unwrap(), Some(Event::Added("hot".into())));
    assert_eq!(within(monitoring.try_next()).await.unwrap(), Some(Event::Added("cold".into())));
    // Earlier readings do not count. The 200 new ones make several chunks.
    let values = (0..200).map(|i| if i % 2 == 0 { 30.0 } else { 31.0 });
    client.record(&values.map(|value| reading("oslo-1", value)).collect::<Vec<_>>()).await.unwrap();
    for i in 0..100 {
        let Some(Event::Alert(alert)) = within(monitoring.try_next()).await.unwrap() else {
            panic!("no alert")
        };
        let recorded = alert.recorded.unwrap();
        assert_eq!((alert.id.as_str(), recorded.sequence), ("hot", 3 + 2 * i));
        assert_eq!(recorded.reading.unwrap().value, 31.0);
    }
    monitoring.remove("hot").await.unwrap();
    assert_eq!(within(monitoring.try_next()).await.unwrap(), Some(Event::Removed("hot".into())));
    // A value equal to the bound is not below it.
    client.record(&[31.0, 0.0, -1.0].map(|value| reading("oslo-1", value))).await.unwrap();
    let Some(Event::Alert(alert)) = within(monitoring.try_next()).await.unwrap() else { panic!("no alert") };
    assert_eq!((alert.id.as_str(), alert.recorded.unwrap().sequence), ("cold", 204));
    monitoring.finish();
    assert_eq!(within(monitoring.try_next()).await.unwrap(), None);
    server.stop().await;
}

#[apply(test!)]
async fn monitor_refuses_a_request_and_stays_open() {
    let server = PAIR.serve().await;
    let client = client(server.url());
    client.record(&[reading("oslo-1", 50.0)]).await.unwrap();
    let mut monitoring = client.monitor().await.unwrap();
    for i in 0..100 {
        monitoring.add(threshold(&format!("t{i}"), "oslo-1", Some(Bound::Above(30.0)))).await.unwrap();
        assert_eq!(within(monitoring.try_next()).await.unwrap(), Some(Event::Added(format!("t{i}"))));
    }
    monitoring.add(threshold("one-more", "oslo-1", Some(Bound::Above(30.0)))).await.unwrap();
    let refused = async |monitoring: &mut grpc::client::Monitoring| match within(monitoring.try_next())
        .await
        .unwrap()
    {
        Some(Event::Refused(refusal)) => refusal.field,
        other => panic!("not refused: {other:?}"),
    };
    assert_eq!(refused(&mut monitoring).await, "add");
    monitoring.remove("t7").await.unwrap();
    assert_eq!(within(monitoring.try_next()).await.unwrap(), Some(Event::Removed("t7".into())));
    for (wrong, field) in [
        (threshold("t1", "oslo-1", Some(Bound::Above(30.0))), "add.id"),
        (threshold("", "oslo-1", Some(Bound::Above(30.0))), "add.id"),
        (threshold("x", "OSLO", Some(Bound::Above(30.0))), "add.station"),
        (threshold("x", "atlantis", Some(Bound::Above(30.0))), "add.station"),
        (threshold("x", "oslo-1", None), "add.bound"),
        (threshold("x", "oslo-1", Some(Bound::Below(f64::NAN))), "add.bound"),
        (threshold("x", "oslo-1", Some(Bound::Above(f64::NAN))), "add.bound"),
        (threshold("x", "oslo-1", Some(Bound::Above(f64::INFINITY))), "add.bound"),
        (threshold("x", "oslo-1", Some(Bound::Below(f64::NEG_INFINITY))), "add.bound"),
        (Threshold { metric: -1, ..threshold("x", "oslo-1", Some(Bound::Above(30.0))) }, "add.metric"),
        (threshold(&"a".repeat(33), "oslo-1", Some(Bound::Above(30.0))), "add.id"),
        (Threshold { metric: 0, ..threshold("x", "oslo-1", Some(Bound::Above(30.0))) }, "add.metric"),
    ] {
        monitoring.add(wrong).await.unwrap();
        assert_eq!(refused(&mut monitoring).await, field);
    }
    monitoring.remove("t7").await.unwrap();
    assert_eq!(refused(&mut monitoring).await, "remove");
    for (id, station) in [("x", "OSLO"), (&*"x".repeat(1_000), "oslo-1"), (&"é".repeat(500), "oslo-1")] {
        monitoring.add(threshold(id, station, Some(Bound::Above(30.0)))).await.unwrap();
        let Some(Event::Refused(refusal)) = within(monitoring.try_next()).await.unwrap() else {
            panic!("{id}")
        };
        assert!(refusal.description.contains("must be 1 to 32 characters"), "{refusal:?}");
        assert!(refusal.id.len() < 100, "{refusal:?}");
    }
    // An action that this version does not know: field 9.
    let connection = connect(server.addr()).await;
    let response = unary(&connection, MONITOR, &[], Bytes::from_static(b"\0\0\0\0\x02\x48\x01")).await;
    assert!(String::from_utf8_lossy(&response.messages).contains("newer than this server"));
    assert_eq!(response.code(), "0");
    server.stop().await;
}

/// Every call that can wait, including those of health and reflection.
#[apply(test!)]
async fn a_deadline_ends_every_kind_of_call() {
    let server = PAIR.serve().await;
    client(server.url()).record(&[reading("oslo-1", 1.0)]).await.unwrap();
    let connection = connect(server.addr()).await;
    let watch = prefixed(&watch_of("oslo-1", None));
    let empty = prefixed(&());
    let half = record_one().slice(..20);
    for (path, body, end) in [
        (RECORD, half, false), // A unary call whose request never ends.
        (WATCH, watch, true),
        (UPLOAD, Bytes::new(), false),
        (MONITOR, Bytes::new(), false),
        ("/grpc.health.v1.Health/Watch", empty, true),
        ("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", Bytes::new(), false),
    ] {
        for metadata in [[("grpc-timeout", "50m")], [("grpc-timeout", "50000u")]] {
            let started = Instant::now();
            let (response, mut send) = open(&connection, path, &metadata).await;
            send.send_data(body.clone(), end).unwrap();
            let response = whole_response(response).await;
            assert_eq!(response.code(), "4", "{path}");
            assert!(started.elapsed() >= Duration::from_millis(50), "{path}: too early");
        }
    }
    for (timeout, code) in [
        ("1H", "0"),
        ("99999999H", "0"),
        ("1", "3"),
        ("", "3"),
        ("1x", "3"),
        ("123456789m", "3"),
        ("+5S", "3"),
    ] {
        let response = unary(&connection, RECORD, &[("grpc-timeout", timeout)], record_one()).await;
        assert_eq!(response.code(), code, "{timeout:?}");
    }
    let twice = [("grpc-timeout", "1H"); 2];
    assert_eq!(unary(&connection, RECORD, &twice, record_one()).await.code(), "3", "{twice:?}");
    server.stop().await;
}

#[apply(test!)]
async fn a_deadline_may_have_any_unit() {
    let server = PAIR.serve().await;
    client(server.url()).record(&[reading("oslo-1", 1.0)]).await.unwrap();
    let connection = connect(server.addr()).await;
    for timeout in ["0H", "0M", "0S", "0m", "0u", "0n"] {
        // The request never ends, so the server waits for it until the deadline.
        let (response, _send) = open(&connection, RECORD, &[("grpc-timeout", timeout)]).await;
        let trailers = whole_response(response).await.headers;
        assert_eq!(trailers["grpc-message"], "the%20deadline%20passed", "{timeout}");
    }
    let mut streams = Vec::new();
    for timeout in ["1H", "1M", "60S", "60000m", "60000000u"] {
        streams.push((timeout, open_watch(&connection, 1, &[("grpc-timeout", timeout)]).await));
    }
    server.stop().await;
    for (timeout, stream) in streams {
        let (_, trailers) = rest(stream).await;
        assert_eq!(trailers.unwrap()["grpc-status"], "14", "{timeout} is over before the server stops");
    }
}

/// Even a stream that always has something to send ends at its deadline.
#[apply(test!)]
async fn a_deadline_ends_a_stream_that_always_has_data() {
    let server = PAIR.serve().await;
    let client = client(server.url());
    for _ in 0..10 {
        client.record(&vec![reading("oslo-1", 1.0); 10_000]).await.unwrap();
    }
    let connection = connect(server.addr()).await;
    let mut body = open_watch(&connection, 100_000, &[("grpc-timeout", "200m")]).await;
    // Read in small steps, so that the stream always has a reading to send.
    let mut bytes = 0;
    while let Some(data) = within(body.data()).await {
        let data = data.unwrap();
        bytes += data.len();
        tokio::time::sleep(Duration::from_millis(20)).await;
        body.flow_control().release_capacity(data.len()).unwrap();
    }
    assert_eq!(within(body.trailers()).await.unwrap().unwrap()["grpc-status"], "4");
    assert!(bytes < 1_000_000, "the whole stream came before the deadline");
    server.stop().await;
}
