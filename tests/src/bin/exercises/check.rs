//! Runs the test of an exercise, and makes a short report of its output.

use std::process::{Command, Stdio};
use std::sync::LazyLock;

use anyhow::Context;
use regex::Regex;
use tests::exercises::{Exercise, root};
use tests::recorder::{BEGIN, END};

/// Maximum number of lines of the compiler's output that are shown.
const COMPILER_LINES: usize = 40;

/// What came of a check.
#[derive(Debug, PartialEq)]
pub enum Outcome {
    /// The test passes.
    Solved,
    /// The test or the compiler says what is wrong.
    NotYet(String),
    /// The test could not run; usually, the machine lacks something.
    Cannot(String),
}

/// Compiles the chapter and runs the exercise's test.
pub fn check(exercise: &Exercise) -> anyhow::Result<Outcome> {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(["test", "--quiet", "--package", "tests", "--test", &exercise.chapter, &exercise.test]);
    command.args(["--", "--ignored"]).env("RUST_BACKTRACE", "0").env_remove("REQUIRE");
    let output = command.current_dir(root()).stdin(Stdio::null()).output().context("cannot start cargo")?;
    Ok(outcome(&String::from_utf8_lossy(&output.stdout), &String::from_utf8_lossy(&output.stderr)))
}

/// Says what the output of `cargo test` means.
fn outcome(stdout: &str, stderr: &str) -> Outcome {
    static RESULT: LazyLock<Regex> =
        LazyLock::new(|| Regex::new(r"(\d+) passed; (\d+) failed; (\d+) ignored").expect("valid"));

    let Some(result) = RESULT.captures(stdout) else {
        let lines = stderr.lines().skip_while(|line| !line.starts_with("error"));
        let mut lines: Vec<_> = lines.collect();
        if lines.len() > COMPILER_LINES {
            lines.truncate(COMPILER_LINES);
            lines.push("…");
        }
        return Outcome::NotYet(format!("It does not compile:\n\n{}\n", lines.join("\n")));
    };
    match (&result[1], &result[2], &result[3]) {
        ("1", "0", "0") => Outcome::Solved,
        (_, "0", _) => Outcome::Cannot(ignored(stdout)),
        _ => Outcome::NotYet(failure(stdout, stderr)),
    }
}

/// Returns why the test was ignored.
fn ignored(stdout: &str) -> String {
    let reason =
        stdout.lines().find_map(|line| line.split_once("ignored, ").or(line.split_once("ignored: ")));
    reason.map_or("the test did not run", |(_, reason)| reason).to_owned()
}

/// Returns what traveled last, if the test recorded it, and then why it failed. In the tests, the
/// left side of a comparison is what came back, and the right side is what was wanted.
fn failure(stdout: &str, stderr: &str) -> String {
    static EQUAL: LazyLock<Regex> = LazyLock::new(|| {
        Regex::new(r"assertion `left (?:==|!=) right` failed(?:: )?((?s).*?)\n  left: (.*)\n right: (.*)")
            .expect("valid")
    });

    let between = |text: &str, begin: &str, end: &str| {
        let (_, rest) = text.split_once(begin)?;
        Some(rest.split_once(end).map_or(rest, |(inside, _)| inside).trim_end().to_owned())
    };
    let message = between(stdout, "test panicked: ", "\n\n\nfailures:").unwrap_or_else(|| stdout.to_owned());
    let message = EQUAL.replace(&message, |found: &regex::Captures<'_>| {
        let differ = if found[0].contains("left != right") { "another value than" } else { "" };
        let why = if found[1].is_empty() { String::new() } else { format!("{}\n", &found[1]) };
        format!("{why}  got:    {}\n  wanted: {}", &found[2], format!("{differ} {}", &found[3]).trim_start())
    });
    match between(stderr, &format!("{BEGIN}\n"), &format!("\n{END}\n")) {
        Some(traveled) => format!("What traveled last:\n\n{traveled}\n\n{message}\n"),
        None => format!("{message}\n"),
    }
}
