//! Programs in another language that use the same queues.

use std::fs;

use message_queue::job::{Job, Summary};
use tests::practice::environment;
use tests::{apply, run_program};

use crate::support::{BOTH, Folder, Program, broker_test, eventually, name, prefix, url};
use crate::work_queue::queue_length;

const RUN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../message_queue/python/run");

#[apply(broker_test!)]
#[needs(environment("message_queue"))]
async fn a_python_producer_feeds_a_rust_consumer() {
    for kind in BOTH {
        let (url, prefix, folder) = (url(kind), prefix(), Folder::new());
        let mut worker = Program::worker(kind, &url, &prefix, &folder, &[]);
        worker.shows("jobs come from", 1).await;
        let args = ["produce", name(kind), "--url", &url, "--prefix", &prefix, "--count", "50"];
        let producer = run_program(RUN, &args).await;
        assert_eq!((producer.code, producer.stderr.as_str()), (Some(0), ""));
        eventually("50 results", async || folder.done().len() == 50).await;
        let printed = worker.stop().await;
        assert!(printed.contains("stopped: 50 done, 0 duplicates, 0 failed"), "{printed}");
        folder.assert_done("python", 50);
    }
}

#[apply(broker_test!)]
#[needs(environment("message_queue"))]
async fn a_rust_producer_feeds_a_python_consumer() {
    for kind in BOTH {
        let (url, prefix, folder) = (url(kind), prefix(), Folder::new());
        Program::producer(kind, &url, &prefix, &["--batch", "rust", "--count", "50"]).success().await;
        let target = ["--url", &url, "--prefix", &prefix, "--results", folder.path(), "--count", "50"];
        let consumer = run_program(RUN, &[&["consume", name(kind)], &target[..]].concat()).await;
        assert_eq!((consumer.code, consumer.stderr.as_str()), (Some(0), ""));
        assert_eq!(consumer.stdout.lines().filter(|line| line.ends_with(" done")).count(), 50);
        assert_eq!(folder.done().len(), 50);
        for number in 1..=50 {
            let id = format!("rust-{number}");
            let text = fs::read(folder.0.join(format!("{id}.json"))).unwrap();
            let summary: Summary = serde_json::from_slice(&text).unwrap();
            let expected = Job::example(id, number).summary().unwrap();
            for (metric, range) in &expected.metrics {
                let got = &summary.metrics[metric];
                assert_eq!((got.count, got.low, got.high), (range.count, range.low, range.high));
                assert!((got.mean - range.mean).abs() < 1e-9); // Python adds up in another order.
            }
            assert_eq!((summary.job, summary.day), (expected.job, expected.day));
        }
        // All jobs are acknowledged: the queue is empty, and a Rust worker gets none of them.
        eventually("the queue is empty", async || queue_length(kind, &url, &prefix).await == 0).await;
        let mut worker = Program::worker(kind, &url, &prefix, &folder, &["--claim-after", "0"]);
        worker.shows("jobs come from", 1).await;
        Program::producer(kind, &url, &prefix, &["--batch", "last", "--count", "1"]).success().await;
        worker.shows("last-1 done", 1).await;
        assert!(worker.stop().await.contains("stopped: 1 done, 0 duplicates, 0 failed"));
    }
}
