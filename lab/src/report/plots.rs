//! Draws the results as plots.

use std::collections::BTreeSet;

use super::plot::{Drawing, Plot, bars, dots, lines};
use super::results::{BASELINE, Results};
use super::statistic::Spread;
use crate::protocols::Kind;

/// Returns all plots for which the results have rows.
pub fn plots(results: &Results) -> Vec<Plot> {
    let (latency_placement, load_placement) = (results.latency.placement, results.fixed_rate.placement);
    let all = [
        ("added", format!("Time added to the tokio echo's; {latency_placement}"), added(results)),
        ("latency", format!("Latency with one request in flight; {latency_placement}"), latency(results)),
        (
            "throughput",
            format!("Throughput by requests in flight; {}", results.throughput.placement),
            throughput(results),
        ),
        ("fixed_rate", format!("Latency (p99) by offered load; {load_placement}"), fixed_rate(results)),
        ("bytes", "Bytes per request, one reading, both directions".to_owned(), bytes(results)),
        ("cpu", format!("CPU time per request; {latency_placement}"), cpu(results)),
        ("batch", format!("Time per reading by batch size; {}", results.batch.placement), batch(results)),
        (
            "fan_out",
            format!("Time until the last subscriber has a reading; {load_placement}"),
            fan_out(results),
        ),
    ];
    let plot = |(id, title, drawing): (&'static str, String, Option<Drawing>)| {
        Some(Plot { id, title, note: note(id), drawing: drawing? })
    };
    all.into_iter().filter_map(plot).collect()
}

/// Returns how to read the plot with this ID, if it needs an explanation.
fn note(id: &str) -> &'static str {
    match id {
        "added" => {
            "How much more one request takes than the echo's. This difference holds better on other machines than \
             a ratio."
        }
        "fixed_rate" => {
            "Read each line from left to right: the load rises. While a line stays flat, the protocol keeps up. Where \
             it turns upward, requests wait for each other. It ends at the first rate that the protocol cannot keep \
             up with."
        }
        _ => "",
    }
}

fn added(results: &Results) -> Option<Drawing> {
    let more = |id: &str, of: fn(&Results, &str) -> Option<f64>| {
        of(results, id).zip(of(results, BASELINE)).map_or(0.0, |(figure, echo)| (figure - echo) / 1000.0)
    };
    let protocols = results.protocols.iter().filter(|protocol| protocol.kind != Kind::Baseline);
    let rows = protocols.map(|protocol| {
        let points = [Results::latency_of, Results::cpu_of].map(|of| more(&protocol.id, of));
        (protocol.name.as_str(), points.to_vec())
    });
    dots("time in µs, logarithmic", &["latency (p50)", "CPU time"], &rows.collect::<Vec<_>>())
}

/// Returns the median in µs, or 0 if there is none. A 0 is not drawn.
fn micros(spread: Option<Spread>) -> f64 {
    spread.map_or(0.0, |spread| spread.median / 1000.0)
}

fn latency(results: &Results) -> Option<Drawing> {
    let rows = results.latency.rows.iter().map(|row| {
        let points = [row.p50, row.p90, row.p99, row.p999, Some(row.max)];
        (results.name(&row.protocol), points.map(micros).to_vec())
    });
    let legend = ["p50", "p90", "p99", "p99.9", "max"];
    dots("time in µs, logarithmic", &legend, &rows.collect::<Vec<_>>())
}

fn throughput(results: &Results) -> Option<Drawing> {
    let levels: BTreeSet<u64> = results.throughput.rows.iter().map(|row| row.in_flight).collect();
    let rows = results.protocols.iter().map(|protocol| {
        let points = levels.iter().map(|&level| results.rate_of(&protocol.id, level).unwrap_or(0.0));
        (protocol.name.as_str(), points.collect())
    });
    let legend: Vec<_> = levels.iter().map(|level| format!("{level} in flight")).collect();
    let legend: Vec<_> = legend.iter().map(String::as_str).collect();
    dots("requests per second, logarithmic", &legend, &rows.collect::<Vec<_>>())
}

fn fixed_rate(results: &Results) -> Option<Drawing> {
    let series = results.protocols.iter().map(|protocol| {
        let rows = results.fixed_rate.rows.iter().filter(|row| row.protocol == protocol.id);
        let points = rows.filter_map(|row| Some((row.offered as f64, row.p99?.median / 1000.0)));
        (protocol.name.as_str(), points.collect())
    });
    let axes =
        ["offered requests per second, logarithmic", "p99 in µs from the intended moment, logarithmic"];
    lines(axes, &series.collect::<Vec<_>>())
}

fn batch(results: &Results) -> Option<Drawing> {
    let series = results.protocols.iter().map(|protocol| {
        let rows = results.batch.rows.iter().filter(|row| row.protocol == protocol.id);
        let sizes = rows.map(|row| (row.readings as f64, row.p50));
        let points = sizes.filter_map(|(size, p50)| Some((size, p50?.median / 1000.0 / size)));
        (protocol.name.as_str(), points.collect())
    });
    lines(
        ["readings in a batch, logarithmic", "p50 per reading in µs, logarithmic"],
        &series.collect::<Vec<_>>(),
    )
}

fn bytes(results: &Results) -> Option<Drawing> {
    let rows = results.single_bytes().map(|row| {
        // An echo sends its payload twice. The second time counts as overhead.
        let payload = row.payload as f64;
        (results.name(&row.protocol), vec![payload, row.total() - payload])
    });
    bars("bytes of TCP payload", &["payload", "overhead"], &rows.collect::<Vec<_>>())
}

fn cpu(results: &Results) -> Option<Drawing> {
    let rows = results.latency.rows.iter().filter(|row| row.client_cpu.is_some()).map(|row| {
        let parts = [row.client_cpu, row.server_cpu, row.broker_cpu];
        (results.name(&row.protocol), parts.map(micros).to_vec())
    });
    bars("CPU time in µs", &["client", "server", "broker"], &rows.collect::<Vec<_>>())
}

fn fan_out(results: &Results) -> Option<Drawing> {
    let mut series: Vec<(&str, Vec<(f64, f64)>)> = Vec::new();
    for row in &results.fan_out {
        let point = (row.subscribers as f64, row.last.median / 1000.0);
        match series.last_mut().filter(|(name, _)| *name == row.name) {
            Some((_, points)) => points.push(point),
            None => series.push((&row.name, vec![point])),
        }
    }
    lines(["subscribers, logarithmic", "time in µs, logarithmic"], &series)
}
