//! What the original course claimed about each protocol, in words instead of figures.

use super::cells::added;
use super::format::{NONE, digits, grouped, micros};
use super::results::{BASELINE, Named, Results};
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

/// The figures that the original course published for the same protocols: messages per second, and kB
/// of memory per connection.
const PUBLISHED: [(f64, f64); 5] =
    [(2_500.0, 24.0), (45_000.0, 32.0), (15_000.0, 16.0), (8_000.0, 64.0), (95_000.0, 8.0)];

/// Returns the figures that the original course published next to those of this run.
pub(super) fn published(results: &Results) -> Table {
    let mut table = Table::new(
        "The original course's figures and those of this run".into(),
        "The course didn't say how it measured, and its gRPC was a mock. Messages/s: requests per second with one in \
         flight, and the highest rate measured. kB: memory of the server (or broker) for each idle connection.",
        &["protocol", "published messages/s", "one in flight", "highest", "published kB", "kB"],
    );
    for ((ids, _), (rate, memory)) in ORIGINAL.into_iter().zip(PUBLISHED) {
        for Named { id, name, .. } in
            results.protocols.iter().filter(|named| ids.contains(&named.id.as_str()))
        {
            let one = results.latency_of(id).map(|nanoseconds| 1e9 / nanoseconds);
            let idle = results.memory.iter().find(|row| row.protocol == *id);
            let idle = idle.map(|row| row.per_connection).filter(|bytes| *bytes > 0.0);
            table.rows.push(vec![
                name.clone(),
                grouped(rate),
                one.map_or(NONE.into(), grouped),
                highest(results, id).map_or(NONE.into(), grouped),
                grouped(memory),
                idle.map_or(NONE.into(), |bytes| digits(bytes / 1000.0)),
            ]);
        }
    }
    table
}

/// Returns the highest rate of a protocol, in requests per second.
fn highest(results: &Results, id: &str) -> Option<f64> {
    let rows = results.throughput.rows.iter().filter(|row| row.protocol == id);
    rows.map(|row| row.per_second.median).reduce(f64::max)
}

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
            let wire = results.single_bytes().find(|row| row.protocol == *id);
            table.rows.push(vec![
                results.name(id).into(),
                p50.map_or(NONE.into(), micros) + &times.unwrap_or_default(),
                latency.into(),
                highest(results, id).map_or(NONE.into(), grouped),
                throughput.into(),
                wire.map_or(NONE.into(), |row| grouped(row.total() - row.payload as f64)),
                overhead.into(),
            ]);
        }
    }
    table
}
