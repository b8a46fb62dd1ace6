//! What the original course claimed about each protocol, in words instead of figures.

use super::cells::added;
use super::format::{NONE, grouped, micros};
use super::results::{BASELINE, Results};
use super::table::Table;

/// The original course's table: IDs of protocols, and its claims about their latency, throughput,
/// and overhead.
const ORIGINAL: [(&[&str], [&str; 3]); 5] = [
    (&["http_rest"], ["medium", "medium", "high"]),
    (&["grpc_unary", "grpc_stream"], ["low", "high", "low"]),
    (&["websocket"], ["low", "high", "low"]),
    (&["rabbitmq", "redis", "rabbitmq_publish", "redis_append"], ["medium", "very high", "medium"]),
    (&["tcp_socket"], ["very low", "very high", "very low"]),
];

/// Returns the original course's claims next to the figures.
pub(super) fn table(results: &Results) -> Table {
    let mut table = Table::new(
        "The original course's claims and the figures".into(),
        "Latency: p50 with one request in flight, in µs, and in parentheses how much more than the tokio echo's \
         it is, and its multiple (×). Requests/s: the highest rate measured. Overhead: bytes on the wire beyond the \
         reading's information.",
        &["protocol", "latency", "claimed", "requests/s", "claimed", "overhead", "claimed"],
    );
    let ran = |id: &&&str| results.protocols.iter().any(|protocol| protocol.id == **id);
    for (ids, [latency, throughput, overhead]) in ORIGINAL {
        for id in ids.iter().filter(ran) {
            let p50 = results.latency_of(id);
            let more = added(id, |id| results.latency_of(id));
            let times = p50
                .zip(results.latency_of(BASELINE))
                .map(|(p50, echo)| format!(" ({more}, ×{:.1})", p50 / echo));
            let rates = results.throughput.rows.iter().filter(|row| row.protocol == *id);
            let highest = rates.map(|row| row.per_second.median).reduce(f64::max);
            let wire = results.single_bytes().find(|row| row.protocol == *id);
            table.rows.push(vec![
                results.name(id).into(),
                p50.map_or(NONE.into(), micros) + &times.unwrap_or_default(),
                latency.into(),
                highest.map_or(NONE.into(), grouped),
                throughput.into(),
                wire.map_or(NONE.into(), |row| grouped(row.total() - row.payload as f64)),
                overhead.into(),
            ]);
        }
    }
    table
}
