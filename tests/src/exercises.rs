//! The tested exercises: their texts and solutions are in `tests/exercises/<chapter>/`.

use std::fs;
use std::io::{Error, Result};
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use regex::Regex;

/// The chapters, in the order in which the exercises are listed.
pub const CHAPTERS: [&str; 5] = ["tcp_socket", "http_rest", "grpc", "websocket", "message_queue"];

/// A tested exercise. [`all`] reads it from a Markdown file.
#[derive(Debug, Clone, PartialEq)]
pub struct Exercise {
    /// The file's name without its extension, such as `count`.
    pub name: String,
    /// The chapter's crate, which is also the name of the test file.
    pub chapter: String,
    /// The heading.
    pub title: String,
    /// `Easy`, `Medium`, or `Hard`.
    pub level: String,
    /// About how many minutes it takes.
    pub minutes: u32,
    /// Part of the name of the test that passes once the exercise is solved.
    pub test: String,
    /// What to do, as Markdown.
    pub text: String,
    /// The hints, each as Markdown.
    pub hints: Vec<String>,
    /// A patch with a solution, for `git apply`.
    pub solution: PathBuf,
}

/// Returns the root folder of the repository.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("in the workspace")
}

/// Reads all exercises, chapter by chapter, the shortest first.
///
/// # Errors
/// If a file can't be read, or doesn't have the form of the others.
pub fn all() -> Result<Vec<Exercise>> {
    let mut exercises = Vec::new();
    for chapter in CHAPTERS {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("exercises").join(chapter);
        let mut of_chapter = Vec::new();
        for entry in fs::read_dir(&folder)? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "md") {
                of_chapter.push(parse(chapter, &path)?);
            }
        }
        of_chapter.sort_by(|a, b| (a.minutes, &a.name).cmp(&(b.minutes, &b.name)));
        exercises.extend(of_chapter);
    }
    Ok(exercises)
}

fn parse(chapter: &str, path: &Path) -> Result<Exercise> {
    static HEAD: LazyLock<Regex> = LazyLock::new(|| {
        Regex::new(r"^# (.+)\n\n\*(Easy|Medium|Hard), about (\d+) minutes\.\*\n").expect("valid")
    });
    static TEST: LazyLock<Regex> =
        LazyLock::new(|| Regex::new(r"cargo test --test (\w+) (\w+) -- --ignored").expect("valid"));

    let whole = fs::read_to_string(path)?;
    let wrong = |what: &str| Error::other(format!("{}: {what}", path.display()));
    let head = HEAD.captures(&whole).ok_or_else(|| wrong("no heading with level and minutes"))?;
    let test = TEST.captures(&whole).ok_or_else(|| wrong("no `cargo test --test … … -- --ignored`"))?;
    if &test[1] != chapter {
        return Err(wrong("the test is in another chapter"));
    }
    let mut parts = whole[head[0].len()..].split("\n## Hint\n").map(|part| part.trim().to_owned());
    let text = parts.next().unwrap_or_default();
    Ok(Exercise {
        name: path.file_stem().unwrap_or_default().to_string_lossy().into_owned(),
        chapter: chapter.to_owned(),
        title: head[1].to_owned(),
        level: head[2].to_owned(),
        minutes: head[3].parse().map_err(|_| wrong("too many minutes"))?,
        test: test[2].to_owned(),
        text,
        hints: parts.collect(),
        solution: path.with_extension("patch"),
    })
}
