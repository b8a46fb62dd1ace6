//! What the tests of the exercises share.

use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use tokio::time::timeout;

use crate::exercises::root;

/// Returns an error unless there is a Python interpreter.
///
/// # Errors
/// A sentence for the test's report.
pub fn python() -> Result<(), String> {
    match std::process::Command::new("python3").arg("--version").output() {
        Ok(output) if output.status.success() => Ok(()),
        _ => Err("no python3: install it with `apt-get install python3`".to_owned()),
    }
}

/// Returns an error unless a chapter's Python environment is set up.
///
/// # Errors
/// A sentence for the test's report.
pub fn environment(chapter: &str) -> Result<(), String> {
    if root().join(chapter).join("python/.venv/bin/python").exists() {
        return Ok(());
    }
    Err(format!("there is no Python environment; create it with: {chapter}/python/setup"))
}

/// Compares the predictions in a file of `tests/exercises` with what happened, in the order of its
/// questions. Panics with the questions whose answers are missing or wrong, but not with the answers.
pub fn assert_predicted(file: &str, happened: &[String]) {
    let path = Path::new("tests/exercises").join(file);
    let text = fs::read_to_string(root().join(&path)).expect("the file with the predictions");
    let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    let answers: Vec<_> = lines.map(|line| line.rsplit_once(": ").expect("a question, then `: `")).collect();
    assert!(answers.len() == happened.len(), "{} questions in {}", happened.len(), path.display());
    let compared = answers.iter().zip(happened);
    let open: Vec<_> = compared
        .filter(|((_, answer), happened)| answer.trim() != happened.as_str())
        .map(|((question, answer), _)| match *answer {
            "?" => format!("  {question}: no answer yet\n"),
            wrong => format!("  {question}: not {wrong}\n"),
        })
        .collect();
    assert!(
        open.is_empty(),
        "in {}, these predictions are missing or wrong:\n{}",
        path.display(),
        open.concat()
    );
}

/// A program of an exercise that waits for input while it runs. It ends with this value.
pub struct Dialog {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Dialog {
    /// Starts a program.
    pub fn start(program: &Path, args: &[&str]) -> Self {
        let mut command = Command::new(program);
        command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().expect("the program should start");
        let lines = BufReader::new(child.stdout.take().expect("it is piped")).lines();
        Self { child, lines }
    }

    /// Sends a line.
    pub async fn send(&mut self, line: &str) {
        let input = self.child.stdin.as_mut().expect("it is piped");
        // A program that has ended prints no line, which the test notices.
        let _ = input.write_all(format!("{line}\n").as_bytes()).await;
    }

    /// Waits for a line of its output.
    pub async fn line(&mut self) -> String {
        let line = timeout(Duration::from_secs(60), self.lines.next_line()).await;
        let line = line.expect("the program should print a line within a minute").expect("text");
        line.expect("the program should print a line before it ends")
    }
}
