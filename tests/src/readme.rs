//! Compares the output that a README shows with what the program prints.

use std::fs;
use std::path::Path;

use regex::{Captures, Regex};

/// Returns the output that a README shows for a command. This is everything after the first line in
/// the fenced block that begins with `$ <command>`.
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

/// Panics and shows the differences unless both texts are the same, apart from ports, timestamps,
/// durations, and random IDs.
pub fn assert_same(actual: &str, expected: &str) {
    // Paths are not normalized, because a backslash is data here.
    snapbox::Assert::new().normalize_paths(false).eq(normalized(actual), normalized(expected));
}

fn normalized(text: &str) -> String {
    let rules = [
        (r"127\.0\.0\.1:\d+", "127.0.0.1:PORT"),
        (r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", "TIMESTAMP"),
        (r"\b\d+(\.\d+)? ?(ns|µs|ms|s)\b", "DURATION"),
    ];
    let mut text = text.to_owned();
    for (pattern, replacement) in rules {
        text = Regex::new(pattern).unwrap().replace_all(&text, replacement).into_owned();
    }
    // Only hexadecimal numbers with a letter are IDs. A long decimal number is data.
    let hexadecimal = Regex::new(r"\b[0-9a-f]{8,}\b").unwrap();
    let id = |found: &Captures<'_>| {
        if found[0].bytes().all(|b| b.is_ascii_digit()) { found[0].to_owned() } else { "HEX".to_owned() }
    };
    hexadecimal.replace_all(&text, id).into_owned()
}
