//! Claims that sound right. Readers decide whether they believe each of them before they look at the
//! results.

use super::results::{Counts, Experiment, Results};
use crate::report::table::Table;

/// A claim, and what decides it: `None` if the run does not have that.
type Prediction = (&'static str, fn(&Results) -> Option<bool>);

/// The claims, in the order of `docs/faults.md`.
pub const PREDICTIONS: [Prediction; 12] = [
    ("An HTTP client that repeats a request after a cut counts some readings twice.", |results| {
        Some(counts(results, "http_without_key", "cut_after_request")?.doubled > 0)
    }),
    (
        "With an Idempotency-Key, it counts each reading once, whatever happens to the connection.",
        |results| {
            let all = || results.of_row("http_rest");
            all().next()?;
            Some(all().all(|experiment| experiment.counts.doubled == 0))
        },
    ),
    ("After a cut before the response, a gRPC client can say whether the call was executed.", |results| {
        Some(counts(results, "grpc_unary", "cut_after_request")?.unknown == 0)
    }),
    ("No protocol lets a flipped bit pass, since TCP has a checksum.", |results| {
        let mut all = results.of_fault("bit_flipped").peekable();
        all.peek()?;
        Some(all.all(|experiment| experiment.counts.altered == 0))
    }),
    (
        "If responses are lost but the connection stays open, every client knows within ten seconds.",
        |results| {
            let mut all = results.of_fault("response_lost").peekable();
            all.peek()?;
            Some(all.all(|experiment| experiment.knew_ms.is_none_or(|time| time < 10_500.0)))
        },
    ),
    ("A server that is frozen for five seconds makes no call fail.", |results| {
        let mut all = results.of_fault("server_frozen").peekable();
        all.peek()?;
        Some(all.all(|experiment| experiment.counts.unknown + experiment.counts.not_done == 0))
    }),
    ("A server that stops in good order makes no call fail.", |results| {
        let mut all = results.of_fault("server_stopped").peekable();
        all.peek()?;
        Some(all.all(|experiment| experiment.counts.unknown + experiment.counts.not_done == 0))
    }),
    ("Redis that syncs its file once per second loses confirmed jobs when it is killed.", |results| {
        Some(counts(results, "redis_every_second", "broker_killed")?.lost > 0)
    }),
    ("RabbitMQ without confirms loses messages when the broker is killed.", |results| {
        Some(counts(results, "rabbitmq_without_confirms", "broker_killed")?.lost > 0)
    }),
    ("With automatic acknowledgement, jobs are lost when the worker is killed.", |results| {
        Some(counts(results, "rabbitmq_automatic", "worker_killed")?.lost > 0)
    }),
    ("When RabbitMQ runs out of memory, it refuses messages.", |results| {
        Some(counts(results, "rabbitmq_jobs", "broker_alarm")?.not_done > 0)
    }),
    ("When a client is killed, nobody knows about the one call that it had in flight.", |results| {
        let mut all = results.of_fault("client_killed").filter(|one| one.in_flight == 1).peekable();
        all.peek()?;
        Some(all.all(|experiment| experiment.counts.unknown == 1))
    }),
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

/// Returns the outcome of each prediction.
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
