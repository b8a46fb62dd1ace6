//! Shows the results as tables.

use super::cells::{added, maybe, range, remark};
use super::encryption::{encrypted_requests, new_connections};
use super::format::{NONE, digits, grouped, micros, short, utc};
use super::results::{BASELINE, Memory, Named, Results, Throughput};
use super::section_tables::{fan_out, idle, network, order, round_trips, streams};
use super::statistic::{NOISY, Spread};
use super::table::Table;
use super::{claims, predictions};
use crate::protocols::Kind;
use crate::run::conditions::Conditions;

/// Returns all tables for which the results have rows. [`costs`] and [`summary`] only
/// appear in the documents.
pub fn tables(results: &Results) -> Vec<Table> {
    let figures = [
        latency,
        cpu,
        throughput,
        fixed_rate,
        batch,
        order,
        bytes,
        set_up,
        memory,
        new_connections,
        encrypted_requests,
    ];
    let figures = figures.into_iter().map(|table| with_marks(table(results), results));
    let others = [claims::table, claims::published, predictions::table, not_measured];
    let all = figures.chain(sections(results)).chain(others.map(|table| table(results)));
    all.filter(|table| !table.rows.is_empty()).map(Table::without_empty_columns).collect()
}

/// Returns the tables about more than one request between two processes, if they have rows.
pub fn sections(results: &Results) -> Vec<Table> {
    let of_each = [round_trips, network].map(|table| with_marks(table(results), results));
    let others = [fan_out, streams, idle].map(|table| table(results));
    let all = of_each.into_iter().chain(others);
    all.filter(|table| !table.rows.is_empty()).map(Table::without_empty_columns).collect()
}

/// Adds the protocols that could not run, and says in which rows only the broker has replied.
fn with_marks(mut table: Table, results: &Results) -> Table {
    let accepted: Vec<_> =
        results.protocols.iter().filter(|protocol| protocol.kind == Kind::Accepted).collect();
    if !table.rows.is_empty() && !accepted.is_empty() {
        let names: Vec<_> = accepted.iter().map(|protocol| protocol.name.as_str()).collect();
        table.note += &format!(" {}: accepted by the broker, not yet processed.", names.join(" and "));
    }
    if !table.rows.is_empty() {
        for missing in &results.missing {
            let mut row = vec![NONE.to_owned(); table.columns.len()];
            row[0].clone_from(&missing.name);
            row[table.columns.len() - 1] = "missing".into();
            table.rows.push(row);
        }
    }
    table
}

/// Returns the name and value of each condition.
pub fn conditions(conditions: &Conditions) -> Vec<(&'static str, String)> {
    let versions: Vec<_> =
        conditions.versions.iter().map(|(name, version)| format!("{name} {version}")).collect();
    let mut lines = vec![
        ("command", conditions.command.clone()),
        ("started", utc(conditions.started_at)),
        ("duration", format!("{} s", grouped(conditions.duration_seconds))),
        ("machine", conditions.machine.clone()),
        ("cores", conditions.cores.to_string()),
        (
            "memory",
            conditions.memory_bytes.map_or(NONE.into(), |bytes| format!("{:.1} GiB", bytes as f64 / GIB)),
        ),
        ("system", conditions.system.clone()),
        ("compiler", conditions.rustc.clone()),
        ("versions", versions.join(", ")),
    ];
    if conditions.rounds > 0 {
        lines.insert(3, ("rounds", format!("{}; in each, the protocols take turns", conditions.rounds)));
    }
    if let Some(share) = conditions.busy_before {
        let busy = if conditions.was_busy() { ": the machine was busy, so expect noise" } else { "" };
        lines.push((
            "other load",
            format!("{:.0}% of the cores' time just before the run{busy}", share * 100.0),
        ));
    }
    if conditions.interrupted {
        lines.push(("interrupted", "stopped early: fewer rounds than planned, or none".into()));
    }
    lines
}

const GIB: f64 = 1024.0 * 1024.0 * 1024.0;

fn latency(results: &Results) -> Table {
    let mut table = Table::new(
        format!("Latency with one request in flight, in µs; {}", results.latency.placement),
        &format!(
            "Medians over the rounds, with the range of p50 beside it. added: how much more p50 is than the tokio \
             echo's. {NONE}: fewer than ten samples lie beyond \
             this percentile. noisy: the range is wider than {:.0}% of p50.",
            NOISY * 100.0
        ),
        &["protocol", "p50", "added", "range", "p90", "p99", "p99.9", "max", "requests", ""],
    );
    for row in &results.latency.rows {
        table.rows.push(vec![
            results.name(&row.protocol).into(),
            maybe(row.p50),
            added(&row.protocol, |id| results.latency_of(id)),
            range(row.p50, micros),
            maybe(row.p90),
            maybe(row.p99),
            maybe(row.p999),
            micros(row.max.median),
            short(row.requests as f64),
            remark(row.p50, row.errors),
        ]);
    }
    table
}

fn cpu(results: &Results) -> Table {
    let mut table = Table::new(
        format!("CPU time per request with one request in flight, in µs; {}", results.latency.placement),
        "CPU time in user and kernel mode, as the scheduler counts it. The client's includes the measuring loop. \
         added: how much more all sides use together than with the tokio echo.",
        &["protocol", "client", "server", "range", "broker", "together", "added", ""],
    );
    for row in results.latency.rows.iter().filter(|row| row.client_cpu.is_some()) {
        table.rows.push(vec![
            results.name(&row.protocol).into(),
            maybe(row.client_cpu),
            maybe(row.server_cpu),
            range(row.server_cpu, micros),
            maybe(row.broker_cpu),
            row.cpu().map_or(NONE.into(), micros),
            added(&row.protocol, |id| results.cpu_of(id)),
            remark(row.server_cpu, 0),
        ]);
    }
    table
}

fn throughput(results: &Results) -> Table {
    let placement = results.throughput.placement;
    let mut table = Table::new(
        format!("Requests per second by requests in flight; {placement}"),
        "client, server, broker: CPU time per second of wall-clock time; 100% is one core. saturated: the side \
         that had no CPU time left. The rate is that side's limit and says nothing about the other side. the core: \
         both sides share it. none: each side waited part of the time, for another side or for a disk.",
        &["protocol", "in flight", "rate/s", "range", "client", "server", "broker", "saturated", ""],
    );
    for row in &results.throughput.rows {
        let busy = |spread: Option<Spread>| {
            spread.map_or(NONE.into(), |busy| format!("{:.0}%", busy.median * 100.0))
        };
        table.rows.push(vec![
            results.name(&row.protocol).into(),
            row.in_flight.to_string(),
            short(row.per_second.median),
            range(Some(row.per_second), short),
            busy(row.client_busy),
            busy(row.server_busy),
            busy(row.broker_busy),
            row.saturated(placement).into(),
            remark(Some(row.per_second), row.errors),
        ]);
    }
    table
}

fn fixed_rate(results: &Results) -> Table {
    let mut table = Table::new(
        format!("Latency at fixed rates, from the intended moment, in µs; {}", results.fixed_rate.placement),
        "Each protocol is measured up to the first rate that it cannot keep up with. late: p99 of the sender's \
         own delay, which the times include.",
        &["protocol", "offered/s", "achieved/s", "p50", "p99", "p99.9", "late", "unsent", ""],
    );
    for row in &results.fixed_rate.rows {
        let saturated = if row.saturated { "saturated".to_owned() } else { String::new() };
        let remarks = [remark(row.p50, row.errors), saturated];
        let micros = |spread: Option<Spread>| spread.map_or(NONE.into(), |time| short(time.median / 1000.0));
        table.rows.push(vec![
            results.name(&row.protocol).into(),
            short(row.offered as f64),
            short(row.achieved.median),
            micros(row.p50),
            micros(row.p99),
            micros(row.p999),
            micros(row.lateness_p99),
            if row.unsent > 0 { short(row.unsent as f64) } else { String::new() },
            remarks.into_iter().filter(|remark| !remark.is_empty()).collect::<Vec<_>>().join(", "),
        ]);
    }
    table
}

fn batch(results: &Results) -> Table {
    let mut table = Table::new(
        format!("Time by batch size, with one batch in flight, p50 in µs; {}", results.batch.placement),
        "The readings in a batch share the costs that arise once per batch. added: how much more a batch takes than \
         with the tokio echo. time, CPU (of all sides), and bytes (in both directions): per reading.",
        &["protocol", "readings", "per batch", "added", "range", "time", "CPU", "bytes", ""],
    );
    for row in &results.batch.rows {
        let bytes = results.bytes_of(&row.protocol, row.readings);
        table.rows.push(vec![
            results.name(&row.protocol).into(),
            grouped(row.readings as f64),
            maybe(row.p50),
            added(&row.protocol, |id| results.batch_of(id, row.readings)),
            range(row.p50, micros),
            maybe(row.p50.map(|spread| spread.scaled(1.0 / row.readings as f64))),
            maybe(row.cpu.map(|spread| spread.scaled(1.0 / row.readings as f64))),
            bytes.map_or(NONE.into(), |bytes| digits(bytes / row.readings as f64)),
            remark(row.p50, row.errors),
        ]);
    }
    table
}

fn bytes(results: &Results) -> Table {
    let mut table = Table::new(
        "Bytes on the wire: one request with one reading, and set-up".into(),
        "TCP payload, counted by a forwarding proxy in a run that is not timed. Through a broker, it is the sum of \
         both hops. Payload: the information in the reading. Set-up: once per connection.",
        &["protocol", "request", "response", "together", "payload", "share", "set-up"],
    );
    for row in results.single_bytes() {
        table.rows.push(vec![
            results.name(&row.protocol).into(),
            grouped(row.request),
            grouped(row.response),
            grouped(row.total()),
            row.payload.to_string(),
            format!("{:.0}%", row.share() * 100.0),
            grouped(row.set_up),
        ]);
    }
    table
}

fn set_up(results: &Results) -> Table {
    let mut table = Table::new(
        format!("Set-up: time until the first reply, in µs; {}", results.set_up.placement),
        "A new client connects, completes the handshakes, and makes one request. added: how much more that takes than \
         with the tokio echo.",
        &["protocol", "median", "added", "range", ""],
    );
    for row in &results.set_up.rows {
        table.rows.push(vec![
            results.name(&row.protocol).into(),
            micros(row.median.median),
            added(&row.protocol, |id| results.set_up_of(id)),
            range(Some(row.median), micros),
            remark(Some(row.median), 0),
        ]);
    }
    table
}

fn memory(results: &Results) -> Table {
    let mut table = Table::new(
        "The server's memory, in kB".into(),
        "RAM of the server or, with a broker, of the broker, without the kernel's buffers. Each idle connection has \
         made one request. –: too small to distinguish from normal changes in the process's memory.",
        &["protocol", "at rest", "per idle connection"],
    );
    for row in &results.memory {
        let name = results.name(&row.protocol).into();
        table.rows.push(vec![name, grouped(row.at_rest as f64 / 1000.0), per_connection(row)]);
    }
    table
}

/// Returns what each protocol costs, with the figures that a reader needs to choose one.
pub fn costs(results: &Results) -> Table {
    let mut table = Table::new(
        "What each protocol costs".into(),
        &format!(
            "Latency: p50 with one request in flight. CPU: CPU time of all sides per request. Requests/s: with {MANY} \
             in flight. Bytes: one request and its reply. Set-up: time until the first reply. Round trips: \
             once per connection, and per request. kB/connection: memory \
             of the server (or broker) for an idle connection. added: how much more than the tokio TCP echo. \
             ×: multiple of the echo's figure. Latency, \
             CPU, and set-up were measured with {}; requests/s with {}.",
            results.latency.placement, results.throughput.placement
        ),
        &[
            "protocol",
            "latency µs",
            "added",
            "×",
            "CPU µs",
            "added",
            "×",
            "requests/s",
            "×",
            "bytes",
            "set-up µs",
            "added",
            "round trips",
            "kB/connection",
        ],
    );
    let figures = |id: &str| [results.latency_of(id), results.cpu_of(id), results.rate_of(id, MANY)];
    for Named { id, name, .. } in &results.protocols {
        let mut row = vec![name.clone()];
        for (at, (figure, baseline)) in figures(id).into_iter().zip(figures(BASELINE)).enumerate() {
            let is_time = at < 2;
            row.push(figure.map_or(NONE.into(), if is_time { micros } else { short }));
            if is_time {
                row.push(added(id, |id| figures(id)[at]));
            }
            row.push(
                figure
                    .zip(baseline)
                    .map_or(NONE.into(), |(figure, baseline)| format!("{:.1}", figure / baseline)),
            );
        }
        row.push(results.bytes_of(id, 1).map_or(NONE.into(), grouped));
        row.push(results.set_up_of(id).map_or(NONE.into(), micros));
        row.push(added(id, |id| results.set_up_of(id)));
        let trips = results.round_trips.iter().find(|row| row.protocol == *id);
        row.push(trips.map_or(NONE.into(), |row| format!("{} + {}", row.set_up, row.request)));
        let memory = results.memory.iter().find(|row| row.protocol == *id);
        row.push(memory.map_or(NONE.into(), per_connection));
        table.rows.push(row);
    }
    let throughput = &results.throughput;
    let client = |row: &&Throughput| row.in_flight == MANY && row.saturated(throughput.placement) == "client";
    let names: Vec<_> =
        throughput.rows.iter().filter(client).map(|row| results.name(&row.protocol)).collect();
    if !names.is_empty() {
        table.note +=
            &format!(" Requests/s is the limit of the client, not of the server, for {}.", names.join(", "));
    }
    with_marks(table, results).without_empty_columns()
}

/// Returns the latency and CPU time of one request, each with its difference to the echo, for the
/// protocols in which a server handles it.
pub fn summary(results: &Results, columns: [&'static str; 5]) -> Table {
    let mut table = Table::new(String::new(), "", &columns);
    let figures = |id: &str| [results.latency_of(id), results.cpu_of(id)];
    let shown = |named: &&Named| named.id == BASELINE || named.kind == Kind::Recorded;
    for Named { id, name, .. } in results.protocols.iter().filter(shown) {
        let mut row = vec![name.clone()];
        for (at, figure) in figures(id).into_iter().enumerate() {
            row.push(figure.map_or(NONE.into(), micros));
            row.push(added(id, |id| figures(id)[at]));
        }
        table.rows.push(row);
    }
    table
}

/// Number of requests in flight for the table of costs.
const MANY: u64 = 64;

/// Formats the memory of an idle connection, in kB.
fn per_connection(row: &Memory) -> String {
    if row.per_connection > 0.0 { digits(row.per_connection / 1000.0) } else { NONE.into() }
}

/// Returns the protocols that did not run and the measurements that failed.
fn not_measured(results: &Results) -> Table {
    let mut table =
        Table::new("Not measured".into(), "", &["protocol", "measurement", "reason", "how to fix it"]);
    for missing in &results.missing {
        table.rows.push(vec![
            missing.name.clone(),
            "all".into(),
            missing.reason.clone(),
            missing.command.clone(),
        ]);
    }
    for failure in &results.failures {
        table.rows.push(vec![
            failure.name.clone(),
            failure.measurement.clone(),
            failure.error.clone(),
            String::new(),
        ]);
    }
    table
}
