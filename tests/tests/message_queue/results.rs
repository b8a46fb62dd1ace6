//! Results, and faults of the machine that stores them.

use std::fs;
use std::path::Path;

use message_queue::brokers::Kind;
use message_queue::error::Error;
use message_queue::job::{Job, Outcome};
use message_queue::limits::rabbitmq::DELIVERY_LIMIT;
use tests::{apply, run_program, test};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::support::{BOTH, CONSUMER, Folder, LONG, Program, broker_test, eventually, name, prefix, url};
use crate::workers::{produce, work};

/// Panics unless a good worker now does all jobs of a batch at the first try.
async fn others_do(kind: Kind, prefix: &str, batch: &str, count: u64) {
    let folder = Folder::new();
    let mut worker = Program::worker(kind, &url(kind), prefix, &folder, &["--claim-after", "3600000"]);
    worker.shows(" done: station-", count as usize).await;
    let printed = worker.stop().await;
    assert!(printed.contains(&format!("stopped: {count} done, 0 duplicates, 0 failed")), "{printed}");
    folder.assert_done(batch, count);
    let ours = ["--broker", name(kind), "--url", &url(kind), "--prefix", prefix, "dead-letters"];
    assert_eq!(run_program(CONSUMER, &ours).await.stdout, "0 in all\n");
}

/// One of the faults occurs more often than a job may be delivered. If the worker took the jobs
/// each time, they would become dead letters.
#[apply(broker_test!)]
async fn a_worker_that_cannot_write_takes_no_job() {
    for kind in BOTH {
        let (url, prefix, folder) = (url(kind), prefix(), Folder::new());
        produce(kind, &prefix, "kept", 3).await;
        let file = folder.0.join("file");
        fs::write(&file, "").unwrap();
        let consumer = |results: &Path| {
            let results = results.to_str().unwrap();
            format!(
                "exec {CONSUMER} --broker {} --url {url} --prefix {prefix} --results {results}",
                name(kind)
            )
        };
        let faults = [
            ("the folder is a file", consumer(&file), 1),
            ("its parent is a file", consumer(&file.join("results")), 1),
            ("files may not grow", format!("ulimit -f 0; {}", consumer(&folder.0)), DELIVERY_LIMIT + 1),
            ("the name of its lock is taken", consumer(&folder.0.join("locked")), 1),
        ];
        fs::create_dir_all(folder.0.join("locked/.lock")).unwrap();
        for (fault, command, times) in faults {
            for _ in 0..times {
                let output = run_program("sh", &["-c", &command]).await;
                assert_eq!(
                    (output.code, output.stdout.as_str()),
                    (Some(1), ""),
                    "{fault}: {}",
                    output.stderr
                );
                assert!(output.stderr.starts_with("error: cannot keep results in "), "{}", output.stderr);
                assert_eq!(output.stderr.lines().count(), 1, "{}", output.stderr);
            }
        }
        others_do(kind, &prefix, "kept", 3).await;
    }
}

/// In each round, a worker takes the jobs, meets the fault, and gives them back.
#[apply(broker_test!)]
async fn a_machine_fault_during_work_does_not_count_against_jobs() {
    for kind in BOTH {
        let prefix = prefix();
        produce(kind, &prefix, "blamed", 5).await;
        for round in 0..=DELIVERY_LIMIT {
            let folder = Folder::new();
            let results = folder.results();
            match round % 3 {
                // The folder is gone.
                0 => fs::remove_dir_all(&folder.0).unwrap(),
                // It is a file now.
                1 => {
                    fs::remove_dir_all(&folder.0).unwrap();
                    fs::write(&folder.0, "").unwrap();
                }
                // The names of the results are taken by folders.
                _ => {
                    let names = (1..=5).map(|number| folder.0.join(format!("blamed-{number}.json")));
                    names.for_each(|name| fs::create_dir(name).unwrap());
                }
            }
            let stop = CancellationToken::new();
            let working = work(kind, &prefix, results, &stop, |line| panic!("{line}"));
            let error = timeout(LONG, working).await.unwrap().unwrap_err();
            assert!(matches!(error, Error::Machine(_)), "{error}");
            let end = "; this worker stops, and its jobs go back to the queue";
            let text = error.to_string();
            assert!(text.starts_with("cannot keep results in ") && text.ends_with(end), "{text}");
            let _ = fs::remove_file(&folder.0);
        }
        others_do(kind, &prefix, "blamed", 5).await;
    }
}

/// The folder disappears between the attempt and the acknowledgement: its sync fails.
#[apply(broker_test!)]
async fn nothing_is_acknowledged_before_its_result_is_on_the_disk() {
    for kind in BOTH {
        let (prefix, folder, stop) = (prefix(), Folder::new(), CancellationToken::new());
        produce(kind, &prefix, "synced", 1).await;
        let report = |line: String| {
            assert!(line.starts_with("synced-1 done: "), "{line}");
            fs::remove_dir_all(&folder.0).unwrap();
            stop.cancel();
        };
        let ended = timeout(LONG, work(kind, &prefix, folder.results(), &stop, report)).await.unwrap();
        assert!(matches!(ended, Err(Error::Machine(_))), "{ended:?}");
        others_do(kind, &prefix, "synced", 1).await;
    }
    // The same for a duplicate: the worker that did the job may not have synced it yet.
    let folder = Folder::new();
    let job = serde_json::to_vec(&Job::example("j".into(), 1)).unwrap();
    folder.results().attempt(&job).unwrap().unwrap();
    let results = folder.results();
    assert_eq!(results.attempt(&job).unwrap().unwrap(), Outcome::AlreadyDone("j".into()));
    results.sync().unwrap();
    results.attempt(&job).unwrap().unwrap();
    fs::remove_file(folder.0.join("j.json")).unwrap();
    assert!(results.sync().is_err());
    assert!(results.sync().is_err(), "the result that could not be synced was forgotten");
}

#[apply(test!)]
async fn an_example_job_has_a_reading_for_each_hour_of_its_day() {
    let hour = 60 * 60 * 1000;
    for number in [1, 100, 12_345] {
        let job = Job::example("j".into(), number);
        let times: Vec<u64> = job.readings.iter().map(|reading| reading.recorded_at).collect();
        let expected: Vec<u64> = (0..24).map(|count| (24 * job.day + count) * hour).collect();
        assert_eq!(times, expected);
    }
}

#[apply(test!)]
async fn a_result_damaged_by_a_power_cut_is_written_again() {
    let job = serde_json::to_vec(&Job::example("j".into(), 1)).unwrap();
    let whole = serde_json::to_string(&Job::example("j".into(), 1).summary().unwrap()).unwrap();
    let folder = Folder::new();
    let path = folder.0.join("j.json");
    for damaged in ["", "\0\0\0\0", &whole[..whole.len() / 2], &"\0".repeat(whole.len())] {
        fs::write(&path, damaged).unwrap();
        let outcome = folder.results().attempt(&job).unwrap().unwrap();
        assert!(matches!(outcome, Outcome::Done(_)), "{damaged:?}");
        assert_eq!(fs::read_to_string(&path).unwrap(), whole);
        assert!(matches!(folder.results().attempt(&job), Ok(Ok(Outcome::AlreadyDone(_)))));
    }
}

/// Another worker holds the lock: it has checked a result's name but not used it yet.
#[apply(test!)]
async fn an_attempt_waits_for_the_lock() {
    let (folder, summary) = (Folder::new(), Job::example("j".into(), 1).summary().unwrap());
    let results = folder.results();
    let lock = fs::File::open(folder.0.join(".lock")).unwrap();
    lock.lock().unwrap();
    let job = serde_json::to_vec(&Job::example("j".into(), 1)).unwrap();
    let attempt = std::thread::spawn(move || results.attempt(&job).unwrap().unwrap());
    let temporary = || fs::read_dir(&folder.0).unwrap().count() > 1;
    eventually("it waits, or has ended", async || temporary() || attempt.is_finished()).await;
    fs::write(folder.0.join("j.json"), serde_json::to_vec(&summary).unwrap()).unwrap();
    lock.unlock().unwrap();
    assert_eq!(attempt.join().unwrap(), Outcome::AlreadyDone("j".into()));
}
