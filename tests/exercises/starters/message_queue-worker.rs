//! The beginning of a worker for the queue chapter, on Redis: it does jobs, and forgets to say so.
//!
//! cargo build --bin starter-message_queue-worker
//! cargo run --bin check -- message_queue-worker \
//!     --worker 'target/debug/starter-message_queue-worker {url} {prefix} {results}'
use std::collections::BTreeMap;
use std::path::Path;

use redis::streams::{StreamReadOptions, StreamReadReply};
use redis::{Client, Commands, RedisResult};
use serde_json::{Value, json};

const GROUP: &str = "workers";

fn do_job(job: &Value, results: &Path) -> std::io::Result<()> {
    let mut metrics: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
    for reading in job["readings"].as_array().into_iter().flatten() {
        let metric = reading["metric"].as_str().unwrap_or_default();
        metrics.entry(metric).or_default().push(reading["value"].as_f64().unwrap_or_default());
    }
    let range = |values: &Vec<f64>| {
        let low = values.iter().copied().fold(f64::INFINITY, f64::min);
        let high = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let mean = values.iter().sum::<f64>() / values.len() as f64;
        json!({ "count": values.len(), "low": low, "mean": mean, "high": high })
    };
    let metrics: BTreeMap<_, _> = metrics.iter().map(|(metric, values)| (metric, range(values))).collect();
    let summary =
        json!({ "job": job["id"], "station": job["station"], "day": job["day"], "metrics": metrics });
    let id = job["id"].as_str().unwrap_or_default();
    std::fs::write(results.join(format!("{id}.json")), summary.to_string())
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let [_, url, prefix, results] = std::env::args().collect::<Vec<_>>().try_into().expect("three words");
    let mut redis = Client::open(url)?.get_connection()?;
    let (jobs, me) = (format!("{prefix}:jobs:v1"), format!("rust-{:016x}", fastrand::u64(..)));
    let _: RedisResult<()> = redis.xgroup_create_mkstream(&jobs, GROUP, "0"); // It may exist.
    loop {
        let options = StreamReadOptions::default().group(GROUP, &me).block(500);
        let reply: Option<StreamReadReply> = redis.xread_options(&[&jobs], &[">"], &options)?;
        for entry in reply.into_iter().flat_map(|reply| reply.keys).flat_map(|key| key.ids) {
            let job: String = entry.get("job").unwrap_or_default();
            do_job(&serde_json::from_str(&job)?, Path::new(&results))?; // Your part: acknowledge the job.
        }
    }
}
