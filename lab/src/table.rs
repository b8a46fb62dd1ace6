//! The results as tables: built once, shown in a terminal, in HTML and in Markdown.

use std::fmt::Write;

use comfy_table::{CellAlignment, ContentArrangement, LineStyle, TableStyle};

use crate::conditions::utc;
use crate::protocols::Kind;
use crate::results::{Conditions, Latency, Results};
use crate::spread::{NOISY, Spread};
use crate::words::ORIGINAL;

/// Widest line of a table in the terminal, in characters.
pub const WIDTH: u16 = 100;

/// Lines above and below the head and at the end.
const STYLE: TableStyle = TableStyle::new().top_border(LINE).header_separator(LINE).bottom_border(LINE);
const LINE: LineStyle = LineStyle::none().fill('─').junction('─');

/// What stands where there is no figure.
const NONE: &str = "–";

/// A table of texts. The first column is text, the others are figures.
pub struct Table {
    /// What it shows.
    pub title: String,
    /// How to read it.
    pub note: String,
    columns: Vec<&'static str>,
    rows: Vec<Vec<String>>,
}

impl Table {
    fn new(title: String, note: &str, columns: &[&'static str]) -> Self {
        Self { title, note: note.into(), columns: columns.to_vec(), rows: Vec::new() }
    }

    /// Marks those that could not run, and those of which a reply means less.
    fn with_marks(mut self, results: &Results) -> Self {
        let accepted: Vec<_> = results.protocols.iter().filter(|it| it.kind == Kind::Accepted).collect();
        if !self.rows.is_empty() && !accepted.is_empty() {
            let names: Vec<_> = accepted.iter().map(|protocol| protocol.name.as_str()).collect();
            self.note += &format!(" {}: accepted by the broker, not yet processed.", names.join(", "));
        }
        if !self.rows.is_empty() {
            for missing in &results.missing {
                let mut row = vec![NONE.to_owned(); self.columns.len()];
                row[0].clone_from(&missing.name);
                row[self.columns.len() - 1] = "missing".into();
                self.rows.push(row);
            }
        }
        self
    }

    /// For a terminal.
    pub fn terminal(&self) -> String {
        let mut table = comfy_table::Table::new();
        table
            .load_style(STYLE)
            .set_content_arrangement(ContentArrangement::Dynamic)
            .set_width(WIDTH)
            .set_header(self.columns.clone())
            .add_rows(self.rows.clone());
        for column in table.column_iter_mut().skip(1) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        format!("{}\n{table}\n{}\n", self.title, wrapped(&self.note))
    }

    /// As an HTML `figure`.
    pub fn html(&self) -> String {
        let cells = |tag: &str, cells: &mut dyn Iterator<Item = &str>| {
            cells.fold(String::new(), |row, cell| format!("{row}<{tag}>{}</{tag}>", escaped(cell)))
        };
        let head = cells("th", &mut self.columns.iter().copied());
        let body = self.rows.iter().fold(String::new(), |body, row| {
            format!("{body}<tr>{}</tr>\n", cells("td", &mut row.iter().map(String::as_str)))
        });
        format!(
            "<figure><figcaption>{}</figcaption><div class=\"wide\"><table><thead><tr>{head}</tr></thead>\n\
             <tbody>{body}</tbody></table></div><p class=\"note\">{}</p></figure>\n",
            escaped(&self.title),
            escaped(&self.note)
        )
    }

    /// As a Markdown section.
    pub fn markdown(&self) -> String {
        let line = |cells: &mut dyn Iterator<Item = &str>| {
            cells.fold("|".to_owned(), |line, cell| format!("{line} {} |", cell.replace('|', "\\|"))) + "\n"
        };
        let mut text = format!("### {}\n\n", self.title);
        text += &line(&mut self.columns.iter().copied());
        text += &line(&mut (0..self.columns.len()).map(|at| if at == 0 { "---" } else { "---:" }));
        for row in &self.rows {
            text += &line(&mut row.iter().map(String::as_str));
        }
        text + "\n" + &self.note + "\n"
    }
}

/// Safe inside of HTML text and attributes.
pub fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

fn wrapped(text: &str) -> String {
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let line = &lines[lines.len() - 1];
        if !line.is_empty() && line.chars().count() + 1 + word.chars().count() > usize::from(WIDTH) {
            lines.push(String::new());
        }
        if let Some(line) = lines.last_mut() {
            let gap = if line.is_empty() { "" } else { " " };
            let _ = write!(line, "{gap}{word}");
        }
    }
    lines.join("\n")
}

impl Table {
    /// Without the columns that say nothing in any row.
    fn without_empty_columns(mut self) -> Self {
        for at in (1..self.columns.len()).rev() {
            if self.rows.iter().all(|row| row[at].is_empty() || row[at] == NONE) {
                self.columns.remove(at);
                self.rows.iter_mut().for_each(|row| _ = row.remove(at));
            }
        }
        self
    }
}

/// All tables that the results have rows for.
pub fn tables(results: &Results) -> Vec<Table> {
    let all = [
        latency(results).with_marks(results),
        cpu(results).with_marks(results),
        throughput(results).with_marks(results),
        fixed_rate(results).with_marks(results),
        batch(results).with_marks(results),
        bytes(results).with_marks(results),
        set_up(results).with_marks(results),
        memory(results).with_marks(results),
        words(results),
        lacking(results),
    ];
    all.into_iter().filter(|table| !table.rows.is_empty()).map(Table::without_empty_columns).collect()
}

/// The conditions, a line each.
pub fn conditions(conditions: &Conditions) -> Vec<(&'static str, String)> {
    let versions: Vec<_> =
        conditions.versions.iter().map(|(name, version)| format!("{name} {version}")).collect();
    let mut lines = vec![
        ("command", conditions.command.clone()),
        ("started", utc(conditions.started_at)),
        ("took", format!("{:.0} s", conditions.duration_seconds)),
        ("rounds", format!("{}, the protocols in turn in each", conditions.rounds)),
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
    if let Some(load) = conditions.load_before {
        let busy = if load > 0.5 { ": the machine was busy, expect noise" } else { "" };
        lines.push(("load before", format!("{load:.2}{busy}")));
    }
    if conditions.interrupted {
        lines.push(("interrupted", "ended early: fewer rounds than planned, or none".into()));
    }
    lines
}

const GIB: f64 = 1024.0 * 1024.0 * 1024.0;

/// Nanoseconds as microseconds, with about three digits.
fn micros(nanoseconds: f64) -> String {
    digits(nanoseconds / 1000.0)
}

/// A figure with about three digits.
fn digits(value: f64) -> String {
    match value {
        _ if !value.is_finite() => NONE.into(),
        value if value < 10.0 => format!("{value:.2}"),
        value if value < 100.0 => format!("{value:.1}"),
        value => grouped(value),
    }
}

/// A large figure in thousands, where a column is narrow.
fn short(value: f64) -> String {
    if value >= 10_000.0 { digits(value / 1000.0) + "k" } else { digits(value) }
}

/// A whole number with a space between thousands.
fn grouped(value: f64) -> String {
    let digits = format!("{value:.0}");
    let mut grouped = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            grouped.push(' ');
        }
        grouped.push(digit);
    }
    grouped
}

fn maybe(spread: Option<Spread>) -> String {
    spread.map_or(NONE.into(), |spread| micros(spread.median))
}

fn range(spread: Option<Spread>, show: impl Fn(f64) -> String) -> String {
    spread.map_or(NONE.into(), |spread| format!("{}–{}", show(spread.low), show(spread.high)))
}

/// What a row's last column says: nothing, if all is well.
fn remark(spread: Option<Spread>, errors: u64) -> String {
    let noisy = spread.is_some_and(|spread| spread.is_noisy());
    let errors = (errors > 0).then(|| format!("{errors} errors"));
    [noisy.then(|| "noisy".to_owned()), errors].into_iter().flatten().collect::<Vec<_>>().join(", ")
}

fn latency(results: &Results) -> Table {
    let mut table = Table::new(
        format!("Latency with one request in flight, in µs; {}", results.latency.placement),
        &format!(
            "Medians over the rounds; beside p50 its range. {NONE}: fewer than ten samples beyond. \
             noisy: the range of p50 is wider than {:.0} percent of it.",
            NOISY * 100.0
        ),
        &["protocol", "p50", "range", "p90", "p99", "p99.9", "max", "requests", ""],
    );
    for row in &results.latency.rows {
        table.rows.push(vec![
            results.name(&row.protocol).into(),
            maybe(row.p50),
            range(row.p50, micros),
            maybe(row.p90),
            maybe(row.p99),
            maybe(row.p999),
            micros(row.max.median),
            grouped(row.requests as f64),
            remark(row.p50, row.errors),
        ]);
    }
    table
}

fn cpu(results: &Results) -> Table {
    let mut table = Table::new(
        format!("CPU time per request with one in flight, in µs; {}", results.latency.placement),
        "User and kernel mode, by the scheduler's account. The client's includes the measuring loop.",
        &["protocol", "client", "server", "range", "broker", "together", ""],
    );
    for row in results.latency.rows.iter().filter(|row| row.client_cpu.is_some()) {
        table.rows.push(vec![
            results.name(&row.protocol).into(),
            maybe(row.client_cpu),
            maybe(row.server_cpu),
            range(row.server_cpu, micros),
            maybe(row.broker_cpu),
            micros(cpu_together(row)),
            remark(row.server_cpu, 0),
        ]);
    }
    table
}

/// CPU time of all sides per request, in nanoseconds.
pub fn cpu_together(row: &Latency) -> f64 {
    [row.client_cpu, row.server_cpu, row.broker_cpu].into_iter().flatten().map(|spread| spread.median).sum()
}

fn throughput(results: &Results) -> Table {
    let placement = results.throughput.placement;
    let mut table = Table::new(
        format!("Requests per second by number in flight; {placement}"),
        "client, server, broker: CPU time per second of the clock, 100 % is one core. saturated: the side that \
         had none left; the rate is that side's limit, and says nothing about the other side.",
        &["protocol", "in flight", "rate/s", "range", "client", "server", "broker", "saturated", ""],
    );
    for row in &results.throughput.rows {
        let busy =
            |spread: Option<Spread>| spread.map_or(NONE.into(), |it| format!("{:.0} %", it.median * 100.0));
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
        "Each protocol up to the first rate that it did not keep up with. late: 99 percent of the requests \
         were noticed to be due no later than this, which is part of their times.",
        &["protocol", "offered/s", "achieved/s", "p50", "p99", "p99.9", "late", "unsent", ""],
    );
    for row in &results.fixed_rate.rows {
        let saturated = if row.saturated { "saturated".to_owned() } else { String::new() };
        let remarks = [remark(row.p50, row.errors), saturated];
        let micros = |spread: Option<Spread>| spread.map_or(NONE.into(), |it| short(it.median / 1000.0));
        table.rows.push(vec![
            results.name(&row.protocol).into(),
            short(row.offered as f64),
            short(row.achieved.median),
            micros(row.p50),
            micros(row.p99),
            micros(row.p999),
            micros(row.lateness_p99),
            if row.unsent > 0 { short(row.unsent as f64) } else { String::new() },
            remarks.into_iter().filter(|it| !it.is_empty()).collect::<Vec<_>>().join(", "),
        ]);
    }
    table
}

fn batch(results: &Results) -> Table {
    let mut table = Table::new(
        format!("Growth with the batch, one in flight, p50 in µs; {}", results.batch.placement),
        "What a batch costs once is shared by all of its readings.",
        &["protocol", "readings", "per batch", "range", "per reading", ""],
    );
    for row in &results.batch.rows {
        table.rows.push(vec![
            results.name(&row.protocol).into(),
            grouped(row.readings as f64),
            maybe(row.p50),
            range(row.p50, micros),
            maybe(row.p50.map(|spread| spread.scaled(1.0 / row.readings as f64))),
            remark(row.p50, row.errors),
        ]);
    }
    table
}

fn bytes(results: &Results) -> Table {
    let mut table = Table::new(
        "Bytes on the wire: one request with one reading, and set-up".into(),
        "TCP payload, counted by a forwarding proxy in an untimed run; through a broker both hops together. \
         Payload: the information of the reading. Set-up comes once per connection.",
        &["protocol", "request", "response", "together", "payload", "share", "set-up"],
    );
    for row in &results.bytes {
        table.rows.push(vec![
            results.name(&row.protocol).into(),
            grouped(row.request),
            grouped(row.response),
            grouped(row.total()),
            row.payload.to_string(),
            format!("{:.0} %", row.share() * 100.0),
            grouped(row.set_up),
        ]);
    }
    table
}

fn set_up(results: &Results) -> Table {
    let mut table = Table::new(
        format!("Set-up: from nothing to the first reply, in µs; {}", results.set_up.placement),
        "Connection, handshakes and one request, with a new client each time.",
        &["protocol", "median", "range", ""],
    );
    for row in &results.set_up.rows {
        table.rows.push(vec![
            results.name(&row.protocol).into(),
            micros(row.median.median),
            range(Some(row.median), micros),
            remark(Some(row.median), 0),
        ]);
    }
    table
}

fn memory(results: &Results) -> Table {
    let mut table = Table::new(
        "The server's memory, in kB".into(),
        "Pages in RAM, without the kernel's buffers. A connection is idle after one request.",
        &["protocol", "at rest", "per idle connection"],
    );
    for row in &results.memory {
        let name = results.name(&row.protocol).into();
        table.rows.push(vec![
            name,
            grouped(row.at_rest as f64 / 1000.0),
            digits(row.per_connection / 1000.0),
        ]);
    }
    table
}

/// The original's words beside what was measured.
fn words(results: &Results) -> Table {
    let mut table = Table::new(
        "The original's words beside the figures".into(),
        "Latency: p50 with one in flight, in µs, and times the tokio echo's. Throughput: the highest of the table. \
         Overhead: bytes on the wire beyond the information.",
        &["protocol", "latency", "said", "requests/s", "said", "overhead", "said"],
    );
    let floor = p50(results, "tokio_echo");
    for words in &ORIGINAL {
        for id in words.ids.iter().filter(|id| results.protocols.iter().any(|protocol| protocol.id == **id)) {
            let times = p50(results, id).zip(floor).map(|(time, floor)| format!(" (×{:.1})", time / floor));
            let of = |row: &&crate::results::Throughput| row.protocol == *id;
            let most =
                results.throughput.rows.iter().filter(of).map(|row| row.per_second.median).reduce(f64::max);
            let wire = results.bytes.iter().find(|row| row.protocol == *id);
            table.rows.push(vec![
                results.name(id).into(),
                p50(results, id).map_or(NONE.into(), micros) + &times.unwrap_or_default(),
                words.latency.into(),
                most.map_or(NONE.into(), grouped),
                words.throughput.into(),
                wire.map_or(NONE.into(), |row| grouped(row.total() - row.payload as f64)),
                words.overhead.into(),
            ]);
        }
    }
    table
}

/// p50 with one in flight, in nanoseconds.
fn p50(results: &Results, id: &str) -> Option<f64> {
    results.latency.rows.iter().find(|row| row.protocol == id)?.p50.map(|spread| spread.median)
}

/// What did not run, or failed.
fn lacking(results: &Results) -> Table {
    let mut table =
        Table::new("Not measured".into(), "", &["protocol", "what", "why", "what would change it"]);
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
