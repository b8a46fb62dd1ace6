//! Tests how the harness reports failures, by causing some.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::process::ExitCode;

use tests::{Server, Test, apply, assert_same, expected_output, pair, run, run_program, run_these, test};

const PAIR: tests::Pair = pair!("http_rest");

/// Runs this same program with `EXPECT=failures`, which makes `main` run the tests at the end of
/// this file.
async fn myself(name: &str, require: &str) -> tests::Output {
    let myself = std::env::current_exe().unwrap();
    let args = ["-u", "REQUIRE", "EXPECT=failures", require, myself.to_str().unwrap(), "--exact", name];
    run_program("env", &args).await
}

#[apply(test!)]
async fn a_failed_test_shows_what_its_server_printed_and_leaves_no_process() {
    let output = myself("fails_beside_a_server", "X=").await;
    assert_eq!(output.code, Some(101));
    assert!(output.stderr.contains("printed:\nlistening on http://127.0.0.1:"), "{}", output.stderr);
    let pid = output.stdout.lines().find_map(|line| line.strip_prefix("pid ")).unwrap();
    // The server may still exist for a moment after its parent has exited, so wait for its end.
    while std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z ")) {
        tokio::task::yield_now().await;
    }
}

#[apply(test!)]
async fn a_test_with_an_unmet_need_is_ignored_with_the_reason() {
    let output = myself("lacks_something", "X=").await;
    assert_eq!(output.code, Some(0));
    assert!(
        output.stdout.contains("ignored (no unicorn: install one with `apt-get install unicorn`)"),
        "{}",
        output.stdout
    );
    assert!(output.stdout.contains("0 passed; 0 failed; 1 ignored"), "{}", output.stdout);
}

#[apply(test!)]
async fn require_all_turns_an_ignored_test_into_a_failure() {
    let output = myself("lacks_something", "REQUIRE=all").await;
    assert_eq!(output.code, Some(101));
    assert!(output.stdout.contains("REQUIRE=all, but no unicorn"), "{}", output.stdout);
}

#[apply(test!)]
async fn an_exercise_is_ignored_unless_requested() {
    let output = myself("is_not_solved", "REQUIRE=all").await;
    assert_eq!(output.code, Some(0));
    assert!(output.stdout.contains("0 passed; 0 failed; 1 ignored"), "{}", output.stdout);
    let args = ["EXPECT=failures", std::env::current_exe().unwrap().to_str().unwrap(), "--ignored"]
        .map(String::from);
    let output = run_program("env", &args.each_ref().map(String::as_str)).await;
    assert_eq!(output.code, Some(101));
    assert!(output.stdout.contains("0 passed; 1 failed; 0 ignored"), "{}", output.stdout);
}

#[apply(test!)]
async fn output_may_differ_from_the_readme_only_in_ports_times_and_ids() {
    assert_same(
        "at 127.0.0.1:1 in 2ms by 0123456789abcdef\n",
        "at 127.0.0.1:8080 in 1.5s by fedcba9876543210\n",
    );
    assert_eq!(myself("prints_other_data", "X=").await.code, Some(101));
    let missing = myself("shows_no_such_command", "X=").await;
    assert_eq!(missing.code, Some(101));
    assert!(missing.stdout.contains("has no block that begins with"), "{}", missing.stdout);
}

#[apply(test!)]
async fn a_server_that_does_not_start_fails_its_test() {
    let output = myself("starts_no_server", "X=").await;
    assert_eq!(output.code, Some(101));
    assert!(output.stdout.contains("false ended without listening"), "{}", output.stdout);
}

// The following tests run only in the processes that `myself` starts.

async fn fails_beside_a_server() {
    let server = PAIR.serve().await;
    println!("pid {}", server.pid());
    panic!("on purpose");
}

async fn lacks_something() {
    panic!("must not run");
}

async fn is_not_solved() {
    panic!("on purpose");
}

async fn prints_other_data() {
    assert_same("1767225600000\n", "1767225600001\n");
}

async fn shows_no_such_command() {
    expected_output("http_rest/README.md", "no such command");
}

async fn starts_no_server() {
    Server::start("false", &[]).await;
}

fn main() -> ExitCode {
    if std::env::var("EXPECT").as_deref() != Ok("failures") {
        return run();
    }
    let reason = "no unicorn: install one with `apt-get install unicorn`";
    run_these([
        Test::new("fails_beside_a_server", fails_beside_a_server),
        Test::new("lacks_something", lacks_something).needs(Err(reason.to_owned())),
        Test::new("is_not_solved", is_not_solved).exercise(),
        Test::new("prints_other_data", prints_other_data),
        Test::new("shows_no_such_command", shows_no_such_command),
        Test::new("starts_no_server", starts_no_server),
    ])
}
