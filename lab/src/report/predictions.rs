//! Claims that sound right. Readers decide each of them before they look at the figures.

use super::format::NONE;
use super::results::{Bytes, Results};
use super::table::Table;

/// A claim that one figure decides.
pub struct Prediction {
    /// The claim.
    pub claim: &'static str,
    /// Names the figure that decides it.
    pub figure: &'static str,
    /// Returns that figure, if the run has it.
    measured: fn(&Results) -> Option<f64>,
    /// Lowest figure for which the claim holds.
    low: f64,
    /// Highest figure for which the claim holds.
    high: f64,
}

/// The claims, in the order of `docs/performance_comparison.md`.
pub const PREDICTIONS: [Prediction; 9] = [
    Prediction {
        claim: "A protocol of our own over TCP costs less than half of the bare echo's time on top of it.",
        figure: "latency, TCP to tokio echo",
        measured: |results| ratio(results.latency_of("tcp_socket"), results.latency_of("tokio_echo")),
        low: 0.0,
        high: 1.5,
    },
    Prediction {
        claim: "gRPC answers sooner than HTTP/REST.",
        figure: "latency, gRPC unary to HTTP/REST",
        measured: |results| ratio(results.latency_of("grpc_unary"), results.latency_of("http_rest")),
        low: 0.0,
        high: 1.0,
    },
    Prediction {
        claim: "gRPC's binary messages take less CPU time than WebSocket's JSON.",
        figure: "CPU time, gRPC unary to WebSocket",
        measured: |results| ratio(results.cpu_of("grpc_unary"), results.cpu_of("websocket")),
        low: 0.0,
        high: 1.0,
    },
    Prediction {
        claim: "HTTP/REST sends the most bytes.",
        figure: "bytes, HTTP/REST to the most of the others",
        measured: |results| {
            let others = results.bytes.iter().filter(|row| row.protocol != "http_rest").map(Bytes::total);
            ratio(results.bytes_of("http_rest"), others.reduce(f64::max))
        },
        low: 1.0,
        high: f64::INFINITY,
    },
    Prediction {
        claim: "With 64 requests in flight, TCP answers at least 32 times as many a second as with one.",
        figure: "requests per second, 64 to 1 in flight",
        measured: |results| ratio(results.rate_of("tcp_socket", 64), results.rate_of("tcp_socket", 1)),
        low: 32.0,
        high: f64::INFINITY,
    },
    Prediction {
        claim: "A broker in the middle doubles the time: two hops instead of one.",
        figure: "latency, Redis request/reply to TCP",
        measured: |results| ratio(results.latency_of("redis"), results.latency_of("tcp_socket")),
        low: 1.5,
        high: 2.5,
    },
    Prediction {
        claim: "A queue accepts a message sooner than a server of ours could process it.",
        figure: "latency, RabbitMQ publish to HTTP/REST",
        measured: |results| ratio(results.latency_of("rabbitmq_publish"), results.latency_of("http_rest")),
        low: 0.0,
        high: 1.0,
    },
    Prediction {
        claim: "A batch of 1,000 readings takes at least 100 times as long as one reading.",
        figure: "HTTP/REST, a batch of 1,000 to one of 1",
        measured: |results| ratio(results.batch_of("http_rest", 1000), results.batch_of("http_rest", 1)),
        low: 100.0,
        high: f64::INFINITY,
    },
    Prediction {
        claim: "To set a connection up costs gRPC no more than ten requests.",
        figure: "gRPC unary, set-up to latency",
        measured: |results| ratio(results.set_up_of("grpc_unary"), results.latency_of("grpc_unary")),
        low: 0.0,
        high: 10.0,
    },
];

/// Returns the outcome of each prediction.
pub fn table(results: &Results) -> Table {
    let mut table = Table::new(
        "Which predictions hold".into(),
        "The figure is a ratio of medians.",
        &["prediction", "decided by", "measured", "holds"],
    );
    for (at, prediction) in PREDICTIONS.iter().enumerate() {
        let measured = (prediction.measured)(results);
        let holds = |figure| if (prediction.low..=prediction.high).contains(&figure) { "yes" } else { "no" };
        table.rows.push(vec![
            (at + 1).to_string(),
            prediction.figure.into(),
            measured.map_or(NONE.into(), |figure| format!("×{figure:.1}")),
            measured.map_or(NONE, holds).into(),
        ]);
    }
    table
}

fn ratio(above: Option<f64>, below: Option<f64>) -> Option<f64> {
    Some(above? / below?)
}
