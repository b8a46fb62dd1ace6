//! Tests of the experiments: whether each client keeps its promise when something breaks.

use std::fs;
use std::sync::OnceLock;
use std::sync::atomic::AtomicBool;
use std::thread;

use indicatif::ProgressBar;
use lab::faults::breakage::{self, Breakage};
use lab::faults::client::{Request, Told};
use lab::faults::count::count;
use lab::faults::predictions::PREDICTIONS;
use lab::faults::results::{Experiment, Results};
use lab::faults::row::{Keeps, Row};
use lab::faults::rows;
use lab::faults::{Plan, documents, run};
use lab::run::conditions::conditions;
use message_queue::brokers::available;
use tests::{apply, test};

/// Faults after which every client works again within a few seconds. Those of one line run one after
/// another, beside those of the other lines.
const QUICK: [&[&str]; 3] = [
    &["cut_in_request", "cut_after_request", "cut_in_response", "bit_flipped", "repeated"],
    &["server_killed", "server_stopped", "server_frozen", "worker_killed"],
    &["client_killed", "silence", "delayed", "not_reading"],
];

/// Faults that a client notices only because nothing arrives anymore.
const UNNOTICED: [&str; 2] = ["response_lost", "silence_for_good"];

/// Clients that notice that within 20 seconds. The others take 30 to 60.
const ATTENTIVE: [&str; 6] =
    ["http_rest", "rabbitmq_jobs", "rabbitmq_requests", "redis_streams", "redis_publish", "redis_requests"];

pub fn row(id: &str) -> &'static Row {
    rows::by_id(id).unwrap()
}

fn fault(id: &str) -> &'static Breakage {
    breakage::by_id(id).unwrap()
}

fn experiments(rows: Vec<&'static Row>, faults: &[&str], in_flight: Vec<u64>, requests: u64) -> Results {
    let faults = faults.iter().map(|id| fault(id)).collect();
    let plan = Plan { rows, faults, in_flight, requests };
    run(&plan, conditions(1), &ProgressBar::hidden(), &AtomicBool::new(false)).unwrap()
}

fn all_rows() -> Vec<&'static Row> {
    rows::ALL.iter().map(|this| row(this.id)).collect()
}

/// Runs the parts at the same time. Returns the experiments of all of them.
pub fn together(parts: Vec<(Vec<&'static Row>, &[&str])>, in_flight: u64) -> Vec<Experiment> {
    let parts: Vec<_> = thread::scope(|scope| {
        let start = |(rows, faults)| scope.spawn(move || experiments(rows, faults, vec![in_flight], 20));
        let running: Vec<_> = parts.into_iter().map(start).collect();
        running.into_iter().map(|part| part.join().unwrap()).collect()
    });
    for part in &parts {
        assert_eq!(part.failed, [""; 0]);
    }
    parts.into_iter().flat_map(|part| part.experiments).collect()
}

/// Returns the results of small experiments, which several tests share.
async fn quick() -> &'static [Experiment] {
    static MADE: OnceLock<Vec<Experiment>> = OnceLock::new();
    let make = || {
        let mut parts: Vec<_> = QUICK.iter().map(|&faults| (all_rows(), faults)).collect();
        parts.push((ATTENTIVE.iter().map(|id| row(id)).collect(), &UNNOTICED));
        together(parts, 1)
    };
    tokio::task::spawn_blocking(move || MADE.get_or_init(make)).await.unwrap()
}

/// Checks that the clients kept their promises.
pub fn assert_promises_kept(experiments: &[Experiment]) {
    for experiment in experiments {
        assert_eq!(experiment.counts.lies, 0, "{experiment}: {:#?}", experiment.counts);
        // The client for TCP gives up once a certificate was refused.
        let gives_up = experiment.row == "tcp_socket" && experiment.fault.starts_with("certificate");
        assert_eq!(experiment.recovered, !gives_up, "{experiment}: whether the client works again");
        let row = row(&experiment.row);
        if row.recognizes {
            assert_eq!(experiment.counts.doubled, 0, "{experiment}");
        }
        if row.keeps == Keeps::Always {
            assert_eq!(experiment.counts.lost, 0, "{experiment}");
        }
    }
}

#[apply(test!)]
#[long]
#[needs(available())]
async fn no_client_says_done_or_not_done_against_the_truth_and_every_one_works_again() {
    let experiments = quick().await;
    assert!(experiments.len() > 180, "only {} experiments were made", experiments.len());
    assert_promises_kept(experiments);
}

#[apply(test!)]
#[needs(available())]
async fn the_unsafe_clients_show_what_the_others_are_good_for() {
    let of = quick_of;
    let without_key = of("http_without_key", "cut_after_request").await;
    assert!(without_key.counts.doubled > 0);
    assert!(of("rabbitmq_without_confirms", "cut_in_request").await.counts.lost > 0);
    assert!(of("rabbitmq_automatic", "worker_killed").await.counts.lost > 0);
    assert_eq!(of("http_rest", "bit_flipped").await.counts.altered, 1);
    assert_eq!(of("tcp_socket", "bit_flipped").await.counts.altered, 0);
}

async fn quick_of(row: &str, fault: &str) -> &'static Experiment {
    let is = |experiment: &&Experiment| experiment.row == row && experiment.fault == fault;
    quick().await.iter().find(is).unwrap()
}

#[apply(test!)]
#[long]
#[needs(available())]
async fn jobs_on_the_disk_of_a_broker_survive_its_death_and_its_alarm() {
    let rows = vec![row("rabbitmq_jobs"), row("redis_streams")];
    let made =
        tokio::task::spawn_blocking(|| experiments(rows, &["broker_killed", "broker_alarm"], vec![1], 20));
    let results = made.await.unwrap();
    assert_eq!(results.failed, [""; 0]);
    assert_eq!(results.experiments.len(), 4);
    assert_promises_kept(&results.experiments);
}

#[apply(test!)]
#[slow]
#[needs(available())]
async fn slow_test_no_client_lies_with_any_fault_and_16_calls_in_flight() {
    let faults: Vec<_> = breakage::ALL.iter().map(|breakage| breakage.id).collect();
    let parts = move || together(faults.chunks(5).map(|faults| (all_rows(), faults)).collect(), 16);
    assert_promises_kept(&tokio::task::spawn_blocking(parts).await.unwrap());
}

/// Counts a single request that was executed this many times. Returns the lies and the doubled readings.
fn counted(id: &str, told: Told, executed: usize) -> (u64, u64) {
    let row = row(id);
    let log = [Request { number: 1, started: 0, ended: 10, told }];
    let truth = vec![(row.line)(1); executed];
    let counts = count(row, fault("cut_after_request"), 1, &log, &truth, &[], (5, None)).counts;
    (counts.lies, counts.doubled)
}

#[apply(test!)]
async fn what_is_against_the_promise_counts_as_a_lie() {
    for (id, told, executed, lies_and_doubled) in [
        ("http_rest", Told::Done, 0, (1, 0)),
        ("http_rest", Told::Done, 1, (0, 0)),
        ("http_rest", Told::Done, 2, (1, 1)),
        ("http_rest", Told::NotDone, 1, (1, 0)),
        ("http_rest", Told::Unknown, 1, (0, 0)),
        ("http_without_key", Told::Done, 2, (0, 1)),
        ("grpc_unary", Told::Done, 2, (1, 1)),
        ("rabbitmq_jobs", Told::Done, 0, (1, 0)),
        ("rabbitmq_without_confirms", Told::Done, 0, (0, 0)),
        ("websocket_chat", Told::NotDone, 1, (1, 0)),
        ("redis_publish", Told::Done, 0, (0, 0)),
    ] {
        assert_eq!(
            counted(id, told, executed),
            lies_and_doubled,
            "{id}, {told:?}, executed {executed} times"
        );
    }
}

#[apply(test!)]
async fn the_document_shows_the_kept_run_and_all_predictions() {
    let read = |path: &str| fs::read_to_string(format!("{}/../{path}", env!("CARGO_MANIFEST_DIR"))).unwrap();
    let document = read(documents::DOCUMENT);
    let kept = Results::parse(&read(documents::KEPT)).unwrap();
    assert_eq!(documents::render(&document, &kept).unwrap(), document);
    assert_eq!(kept.experiments.iter().map(|one| one.counts.lies).sum::<u64>(), 0);
    for (number, (claim, _)) in (1..).zip(PREDICTIONS) {
        assert!(document.contains(&format!("{number}. {claim}")), "{claim}");
    }
}
