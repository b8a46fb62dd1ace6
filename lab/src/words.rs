//! The words that the course's original gave instead of figures, kept to be held
//! against what is measured.

/// What was said of one protocol.
pub struct Words {
    /// As it was named there.
    pub protocol: &'static str,
    /// The ids of the rows it is held against.
    pub ids: &'static [&'static str],
    /// Latency.
    pub latency: &'static str,
    /// Throughput.
    pub throughput: &'static str,
    /// Overhead.
    pub overhead: &'static str,
}

const fn words(
    protocol: &'static str,
    ids: &'static [&'static str],
    [latency, throughput, overhead]: [&'static str; 3],
) -> Words {
    Words { protocol, ids, latency, throughput, overhead }
}

/// The original's table, row by row.
pub const ORIGINAL: [Words; 5] = [
    words("HTTP/REST", &["http_rest"], ["medium", "medium", "high"]),
    words("gRPC", &["grpc_unary", "grpc_stream"], ["low", "high", "low"]),
    words("WebSocket", &["websocket"], ["low", "high", "low"]),
    words(
        "message queue",
        &["rabbitmq", "redis", "rabbitmq_publish", "redis_append"],
        ["medium", "very high", "medium"],
    ),
    words("TCP", &["tcp_socket"], ["very low", "very high", "very low"]),
];
