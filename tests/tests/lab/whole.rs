//! Tests short but complete runs, in which real servers run in their own processes.

use std::collections::BTreeSet;
use std::process::Stdio;
use std::sync::atomic::AtomicBool;
use std::thread;
use std::time::Duration;

use indicatif::ProgressBar;
use lab::compare::compare;
use lab::compare::measure::Span;
use lab::compare::plan::Plan;
use lab::protocols::{self, FAN_OUT, Protocol, STREAMS, Served};
use lab::report::results::Results;
use lab::report::sections::{Delayed, Delivered};
use lab::report::{comparison, tables};
use lab::run::brokers::runnable;
use lab::run::conditions::conditions;
use lab::run::encryption::Connection;
use message_queue::brokers::Kind;
use tests::{apply, test};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::TcpStream;

/// Returns a plan that measures everything once or twice, and only briefly.
fn brief() -> Plan {
    let span = Span { warm_up: Duration::from_millis(20), measured: Duration::from_millis(60) };
    Plan {
        rounds: 2,
        latency: span,
        throughput: span,
        in_flight: vec![1, 4],
        fixed_rate: span,
        rates: vec![50, 100],
        batch: span,
        readings: vec![1, 10],
        set_ups: 2,
        idle_connections: 3,
        delays: vec![2],
        bandwidth: Some(100_000_000),
        subscribers: vec![1, 3],
        messages: Some(101),
        idle: Some(20),
        new_connections: 3,
        encrypted: span,
        extra_rounds: 1,
    }
}

/// Measures on a separate thread, because the lab pins its thread to a core.
fn measured(plan: Plan, protocols: Vec<&'static Protocol>, stop: bool) -> Results {
    let conditions = conditions(plan.rounds);
    let run = move || {
        let stop = AtomicBool::new(stop);
        compare(&plan, &protocols, None, conditions, &ProgressBar::hidden(), &stop)
    };
    thread::spawn(run).join().unwrap().unwrap()
}

#[apply(test!)]
#[alone]
async fn a_run_measures_every_protocol_without_a_broker() {
    let results = check(through_brokers(false));
    // TCP's handshake takes one round trip. The hello of our own protocol and WebSocket's upgrade take
    // another one.
    for (id, set_up) in [("tokio_echo", 1), ("tcp_socket", 2), ("websocket", 2), ("http_rest", 1)] {
        let trips = results.round_trips.iter().find(|row| row.protocol == id).unwrap();
        assert_eq!(trips.set_up, set_up, "{id}");
    }
}

/// Does the same with brokers that the lab starts.
#[apply(test!)]
#[alone]
#[needs(message_queue::brokers::available())]
async fn a_run_measures_every_protocol_with_a_broker() {
    let results = check(through_brokers(true));
    for row in &results.latency.rows {
        let broker = row.broker_cpu.expect("the broker's CPU time").median;
        assert!(broker > 1000.0, "{}: {broker} ns of the broker's CPU for a request", row.protocol);
        let accepted = ["redis_append", "rabbitmq_publish"].contains(&row.protocol.as_str());
        assert_eq!(row.server_cpu.is_none(), accepted, "{}", row.protocol);
    }
    // The reading makes two hops: from client to broker, and from broker to server.
    let request = results.bytes.iter().find(|row| row.protocol == "rabbitmq").unwrap();
    let publish = results.bytes.iter().find(|row| row.protocol == "rabbitmq_publish").unwrap();
    assert!(request.total() > 1.5 * publish.total(), "{request:?}, {publish:?}");
}

fn through_brokers(wanted: bool) -> Vec<&'static Protocol> {
    let through = |protocol: &&Protocol| protocol.served.broker().is_some() == wanted;
    protocols::ALL.into_iter().filter(through).collect()
}

#[apply(test!)]
async fn if_a_broker_is_missing_the_other_protocols_run() {
    let (runs, missing) = runnable(&protocols::ALL, |kind| kind == Kind::Redis);
    assert_eq!(runs.len() + missing.len(), protocols::ALL.len());
    let missing: Vec<_> =
        missing.into_iter().map(|missing| (missing.name, missing.reason, missing.command)).collect();
    let lacks = |name: &str| {
        let command = "BROKERS=install cargo run --release".to_owned();
        (name.to_owned(), "RabbitMQ is not installed".to_owned(), command)
    };
    assert_eq!(missing, [lacks("RabbitMQ request/reply"), lacks("RabbitMQ publish")]);
    assert!(runs.iter().any(|protocol| protocol.id == "redis"));
}

/// Checks that a TLS handshake adds a round trip and the bytes of certificates, and that a resumed
/// one has no certificate. Our servers and Redis resume; RabbitMQ does not.
fn check_encryption(results: &Results) {
    let kinds = [Connection::Full, Connection::Resumed, Connection::Mutual];
    let plain: Vec<_> = results.encryption.iter().filter(|row| row.connection == Connection::Plain).collect();
    assert!(!plain.is_empty());
    assert_eq!(results.encryption.len(), 4 * plain.len(), "{:?}", results.encryption);
    for plain in plain {
        let id = plain.protocol.as_str();
        let rows = results.encryption.iter().filter(|row| row.protocol == id);
        let rows: Vec<_> = rows.filter(|row| row.connection != Connection::Plain).collect();
        assert_eq!(rows.iter().map(|row| row.connection).collect::<Vec<_>>(), kinds, "{id}");
        let [full, resumed, mutual] = [0, 1, 2].map(|at| rows[at].set_up_bytes - plain.set_up_bytes);
        assert!((900.0..3000.0).contains(&full), "{id}: {full} bytes");
        assert!(mutual > full + 400.0, "{id}: {mutual} and {full} bytes");
        assert_eq!(resumed + 300.0 < full, id != "rabbitmq", "{id}: {resumed} and {full} bytes");
        // In a debug build, the cryptography takes so long that it may count as another round trip.
        assert!(rows.iter().all(|row| row.round_trips > plain.round_trips), "{id}: {rows:?}, {plain:?}");
        assert!(rows.iter().all(|row| row.request_bytes > plain.request_bytes), "{id}: {rows:?}");
        let both = cfg!(target_os = "linux");
        assert_eq!(rows[0].memory.is_some() && rows[0].many_cpu.is_some(), both, "{id}");
        assert!(rows[1].memory.is_none() && rows[1].one_cpu.is_none(), "{id}");
    }
}

/// Makes a brief run and checks that it has all rows, and that they can be saved and shown.
fn check(protocols: Vec<&'static Protocol>) -> Results {
    let results = measured(brief(), protocols.clone(), false);
    assert!(results.failures.is_empty(), "{:?}", results.failures);
    assert!(results.missing.is_empty(), "{:?}", results.missing);
    assert!(!results.conditions.interrupted);
    let all = protocols.len();
    let many = protocols.iter().filter(|protocol| !protocol.one_at_a_time).count();
    assert_eq!(results.latency.rows.len(), all);
    assert_eq!(results.throughput.rows.len(), all + many, "one and four in flight");
    assert_eq!(results.batch.rows.len(), 2 * all);
    assert_eq!((results.bytes.len(), results.set_up.rows.len()), (2 * all, all));
    assert!(results.batch.rows.iter().all(|row| row.cpu.is_some()) || !cfg!(target_os = "linux"));
    assert_eq!((results.round_trips.len(), results.network.len()), (all, all));
    let ways = FAN_OUT.iter().filter(|way| protocols.iter().any(|protocol| protocol.id == way.selected_by));
    assert_eq!(results.fan_out.len(), 2 * (1 + ways.count()), "two levels, also of the baseline");
    let ordered = |row: &Delivered| row.first.median <= row.last.median && row.cpu.is_some();
    assert!(results.fan_out.iter().all(ordered), "{:?}", results.fan_out);
    let streams = STREAMS.iter().filter(|way| protocols.iter().any(|one| one.id == way.selected_by));
    assert_eq!(results.streams.len(), streams.count());
    assert!(results.streams.iter().all(|row| row.per_second.low > 0.0 && row.p50.low > 0.0));
    let idle: Vec<_> = results.idle.iter().map(|row| (row.protocol.as_str(), row.connections)).collect();
    let servers = ["tokio_echo", "tcp_socket", "websocket", "grpc_unary", "http_rest"].as_slice();
    let brokers = ["redis_append", "rabbitmq_publish"].as_slice();
    let expected = if protocols[0].served.broker().is_some() { brokers } else { servers };
    assert_eq!(idle, expected.iter().map(|&id| (id, 20)).collect::<Vec<_>>());
    let round_trip = |row: &Delayed| row.one.low > 2e6 && row.set_up.low > 4e6;
    assert!(results.network.iter().all(round_trip), "shorter than the delay: {:?}", results.network);
    for trips in &results.round_trips {
        let through_broker = protocols.iter().any(|protocol| {
            protocol.id == trips.protocol && matches!(protocol.served, Served::ThroughBroker(..))
        });
        assert_eq!(trips.request, if through_broker { 2 } else { 1 }, "{trips:?}");
    }
    check_encryption(&results);
    let offered: Vec<_> = results.fixed_rate.rows.iter().map(|row| row.protocol.as_str()).collect();
    assert_eq!(offered.iter().collect::<BTreeSet<_>>().len(), many);
    for row in &results.latency.rows {
        assert_eq!(row.errors, 0, "{}", row.protocol);
        assert!(row.requests > 0, "{}", row.protocol);
        if let Some(server) = row.server_cpu.filter(|_| cfg!(target_os = "linux")) {
            assert!(server.median > 100.0, "{}: {server} ns of server CPU for a request", row.protocol);
        }
    }
    // On a busy machine, a single protocol may get no CPU time.
    assert!(results.throughput.rows.iter().all(|row| row.errors == 0));
    assert!(results.throughput.rows.iter().any(|row| row.per_second.median > 0.0));
    if cfg!(target_os = "linux") {
        let busy = results.conditions.busy_before.unwrap();
        assert!((0.0..=1.0).contains(&busy), "{busy} of the cores' time");
        assert_eq!(results.memory.len(), all);
        assert!(results.memory.iter().all(|row| row.at_rest > 1_000_000), "{:?}", results.memory);
    }

    // The results can be written and read again, and then look the same.
    let text = serde_json::to_string(&results).unwrap();
    let again = Results::parse(&text).unwrap();
    let page = comparison::html(&again);
    assert!(page == comparison::html(&results));
    for protocol in protocols {
        assert!(page.contains(protocol.name), "{}", protocol.name);
    }
    assert!(!page.contains("NaN") && !page.contains(">inf"), "{page}");
    assert_eq!(page.matches("<svg").count(), page.matches("</svg>").count());
    // The plot of fixed rates may be missing, because p99 needs a thousand samples, and the added
    // time needs the echo.
    assert!(matches!(page.matches("<svg").count(), 6..=8));
    let outside = page.replace("http://www.w3.org/2000/svg", "");
    assert!(
        !outside.contains("src=") && !outside.contains("href=") && !outside.contains("url("),
        "the page should open offline"
    );
    assert_eq!(tables::tables(&again).len(), 18 + usize::from(!results.streams.is_empty()));
    results
}

#[apply(test!)]
async fn a_stopped_run_shows_what_it_has_measured() {
    let results = measured(brief(), through_brokers(false), true);
    assert!(results.conditions.interrupted);
    assert!(results.latency.rows.is_empty() && results.bytes.is_empty());
    assert!(comparison::html(&results).contains("stopped early"));
    Results::parse(&serde_json::to_string(&results).unwrap()).unwrap();
}

/// This also works after `kill -9` of the lab, because that closes the pipe to stdin, too.
#[apply(test!)]
async fn a_server_ends_with_its_owner() {
    let mut child = tokio::process::Command::new(env!("CARGO_BIN_EXE_lab-under-test"))
        .args(["serve", "tokio_echo"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let line = lines.next_line().await.unwrap().unwrap();
    let address = line.strip_prefix("listening on ").unwrap();
    let _idle = TcpStream::connect(address).await.unwrap();
    drop(child.stdin.take());
    assert_eq!(child.wait().await.unwrap().code(), Some(0));
}
