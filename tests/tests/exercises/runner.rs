//! The exercise runner, `cargo run --bin exercises`.

use std::path::PathBuf;

use serde_json::Value;
use tests::exercises::all;
use tests::{Output, apply, run_program, test};

/// The runner with a progress file of its own, which is deleted in the end.
struct Runner(PathBuf);

impl Runner {
    fn new(name: &str) -> Self {
        Self(std::env::temp_dir().join(format!("exercises-{name}-{}.json", std::process::id())))
    }

    async fn run(&self, args: &[&str]) -> Output {
        let progress = ["--progress", self.0.to_str().unwrap()];
        run_program(env!("CARGO_BIN_EXE_exercises"), &[args, &progress].concat()).await
    }

    async fn state(&self, exercise: &str) -> Value {
        let report = self.run(&["report", "--json"]).await;
        let report: Value = serde_json::from_str(&report.stdout).unwrap();
        let mut rows = report["exercises"].as_array().unwrap().iter();
        rows.find(|row| row["exercise"] == exercise).unwrap().clone()
    }
}

impl Drop for Runner {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

#[apply(test!)]
async fn the_list_has_every_exercise_with_its_state() {
    let runner = Runner::new("list");
    let list = runner.run(&["list"]).await;
    assert_eq!((list.code, list.stderr.as_str()), (Some(0), ""));
    for (number, exercise) in (1..).zip(all().unwrap()) {
        let is_its_line = |line: &str| {
            line.starts_with(&format!("  {number:>2}  {} ", exercise.name)) && line.ends_with(&exercise.title)
        };
        assert!(list.stdout.lines().any(is_its_line), "{} is not in {}", exercise.name, list.stdout);
    }
}

#[apply(test!)]
async fn without_arguments_it_lists_the_exercises_and_names_the_next_one() {
    let runner = Runner::new("no-arguments");
    let output = runner.run(&[]).await;
    let next = "\n\nShow the next one: cargo run --bin exercises -- show same_batch\n";
    assert!(output.stdout.ends_with(next), "{}{}", output.stdout, output.stderr);
    // The reader finds each file from the root folder.
    let shown = runner.run(&["show", "same_batch"]).await.stdout;
    for path in ["(tests/exercises/tcp_socket/same_batch.txt)", "(tcp_socket/PROTOCOL.md)"] {
        assert!(shown.contains(path), "{path} is not in {shown}");
    }
}

#[apply(test!)]
async fn hints_are_shown_one_at_a_time_and_remembered() {
    let runner = Runner::new("hints");
    assert_eq!(runner.state("count").await["state"], "new");
    let first = runner.run(&["hint", "count"]).await.stdout;
    assert!(first.starts_with("Hint 1 of 3: ") && !first.contains("Hint 2"), "{first}");
    let second = runner.run(&["hint", "count"]).await.stdout;
    assert!(second.contains("Hint 1 of 3: ") && second.contains("Hint 2 of 3: "), "{second}");
    // A terminal can't follow links, so the paths are in the text.
    assert!(first.contains("`frame.rs` (tcp_socket/src/protocol/frame.rs)"), "{first}");
    let state = runner.state("count").await;
    assert_eq!((&state["state"], &state["hints"]), (&"begun".into(), &2.into()));
    runner.run(&["reset", "count"]).await;
    assert_eq!(runner.state("count").await["state"], "new");
}

#[apply(test!)]
async fn a_solution_is_for_those_who_solved_the_exercise_or_give_up() {
    let runner = Runner::new("solution");
    let refused = runner.run(&["solution", "count"]).await;
    assert_eq!((refused.code, refused.stdout.as_str()), (Some(1), ""));
    assert!(refused.stderr.contains("add --give-up"), "{}", refused.stderr);
    let shown = runner.run(&["solution", "count", "--give-up"]).await;
    assert!(shown.stdout.starts_with("diff --git "), "{}", shown.stderr);
    assert!(shown.stdout.ends_with("git apply tests/exercises/tcp_socket/count.patch\n"), "{}", shown.stdout);
    assert_eq!(runner.state("count").await["state"], "given up");
    // The next exercise is another one now.
    assert!(!runner.run(&["next"]).await.stdout.contains("Count the readings"));
}

#[apply(test!)]
async fn mistakes_get_a_message_that_helps() {
    let runner = Runner::new("mistakes");
    for wrong in ["0", "99", "nonsense"] {
        let output = runner.run(&["show", wrong]).await;
        let expected =
            format!("error: no exercise {wrong:?}; see the list: cargo run --bin exercises -- list\n");
        assert_eq!((output.code, output.stderr), (Some(1), expected));
    }
    std::fs::write(&runner.0, "{").unwrap();
    let output = runner.run(&["list"]).await;
    assert!(output.stderr.contains("is damaged") && output.stderr.contains("delete it"), "{}", output.stderr);
}
