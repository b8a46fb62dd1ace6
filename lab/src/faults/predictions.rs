//! Claims that sound right. Readers decide whether they believe each of them before they look at the
//! results.

use super::results::{Counts, Experiment, Results};
use crate::report::table::Table;

/// A claim, and the function that decides it: `None` if the run lacks the experiments for it.
type Prediction = (&'static str, fn(&Results) -> Option<bool>);

/// The claims, in the order of `docs/faults.md`.
pub const PREDICTIONS: [Prediction; 12] = [
    ("An HTTP client that repeats a request after a cut records some readings twice.", |results| {
        Some(counts(results, "http_without_key", "cut_after_request")?.doubled > 0)
    }),
    (
        "With an Idempotency-Key, each reading is recorded once, whatever happens to the connection.",
        |results| {
            let all = || results.of_row("http_rest");
            all().next()?;
            Some(all().all(|experiment| experiment.counts.doubled == 0))
        },
    ),
    ("After a cut before the response, a gRPC client can say whether the call was executed.", |results| {
        Some(counts(results, "grpc_unary", "cut_after_request")?.unknown == 0)
    }),
    ("No protocol lets a flipped bit pass, because TCP has a checksum.", |results| {
        let mut all = results.of_fault("bit_flipped").peekable();
        all.peek()?;
        Some(all.all(|experiment| experiment.counts.altered == 0))
    }),
    (
        "If a response is lost but the connection stays open, every client notices within ten seconds.",
        |results| {
            let mut all = results.of_fault("response_lost").peekable();
            all.peek()?;
            Some(all.all(|experiment| experiment.knew_ms.is_none_or(|time| time < 10_500.0)))
        },
    ),
    ("No call fails when a server freezes for five seconds.", |results| {
        let mut all = results.of_fault("server_frozen").peekable();
        all.peek()?;
        Some(all.all(|experiment| experiment.counts.unknown + experiment.counts.not_done == 0))
    }),
    ("No call fails when a server stops gracefully.", |results| {
        let mut all = results.of_fault("server_stopped").peekable();
        all.peek()?;
        Some(all.all(|experiment| experiment.counts.unknown + experiment.counts.not_done == 0))
    }),
    ("If Redis syncs its file only once per second, it loses confirmed jobs when it is killed.", |results| {
        Some(counts(results, "redis_every_second", "broker_killed")?.lost > 0)
    }),
    ("Without confirms, RabbitMQ loses messages when the broker is killed.", |results| {
        Some(counts(results, "rabbitmq_without_confirms", "broker_killed")?.lost > 0)
    }),
    ("With automatic acknowledgement, jobs are lost when the worker is killed.", |results| {
        Some(counts(results, "rabbitmq_automatic", "worker_killed")?.lost > 0)
    }),
    ("When RabbitMQ runs out of memory, it refuses messages.", |results| {
        Some(counts(results, "rabbitmq_jobs", "broker_alarm")?.not_done > 0)
    }),
    (
        "When a client is killed, nobody knows whether the one call that it had in flight was executed.",
        |results| {
            let mut all = results.of_fault("client_killed").filter(|one| one.in_flight == 1).peekable();
            all.peek()?;
            Some(all.all(|experiment| experiment.counts.unknown == 1))
        },
    ),
];

fn counts<'a>(results: &'a Results, row: &str, fault: &str) -> Option<&'a Counts> {
    results.of_row(row).find(|experiment| experiment.fault == fault).map(|experiment| &experiment.counts)
}

impl Results {
    fn of_row(&self, row: &str) -> impl Iterator<Item = &Experiment> {
        self.experiments.iter().filter(move |experiment| experiment.row == row)
    }

    fn of_fault(&self, fault: &str) -> impl Iterator<Item = &Experiment> {
        self.experiments.iter().filter(move |experiment| experiment.fault == fault)
    }
}

/// Returns a table that says which predictions hold.
pub fn table(results: &Results) -> Table {
    let mut table = Table::new("Which predictions hold".into(), "", &["prediction", "holds"]);
    for (number, (_, holds)) in (1..).zip(PREDICTIONS) {
        let holds = match holds(results) {
            Some(true) => "yes",
            Some(false) => "no",
            None => "–",
        };
        table.rows.push(vec![number.to_string(), holds.into()]);
    }
    table
}
