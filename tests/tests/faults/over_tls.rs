//! Tests of what happens over TLS: a truncated stream, and certificates that a client must refuse.

use std::sync::OnceLock;

use lab::faults::client::Told;
use lab::faults::results::Experiment;
use tests::{apply, test};

use crate::delivery::{assert_promises_kept, row, together};

const ROWS: [&str; 4] = ["http_rest", "grpc_unary", "websocket", "tcp_socket"];

const FAULTS: [&[&str]; 3] = [&["tls_truncated"], &["certificate_expires"], &["certificate_replaced"]];

/// Returns the experiments with a fault, one for each row. All faults run at the same time.
async fn with(fault: &str) -> Vec<&'static Experiment> {
    static MADE: OnceLock<Vec<Experiment>> = OnceLock::new();
    let make = || together(FAULTS.map(|faults| (ROWS.map(row).to_vec(), faults)).to_vec(), 1);
    let made = tokio::task::spawn_blocking(move || MADE.get_or_init(make)).await.unwrap();
    let made: Vec<_> = made.iter().filter(|experiment| experiment.fault == fault).collect();
    assert_eq!(made.iter().map(|experiment| &experiment.row[..]).collect::<Vec<_>>(), ROWS);
    for experiment in &made {
        assert_promises_kept(std::slice::from_ref(*experiment));
    }
    made
}

#[apply(test!)]
async fn half_a_tls_response_is_no_response() {
    for experiment in with("tls_truncated").await {
        let counts = experiment.counts;
        assert_eq!(counts.lost + counts.doubled + counts.not_done, 0, "{experiment}: {counts:?}");
        // HTTP and TCP send the request again. The others can't know whether it was executed: it was.
        let repeats = row(&experiment.row).repeats;
        assert_eq!(counts.unknown, u64::from(!repeats), "{experiment}: {:?}", experiment.errors);
        assert_eq!(counts.unknown_executed, counts.unknown, "{experiment}");
        assert_eq!(experiment.errors.len(), usize::from(!repeats), "{experiment}: {:?}", experiment.errors);
    }
}

/// Checks that the client named the reason, and did not try a call again and again.
fn assert_refused(experiment: &Experiment, reason: &str) {
    let Experiment { counts, errors, dots, .. } = experiment;
    assert!(errors.iter().any(|error| error.contains(reason)), "{experiment}: {errors:?}");
    assert!(counts.not_done >= 10, "{experiment}: {counts:?}");
    let refused = dots.iter().filter(|dot| dot.told == Told::NotDone);
    let quickly = refused.filter(|dot| dot.took_ms < 500.0).count();
    assert!(quickly >= 10, "{experiment}: only {quickly} calls failed quickly");
}

#[apply(test!)]
async fn an_open_connection_outlives_its_certificate_and_a_new_one_is_refused_by_name() {
    for experiment in with("certificate_expires").await {
        assert_refused(experiment, "the server's certificate has expired");
        let before: Vec<_> = experiment.dots.iter().filter(|dot| dot.at_ms < -50.0).collect();
        assert!(before.iter().all(|dot| dot.told == Told::Done), "{experiment}");
        // The certificate had expired a second before.
        assert!(before.iter().any(|dot| dot.at_ms > -900.0), "{experiment}");
    }
}

#[apply(test!)]
async fn after_a_restart_a_certificate_of_an_unknown_authority_is_refused_by_name() {
    for experiment in with("certificate_replaced").await {
        assert_refused(experiment, "does not trust the authority of the server's certificate");
    }
}
