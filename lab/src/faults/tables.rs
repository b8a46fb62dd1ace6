//! The results as tables.

use super::breakage;
use super::results::{Counts, Experiment, Results};
use super::row::Row;
use super::rows;
use crate::report::table::Table;

/// Shown in place of a time that does not exist.
const NONE: &str = "–";

/// The title of a table, and which rows belong to it.
type Group = (&'static str, fn(&Row) -> bool);

const COLUMNS: [&str; 11] = [
    "protocol", "kept", "altered", "twice", "lost", "lies", "unknown", "not done", "knew", "works", "server",
];

const NOTE: &str = "kept: the client said \"done\", and the reading is there. lost: gone, as the promise allows. lies: \
                    against the promise. unknown: the client says that nobody knows; in parentheses, how many of \
                    them were executed. knew and works: time until the first failed call or the end of the longest \
                    one, and until calls succeed again. server: time until it closed the connection.";

/// Returns a table for each fault.
pub fn tables(results: &Results) -> Vec<Table> {
    let mut tables: Vec<Table> = Vec::new();
    let mut last = None;
    for experiment in &results.experiments {
        let this = (&experiment.fault, experiment.in_flight);
        if last != Some(this) {
            last = Some(this);
            let calls = match experiment.in_flight {
                1 => String::new(),
                in_flight => format!(", {in_flight} calls in flight"),
            };
            tables.push(Table::new(format!("{}{calls}", experiment.fault_name()), "", &COLUMNS));
        }
        if let Some(table) = tables.last_mut() {
            table.rows.push(row(experiment));
        }
    }
    if let Some(table) = tables.last_mut() {
        table.note = NOTE.into();
    }
    tables
}

fn row(experiment: &Experiment) -> Vec<String> {
    let counts = &experiment.counts;
    let some = |count: u64| if count == 0 { NONE.into() } else { count.to_string() };
    let unknown = match counts.unknown {
        0 => NONE.into(),
        unknown => format!("{unknown} ({})", counts.unknown_executed),
    };
    vec![
        experiment.row_name().into(),
        some(counts.kept),
        some(counts.altered),
        some(counts.doubled),
        some(counts.lost),
        some(counts.lies),
        unknown,
        some(counts.not_done),
        time(experiment.knew_ms),
        time(experiment.again_ms),
        time(experiment.noticed_ms),
    ]
}

/// Formats milliseconds.
fn time(milliseconds: Option<f64>) -> String {
    match milliseconds {
        None => NONE.into(),
        Some(time) if time < 10.0 => format!("{time:.1} ms"),
        Some(time) if time < 1_000.0 => format!("{time:.0} ms"),
        Some(time) => format!("{:.1} s", time / 1_000.0),
    }
}

/// Returns tables with a row for each fault and a column for each of some protocols: what came of the
/// requests, or how long it took.
pub fn overviews(results: &Results, cell: fn(&Experiment) -> String) -> Vec<Table> {
    let groups: [Group; 3] = [
        ("HTTP, gRPC, WebSocket, and TCP", |row| row.broker().is_none()),
        ("RabbitMQ", |row| row.id.starts_with("rabbitmq")),
        ("Redis", |row| row.id.starts_with("redis")),
    ];
    let overview = |(title, belongs): Group| {
        let rows: Vec<_> = rows::ALL.into_iter().filter(belongs).collect();
        let names: Vec<_> = std::iter::once("fault").chain(rows.iter().map(|row| row.name)).collect();
        let mut table = Table::new(title.to_owned(), "", &names);
        for breakage in &breakage::ALL {
            let find = |row: &Row| {
                let is = |experiment: &&Experiment| {
                    experiment.row == row.id && experiment.fault == breakage.id && experiment.in_flight == 1
                };
                results.experiments.iter().find(is)
            };
            let cells: Vec<_> = rows.iter().map(|row| find(row).map_or(NONE.into(), cell)).collect();
            if cells.iter().any(|cell| cell != NONE) {
                table.rows.push(std::iter::once(breakage.name.to_owned()).chain(cells).collect());
            }
        }
        table.without_empty_columns()
    };
    groups.into_iter().map(overview).filter(|table| !table.rows.is_empty()).collect()
}

/// Says in a few words what came of the requests.
pub fn outcome(experiment: &Experiment) -> String {
    let Counts { altered, doubled, lost, lies, unknown, not_done, .. } = experiment.counts;
    let parts = [
        (lies, "against the promise"),
        (doubled, "twice"),
        (altered, "altered"),
        (lost, "lost"),
        (unknown, "unknown"),
        (not_done, "not done"),
    ];
    let parts: Vec<_> = parts
        .into_iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, what)| format!("{count} {what}"))
        .collect();
    if parts.is_empty() { "all kept".into() } else { parts.join(", ") }
}

/// Says when the client knew of the fault, and when it worked again.
pub fn times(experiment: &Experiment) -> String {
    format!("{} / {}", time(experiment.knew_ms), time(experiment.again_ms))
}
