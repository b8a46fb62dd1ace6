//! Guides the reader through the tested exercises: `cargo run --bin exercises`.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::LazyLock;
use std::time::{Duration, SystemTime};
use std::{fs, thread};

use anyhow::{Context, bail};
use clap::{Parser, ValueEnum};
use regex::{Captures, Regex};
use serde_json::json;
use tests::exercises::{Exercise, all, root};

mod check;
mod progress;

use check::{Outcome, check};
use progress::{Progress, now};

/// The file with the reader's progress, in the root folder. Git ignores it.
const PROGRESS: &str = "my-exercises.json";

/// Time between two looks at the files in `watch`.
const PAUSE: Duration = Duration::from_millis(500);

/// Shows the tested exercises, checks your solutions, and remembers what you have solved.
///
/// An exercise has a number and a name; both are in the list. If you give neither, the command applies
/// to the first exercise that you have not solved yet.
#[derive(Debug, Parser)]
#[command(name = "exercises")]
struct Args {
    #[arg(default_value = "list")]
    action: Action,
    /// Number or name of an exercise
    exercise: Option<String>,
    /// With `solution`: show it even if you have not solved the exercise
    #[arg(long)]
    give_up: bool,
    /// With `report`: print JSON, for a teacher
    #[arg(long)]
    json: bool,
    /// File that keeps your progress [default: my-exercises.json in the root folder]
    #[arg(long, value_name = "FILE")]
    progress: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Action {
    /// List all exercises
    List,
    /// Show the next exercise
    Next,
    /// Show an exercise
    Show,
    /// Show one more hint
    Hint,
    /// Run the exercise's test
    Check,
    /// Run the exercise's test after each change, until it passes
    Watch,
    /// Forget what you have done with an exercise; your files stay as they are
    Reset,
    /// Show our solution, which is a patch
    Solution,
    /// Print your progress
    Report,
}

fn main() -> ExitCode {
    match run(Args::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: Args) -> anyhow::Result<ExitCode> {
    let exercises = all().context("cannot read the exercises")?;
    let mut progress = Progress::read(args.progress.unwrap_or_else(|| root().join(PROGRESS)))?;
    match args.action {
        Action::List | Action::Report if !args.json => list(&exercises, &progress),
        Action::List | Action::Report => println!("{}", report(&exercises, &progress)),
        Action::Next => show(&find(&exercises, &progress, None)?),
        action => {
            let exercise = find(&exercises, &progress, args.exercise)?;
            return on_exercise(action, &exercise, args.give_up, &mut progress);
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn on_exercise(
    action: Action,
    exercise: &Exercise,
    give_up: bool,
    progress: &mut Progress,
) -> anyhow::Result<ExitCode> {
    match action {
        Action::Hint => hint(exercise, progress)?,
        Action::Check if !checked(exercise, progress)? => return Ok(ExitCode::FAILURE),
        Action::Watch => watch(exercise, progress)?,
        Action::Reset => {
            progress.change(&exercise.name, |attempt| *attempt = Default::default())?;
            println!(
                "{} is new again. To undo your changes, use Git: git status, git restore",
                exercise.name
            );
        }
        Action::Solution => solution(exercise, give_up, progress)?,
        Action::Show => show(exercise),
        _ => {}
    }
    Ok(ExitCode::SUCCESS)
}

/// Returns the exercise with this number or name, or the first one that is not solved.
fn find(exercises: &[Exercise], progress: &Progress, wanted: Option<String>) -> anyhow::Result<Exercise> {
    let is_open = |exercise: &&Exercise| ["new", "begun"].contains(&progress.of(&exercise.name).state());
    let found = match &wanted {
        None => exercises.iter().find(is_open),
        Some(wanted) => match wanted.parse::<usize>() {
            Ok(number) => number.checked_sub(1).and_then(|index| exercises.get(index)),
            Err(_) => exercises.iter().find(|exercise| exercise.name == *wanted),
        },
    };
    match (found, wanted) {
        (Some(exercise), _) => Ok(exercise.clone()),
        (None, None) => bail!("no exercise is left: you have been through all of them"),
        (None, Some(wanted)) => {
            bail!("no exercise {wanted:?}; see the list: cargo run --bin exercises -- list")
        }
    }
}

fn list(exercises: &[Exercise], progress: &Progress) {
    let mut chapter = "";
    for (number, exercise) in (1..).zip(exercises) {
        if exercise.chapter != chapter {
            chapter = &exercise.chapter;
            println!("{chapter}");
        }
        let Exercise { name, title, level, minutes, .. } = exercise;
        let state = progress.of(name).state();
        println!("  {number:>2}  {name:<20} {level:<6} {minutes:>4} min  {state:<8}  {title}");
    }
    if let Ok(next) = find(exercises, progress, None) {
        println!("\nShow the next one: cargo run --bin exercises -- show {}", next.name);
    }
}

fn report(exercises: &[Exercise], progress: &Progress) -> String {
    let rows = exercises.iter().map(|exercise| {
        let attempt = progress.of(&exercise.name);
        json!({
            "chapter": exercise.chapter, "exercise": exercise.name, "level": exercise.level,
            "minutes": exercise.minutes, "state": attempt.state(), "checks": attempt.checks,
            "hints": attempt.hints, "solved_at": attempt.solved_at,
        })
    });
    let rows: Vec<_> = rows.collect();
    format!("{:#}", json!({ "exercises": rows }))
}

fn show(exercise: &Exercise) {
    let Exercise { chapter, name, title, level, minutes, text, hints, .. } = exercise;
    println!("{title}\n{}\n", "=".repeat(title.chars().count()));
    println!("{chapter}, {}, about {minutes} minutes\n\n{}\n", level.to_lowercase(), plain(text, chapter));
    println!("Check your solution:  cargo run --bin exercises -- check {name}");
    println!("Get a hint ({} in all): cargo run --bin exercises -- hint {name}", hints.len());
}

/// Returns Markdown with the path of each link after its text, since a terminal can't follow links.
/// Links are relative to the folder of the chapter's exercises, and paths to the root folder.
fn plain(markdown: &str, chapter: &str) -> String {
    static LINK: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"\[([^\]]+)\]\(([^)]+)\)").expect("valid"));
    let link = |link: &Captures<'_>| {
        let mut path = vec!["tests", "exercises", chapter];
        for part in link[2].split('/') {
            if part == ".." {
                path.pop();
            } else {
                path.push(part);
            }
        }
        format!("{} ({})", &link[1], path.join("/"))
    };
    LINK.replace_all(markdown, link).into_owned()
}

fn hint(exercise: &Exercise, progress: &mut Progress) -> anyhow::Result<()> {
    let shown = (progress.of(&exercise.name).hints + 1).min(exercise.hints.len());
    for (number, hint) in (1..).zip(&exercise.hints[..shown]) {
        println!("Hint {number} of {}: {}\n", exercise.hints.len(), plain(hint, &exercise.chapter));
    }
    progress.change(&exercise.name, |attempt| attempt.hints = shown)
}

/// Runs the test and says what came of it. Returns whether the exercise is solved.
fn checked(exercise: &Exercise, progress: &mut Progress) -> anyhow::Result<bool> {
    let name = &exercise.name;
    eprintln!("Checking {name}; the first time, this compiles the chapter's tests …");
    let outcome = check(exercise)?;
    if let Outcome::Cannot(reason) = outcome {
        bail!("the test of {name} cannot run here: {reason}");
    }
    let solved = outcome == Outcome::Solved;
    progress.change(name, |attempt| {
        attempt.checks += 1;
        if solved && attempt.solved_at.is_none() {
            attempt.solved_at = Some(now());
        }
    })?;
    match outcome {
        Outcome::NotYet(why) => println!("\n{name} is not solved yet.\n\n{why}"),
        _ => {
            println!("\n{name} is solved. Compare it with our solution:");
            println!("cargo run --bin exercises -- solution {name}");
        }
    }
    Ok(solved)
}

fn watch(exercise: &Exercise, progress: &mut Progress) -> anyhow::Result<()> {
    loop {
        let begun = SystemTime::now();
        if checked(exercise, progress)? {
            return Ok(());
        }
        println!("Waiting for a change in {}/ … (Ctrl-C ends this)", exercise.chapter);
        let folders = [exercise.solution.with_file_name(""), root().join(&exercise.chapter)];
        while newest(&folders[0])?.max(newest(&folders[1])?) < begun {
            thread::sleep(PAUSE);
        }
    }
}

/// Returns when a file in this folder was last changed. Hidden folders don't count.
fn newest(folder: &std::path::Path) -> anyhow::Result<SystemTime> {
    let mut newest = SystemTime::UNIX_EPOCH;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with('.') {
            continue;
        }
        let data = entry.metadata()?;
        newest = newest.max(if data.is_dir() { self::newest(&entry.path())? } else { data.modified()? });
    }
    Ok(newest)
}

fn solution(exercise: &Exercise, give_up: bool, progress: &mut Progress) -> anyhow::Result<()> {
    let Exercise { name, solution, .. } = exercise;
    if progress.of(name).solved_at.is_none() {
        if !give_up {
            bail!("{name} is not solved yet; to see the solution anyway, add --give-up");
        }
        progress.change(name, |attempt| attempt.gave_up = true)?;
    }
    let patch =
        fs::read_to_string(solution).with_context(|| format!("cannot read {}", solution.display()))?;
    print!("{patch}");
    let path = solution.strip_prefix(root()).unwrap_or(solution);
    println!("\nTo try it, undo your changes, and then run: git apply {}", path.display());
    Ok(())
}
