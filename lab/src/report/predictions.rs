//! Claims that sound right. Readers decide whether they believe each of them before they look at
//! the figures, and `cargo run -- predict` keeps their answers.

use std::io::{BufRead, Write};

use super::format::NONE;
use super::results::{Answers, Bytes, Results};
use super::table::{Table, WIDTH};

/// A claim that a single figure decides.
pub struct Prediction {
    /// The claim.
    pub claim: &'static str,
    /// Name of the figure that decides it.
    pub figure: &'static str,
    /// Returns that figure, if the run has it.
    measured: fn(&Results) -> Option<f64>,
    /// Lowest value for which the claim holds.
    low: f64,
    /// Highest value for which the claim holds.
    high: f64,
}

/// The claims, in the order of `docs/performance_comparison.md`.
pub const PREDICTIONS: [Prediction; 9] = [
    Prediction {
        claim: "Our own protocol over TCP adds less than half to the latency of a bare TCP echo, which only \
                returns what it receives.",
        figure: "latency: TCP ÷ tokio echo",
        measured: |results| ratio(results.latency_of("tcp_socket"), results.latency_of("tokio_echo")),
        low: 0.0,
        high: 1.5,
    },
    Prediction {
        claim: "gRPC has a lower latency than HTTP/REST.",
        figure: "latency: gRPC unary ÷ HTTP/REST",
        measured: |results| ratio(results.latency_of("grpc_unary"), results.latency_of("http_rest")),
        low: 0.0,
        high: 1.0,
    },
    Prediction {
        claim: "gRPC with its binary messages uses less CPU time than WebSocket with JSON.",
        figure: "CPU time: gRPC unary ÷ WebSocket",
        measured: |results| ratio(results.cpu_of("grpc_unary"), results.cpu_of("websocket")),
        low: 0.0,
        high: 1.0,
    },
    Prediction {
        claim: "HTTP/REST sends more bytes per request than any other protocol.",
        figure: "bytes: HTTP/REST ÷ the highest of the others",
        measured: |results| {
            let others = results.single_bytes().filter(|row| row.protocol != "http_rest").map(Bytes::total);
            ratio(results.bytes_of("http_rest", 1), others.reduce(f64::max))
        },
        low: 1.0,
        high: f64::INFINITY,
    },
    Prediction {
        claim: "With 64 requests in flight, TCP handles at least 32 times as many per second as with one.",
        figure: "TCP requests per second: 64 ÷ 1 in flight",
        measured: |results| ratio(results.rate_of("tcp_socket", 64), results.rate_of("tcp_socket", 1)),
        low: 32.0,
        high: f64::INFINITY,
    },
    Prediction {
        claim: "A broker in the middle doubles the latency: two hops instead of one.",
        figure: "latency: Redis request/reply ÷ TCP",
        measured: |results| ratio(results.latency_of("redis"), results.latency_of("tcp_socket")),
        low: 1.5,
        high: 2.5,
    },
    Prediction {
        claim: "A queue accepts a message faster than one of our servers could process it.",
        figure: "latency: RabbitMQ publish ÷ HTTP/REST",
        measured: |results| ratio(results.latency_of("rabbitmq_publish"), results.latency_of("http_rest")),
        low: 0.0,
        high: 1.0,
    },
    Prediction {
        claim: "A batch of 1,000 readings takes at least 100 times as long as a single reading.",
        figure: "HTTP/REST: batch of 1,000 ÷ batch of 1",
        measured: |results| ratio(results.batch_of("http_rest", 1000), results.batch_of("http_rest", 1)),
        low: 100.0,
        high: f64::INFINITY,
    },
    Prediction {
        claim: "Setting up a gRPC connection takes no longer than ten requests.",
        figure: "gRPC unary: set-up ÷ latency",
        measured: |results| ratio(results.set_up_of("grpc_unary"), results.latency_of("grpc_unary")),
        low: 0.0,
        high: 10.0,
    },
];

/// Name of the file with the answers, in the folder of the results.
pub const FILE: &str = "predictions.json";

/// Asks the predictions one by one, until all are answered or `input` ends.
///
/// # Errors
/// If `input` can't be read or `output` can't be written.
pub fn ask(mut input: impl BufRead, mut output: impl Write) -> std::io::Result<Answers> {
    let mut answers = Vec::new();
    writeln!(output, "Is each sentence true? Answer y or n, or press Enter if you can't say.")?;
    while let Some(prediction) = PREDICTIONS.get(answers.len()) {
        let text = format!("{}. {}", answers.len() + 1, prediction.claim);
        write!(output, "\n{} [y/n] ", textwrap::fill(&text, usize::from(WIDTH)))?;
        output.flush()?;
        let mut line = String::new();
        if input.read_line(&mut line)? == 0 {
            break;
        }
        match line.trim().to_lowercase().as_str() {
            "y" | "yes" => answers.push(Some(true)),
            "n" | "no" => answers.push(Some(false)),
            "" => answers.push(None),
            other => writeln!(output, "Answer y or n, not {other:?}")?,
        }
    }
    Ok(answers)
}

/// Returns the outcome of each prediction, next to the reader's answer.
pub fn table(results: &Results) -> Table {
    let mut table = Table::new(
        "Which predictions hold".into(),
        &format!(
            "Each figure is a ratio of two medians. {NONE}: this run has no figure for it; --full measures them all."
        ),
        &["prediction", "decided by", "measured", "holds", "you said"],
    );
    let (mut right, mut decided) = (0, 0);
    for (at, prediction) in PREDICTIONS.iter().enumerate() {
        let measured = (prediction.measured)(results);
        let holds = measured.map(|figure| (prediction.low..=prediction.high).contains(&figure));
        let answer = results.answers.get(at).copied().flatten();
        let is_right = answer.zip(holds).map(|(answer, holds)| answer == holds);
        right += usize::from(is_right == Some(true));
        decided += usize::from(is_right.is_some());
        let yes_or_no = |yes| if yes { "yes" } else { "no" };
        let verdict = is_right.map_or("", |right| if right { ": right" } else { ": wrong" });
        table.rows.push(vec![
            format!("{}. {}", at + 1, prediction.claim),
            prediction.figure.into(),
            measured.map_or(NONE.into(), |figure| format!("×{figure:.1}")),
            holds.map_or(NONE, yes_or_no).into(),
            answer.map_or(NONE.into(), |answer| format!("{}{verdict}", yes_or_no(answer))),
        ]);
    }
    if decided > 0 {
        table.note += &format!(" You were right about {right} of {decided}.");
    }
    table
}

fn ratio(above: Option<f64>, below: Option<f64>) -> Option<f64> {
    Some(above? / below?)
}
