//! Holds what a README says a program prints against what it prints.

use std::fs;
use std::path::Path;

use regex::{Captures, Regex};

/// The output that a README shows for a command: of the fenced block whose first
/// line is `$ <command>`, all lines after that one.
///
/// `readme` is a path from the root of the repository.
pub fn expected_output(readme: &str, command: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("in the workspace").join(readme);
    let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let prompt = format!("$ {command}");
    let mut lines = text.lines().skip_while(|line| *line != prompt);
    assert!(lines.next().is_some(), "{readme} has no block that begins with {prompt:?}");
    lines.take_while(|line| !line.starts_with("```")).flat_map(|line| [line, "\n"]).collect()
}

/// Panics with a difference unless both texts are the same but for ports,
/// times of day, durations and random ids.
pub fn assert_same(actual: &str, expected: &str) {
    // Paths are not normalised: a backslash is data.
    snapbox::Assert::new().normalize_paths(false).eq(normalised(actual), normalised(expected));
}

fn normalised(text: &str) -> String {
    let rules = [
        (r"127\.0\.0\.1:\d+", "127.0.0.1:PORT"),
        (r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", "TIMESTAMP"),
        (r"\b\d+(\.\d+)? ?(ns|µs|ms|s)\b", "DURATION"),
    ];
    let mut text = text.to_owned();
    for (pattern, replacement) in rules {
        text = Regex::new(pattern).unwrap().replace_all(&text, replacement).into_owned();
    }
    // Of hexadecimal digits only those with a letter: a long decimal is data.
    let hexadecimal = Regex::new(r"\b[0-9a-f]{8,}\b").unwrap();
    let id = |found: &Captures<'_>| {
        if found[0].bytes().all(|b| b.is_ascii_digit()) { found[0].to_owned() } else { "HEX".to_owned() }
    };
    hexadecimal.replace_all(&text, id).into_owned()
}
