//! Checks that code in documents comes from a source file, so it is certain to compile.

use crate::repository::{REPOSITORY, none, read};
use tests::{apply, test};

/// This line in a document replaces lines of the file that are left out.
const LEFT_OUT: &str = "// …";

/// Checks that `source` has the lines of `shown`, without any between them, in the same order.
/// Indentation doesn't matter. The error is the first line of the part that `source` lacks.
fn is_in(shown: &str, source: &str) -> Result<(), String> {
    let source: Vec<_> = source.lines().map(str::trim).collect();
    let shown: Vec<_> = shown.lines().map(str::trim).collect();
    let mut rest = source.as_slice();
    for part in shown.split(|line| *line == LEFT_OUT).filter(|part| !part.is_empty()) {
        // The earliest match leaves the most lines for the parts that follow.
        let at = rest.windows(part.len()).position(|lines| lines == part);
        rest = &rest[at.ok_or(part[0])? + part.len()..];
    }
    Ok(())
}

#[apply(test!)]
async fn adjacent_lines_in_the_same_order_are_found() {
    let source = "fn a() {\n    one();\n    two();\n}\n\nfn b() {\n    one();\n}\n";
    for good in
        ["one();\ntwo();", "fn a() {\n  one();\n", "fn a() {\n// …\ntwo();\n// …\n  one();", "}\n\nfn b() {"]
    {
        assert_eq!(is_in(good, source), Ok(()), "{good}");
    }
    let bad = [
        ("one", "one"),
        ("two();\none();", "two();"),
        ("fn a() {\ntwo();", "fn a() {"),
        ("fn b() {\n// …\ntwo();", "two();"),
        ("}\nfn b() {", "}"),
    ];
    for (bad, first) in bad {
        assert_eq!(is_in(bad, source), Err(first.to_owned()), "{bad}");
    }
}

#[apply(test!)]
async fn code_in_documents_comes_from_the_repository() {
    let mut violations = Vec::new();
    for document in &REPOSITORY.documents {
        for fence in &document.fences {
            let (language, path) = fence.info.split_once(' ').unwrap_or((&fence.info, ""));
            let language = language.split(',').next().unwrap();
            if !["rust", "proto"].contains(&language) {
                continue;
            }
            let reason = if path.is_empty() {
                format!("name the file after the language: ```{language} <path from the root>")
            } else if !REPOSITORY.files.contains(path) {
                format!("{path:?} is not in the repository")
            } else if let Err(line) = is_in(&fence.text, &read(path)) {
                format!("{path} does not have the line {line:?} followed by the same lines as here")
            } else {
                continue;
            };
            violations.push(format!("{}:{}: {reason}", document.path, fence.line));
        }
    }
    none(&violations);
}
