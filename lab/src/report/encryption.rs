//! Shows the section about TLS as tables.

use super::cells::{maybe, remark};
use super::format::{NONE, digits, grouped};
use super::results::Results;
use super::sections::Encrypted;
use super::statistic::Spread;
use super::table::Table;
use crate::run::encryption::Connection;

/// Minimum number of bytes that a resumed handshake saves, because the server shows no certificate.
/// If it saves fewer, the server has not resumed the session.
const CERTIFICATE: f64 = 100.0;

/// Returns the protocols with figures without TLS and after a full handshake.
fn pairs(results: &Results) -> impl Iterator<Item = (&Encrypted, &Encrypted)> {
    let of = |id: &str, connection| of(results, id, connection);
    results.protocols.iter().filter_map(move |protocol| {
        Some((of(&protocol.id, Connection::Plain)?, of(&protocol.id, Connection::Full)?))
    })
}

fn of<'a>(results: &'a Results, id: &str, connection: Connection) -> Option<&'a Encrypted> {
    results.encryption.iter().find(|row| row.protocol == id && row.connection == connection)
}

/// Shows what TLS adds to a new connection.
pub(super) fn new_connections(results: &Results) -> Table {
    let mut table = Table::new(
        format!("What TLS adds to a new connection; {}", results.set_up.placement),
        "Time in µs until the first reply: without TLS, with a full TLS handshake, resumed with the keys of an earlier \
         connection, and mutual, in which both sides show a certificate. trips: round trips that \
         a full handshake adds. bytes: what a full, a resumed, and a mutual handshake add. –: the server does not \
         resume. kB: memory that TLS adds for each idle connection.",
        &["protocol", "plain", "full", "resumed", "mutual", "trips", "bytes", "resumed", "mutual", "kB", ""],
    );
    for (plain, full) in pairs(results) {
        let other = |connection| of(results, &full.protocol, connection);
        let resumed =
            other(Connection::Resumed).filter(|row| row.set_up_bytes + CERTIFICATE < full.set_up_bytes);
        let mutual = other(Connection::Mutual);
        let time = |row: Option<&Encrypted>| maybe(row.map(|row| row.set_up));
        let bytes = |row: Option<&Encrypted>| {
            row.map_or(NONE.into(), |row| grouped((row.set_up_bytes - plain.set_up_bytes).max(0.0)))
        };
        table.rows.push(vec![
            results.name(&full.protocol).into(),
            time(Some(plain)),
            time(Some(full)),
            time(resumed),
            time(mutual),
            full.round_trips.saturating_sub(plain.round_trips).to_string(),
            bytes(Some(full)),
            bytes(resumed),
            bytes(mutual),
            full.memory
                .zip(plain.memory)
                .map_or(NONE.into(), |(tls, plain)| digits((tls - plain).max(0.0) / 1000.0)),
            remark([plain.set_up, full.set_up].into_iter().find(Spread::is_noisy), 0),
        ]);
    }
    table
}

/// Shows what TLS adds to requests on an open connection.
pub(super) fn encrypted_requests(results: &Results) -> Table {
    let mut table = Table::new(
        format!("What TLS adds to a request; {}", results.set_up.placement),
        "CPU time in µs of all sides for a request, without TLS, and how much more it takes with TLS: with 1 reading, \
         and with 2,849 readings, whose information is 64 KiB. One request is in flight. bytes: how much longer a \
         request and its response are, with 1 reading.",
        &["protocol", "1 reading", "added", "64 KiB", "added", "×", "bytes", ""],
    );
    for (plain, full) in pairs(results) {
        let added = |before: Option<Spread>, after: Option<Spread>| {
            let both = before.zip(after).map(|(before, after)| after.median - before.median);
            both.map_or(NONE.into(), |more| format!("{:+.1}", more / 1000.0))
        };
        let many = plain.many_cpu.zip(full.many_cpu);
        table.rows.push(vec![
            results.name(&full.protocol).into(),
            maybe(plain.one_cpu),
            added(plain.one_cpu, full.one_cpu),
            maybe(plain.many_cpu),
            added(plain.many_cpu, full.many_cpu),
            many.map_or(NONE.into(), |(plain, full)| format!("{:.1}", full.median / plain.median)),
            format!("{:+.0}", full.request_bytes - plain.request_bytes),
            remark([plain.one_cpu, full.one_cpu].into_iter().flatten().find(Spread::is_noisy), 0),
        ]);
    }
    table
}
