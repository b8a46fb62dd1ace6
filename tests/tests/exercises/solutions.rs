//! Applies the solutions to a copy of the repository, and runs the tests of the exercises there.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use tests::exercises::{CHAPTERS, Exercise, all, root};
use tests::{apply, test};

/// The copy. It stays, with what was built in it, so that the next run is faster.
fn copy() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("solutions")
}

fn git(args: &[&str], folder: &Path) -> std::process::Output {
    let mut command = Command::new("git");
    // The copy is no repository, and must not be mistaken for a part of the one around it.
    command.args(args).current_dir(folder).env("GIT_CEILING_DIRECTORIES", env!("CARGO_TARGET_TMPDIR"));
    command.output().expect("git should start")
}

/// Makes the copy equal to the repository. Files that are already equal are not touched, so that
/// Cargo does not compile them again.
fn renew_copy() {
    for chapter in CHAPTERS {
        remove_added(&Path::new(chapter).join("src"));
    }
    let listed = git(&["ls-files", "-z", "--cached", "--others", "--exclude-standard"], root());
    for path in String::from_utf8(listed.stdout).unwrap().split_terminator('\0') {
        let (from, to) = (root().join(path), copy().join(path));
        let Ok(bytes) = fs::read(&from) else { continue }; // It was deleted, but not in the index.
        if fs::read(&to).is_ok_and(|old| old == bytes) {
            continue;
        }
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::write(&to, bytes).unwrap();
    }
}

/// Lets the copy use the Python environments, which Git ignores.
fn link_environments() {
    for chapter in ["grpc", "message_queue", "websocket"] {
        let environment = format!("{chapter}/python/.venv");
        let (from, to) = (root().join(&environment), copy().join(&environment));
        Command::new("ln").arg("-sfn").args([from, to]).status().expect("ln should start");
    }
}

/// Removes the files in this folder of the copy that solutions have added to it.
fn remove_added(folder: &Path) {
    let Ok(entries) = fs::read_dir(copy().join(folder)) else { return };
    for entry in entries.map(Result::unwrap) {
        let path = folder.join(entry.file_name());
        if entry.path().is_dir() {
            remove_added(&path);
        } else if !root().join(&path).exists() {
            fs::remove_file(entry.path()).unwrap();
        }
    }
}

/// Applies as many of the solutions as go together. Returns the others.
fn apply_solutions(exercises: Vec<Exercise>) -> (Vec<Exercise>, Vec<Exercise>) {
    exercises
        .into_iter()
        .partition(|exercise| git(&["apply", exercise.solution.to_str().unwrap()], &copy()).status.success())
}

#[apply(test!)]
#[slow]
#[alone]
async fn slow_test_the_solutions_solve_the_exercises() {
    let mut left = all().unwrap();
    while !left.is_empty() {
        renew_copy();
        link_environments();
        let count = left.len();
        let (applied, others) = apply_solutions(left);
        assert!(others.len() < count, "these solutions no longer apply: {others:#?}");
        let mut command = Command::new(env!("CARGO"));
        command.args(["test", "--package", "tests", "--no-fail-fast"]);
        command.args(CHAPTERS.iter().flat_map(|chapter| ["--test", chapter])).args(["--", "--ignored"]);
        command.current_dir(copy()).env("CARGO_TARGET_DIR", copy().join("target")).env_remove("SLOW");
        // Otherwise, the copy would take several gigabytes more.
        command.env("CARGO_PROFILE_DEV_DEBUG", "0").env("CARGO_INCREMENTAL", "0");
        let output = command.output().unwrap();
        let printed = String::from_utf8_lossy(&output.stdout);
        let solved = |exercise: &Exercise| {
            let mut lines = printed.lines();
            // Without REQUIRE=all, a test may be ignored because the machine lacks something.
            lines.any(|line| {
                line.contains(&exercise.test) && (line.ends_with("... ok") || line.contains("... ignored ("))
            })
        };
        // Another solution may have changed what this exercise is about. It then comes in the next round.
        let (solved, unsolved): (Vec<_>, _) = applied.into_iter().partition(solved);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(!solved.is_empty(), "not solved: {unsolved:#?}\n{printed}\n{errors}");
        left = [unsolved, others].concat();
    }
}
