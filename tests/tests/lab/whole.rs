//! A whole run, short: real servers, each a process of its own.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::thread;
use std::time::Duration;

use indicatif::ProgressBar;
use lab::compare::{Plan, compare};
use lab::conditions::conditions;
use lab::measure::Span;
use lab::protocols;
use lab::results::Results;
use lab::server::Server;
use lab::{docs, report, table};

/// Everything once or twice, and briefly.
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
    }
}

/// On a thread of its own, which the lab pins to a core.
fn measured(plan: Plan, stop: bool) -> Results {
    let conditions = conditions(plan.rounds);
    let run = move || {
        let stop = AtomicBool::new(stop);
        compare(&plan, &protocols::ALL, None, conditions, &ProgressBar::hidden(), &stop)
    };
    thread::spawn(run).join().unwrap().unwrap()
}

pub async fn a_run_measures_every_protocol() {
    let results = measured(brief(), false);
    assert!(results.failures.is_empty(), "{:?}", results.failures);
    assert!(!results.conditions.interrupted);
    let all = protocols::ALL.len();
    let many = protocols::ALL.iter().filter(|protocol| !protocol.one_at_a_time).count();
    assert_eq!(results.latency.rows.len(), all);
    assert_eq!(results.throughput.rows.len(), all + many, "one and four in flight");
    assert_eq!(results.batch.rows.len(), 2 * all);
    assert_eq!((results.bytes.len(), results.set_up.rows.len()), (all, all));
    let offered: Vec<_> = results.fixed_rate.rows.iter().map(|row| row.protocol.as_str()).collect();
    assert_eq!(offered.iter().collect::<BTreeSet<_>>().len(), many);
    for row in &results.latency.rows {
        assert_eq!(row.errors, 0, "{}", row.protocol);
        assert!(row.requests > 0, "{}", row.protocol);
        if cfg!(target_os = "linux") {
            let server = row.server_cpu.expect("its CPU time").median;
            assert!(server > 100.0, "{}: {server} ns of server CPU for a request", row.protocol);
        }
    }
    for row in &results.throughput.rows {
        assert!(row.errors == 0 && row.per_second.low > 0.0, "{row:?}");
    }
    if cfg!(target_os = "linux") {
        assert_eq!(results.memory.len(), all);
        assert!(results.memory.iter().all(|row| row.at_rest > 1_000_000), "{:?}", results.memory);
    }

    // What is written can be read, and says the same.
    let text = serde_json::to_string(&results).unwrap();
    let again = docs::parse(&text).unwrap();
    let page = report::html(&again);
    assert!(page == report::html(&results));
    for protocol in protocols::ALL {
        assert!(page.contains(protocol.name), "{}", protocol.name);
    }
    assert!(!page.contains("NaN") && !page.contains(">inf"), "{page}");
    assert_eq!(page.matches("<svg").count(), page.matches("</svg>").count());
    assert_eq!(page.matches("<svg").count(), 6);
    let outside = page.replace("http://www.w3.org/2000/svg", "");
    assert!(!outside.contains("src=") && !outside.contains("href=") && !outside.contains("url("), "offline");
    assert_eq!(table::tables(&again).len(), 9);
}

pub async fn a_run_that_is_stopped_shows_what_there_is() {
    let results = measured(brief(), true);
    assert!(results.conditions.interrupted);
    assert!(results.latency.rows.is_empty() && results.bytes.is_empty());
    assert!(report::html(&results).contains("ended early"));
    docs::parse(&serde_json::to_string(&results).unwrap()).unwrap();
}

pub async fn a_server_ends_with_its_owner() {
    let server = Server::start("tokio_echo", None).unwrap();
    let process = format!("/proc/{}", server.process());
    let address = server.address().to_owned();
    assert!(tokio::net::TcpStream::connect(&address).await.is_ok());
    drop(server);
    assert!(tokio::net::TcpStream::connect(&address).await.is_err());
    assert!(!Path::new(&process).exists());
}
