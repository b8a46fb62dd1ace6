//! Compares the texts of the exercises with the tests and with the READMEs.

use std::fs;

use tests::exercises::{all, root};
use tests::{apply, test};

#[apply(test!)]
async fn each_tested_exercise_has_a_text_hints_and_a_solution() {
    let exercises = all().unwrap();
    for exercise in &exercises {
        let name = &exercise.name;
        assert!(!exercise.hints.is_empty() && !exercise.text.is_empty(), "{name} has no hint or no text");
        let patch = fs::read_to_string(&exercise.solution).unwrap_or_default();
        assert!(patch.starts_with("diff --git "), "{name} has no solution");
        let readme = fs::read_to_string(root().join(&exercise.chapter).join("README.md")).unwrap();
        let link = format!("(../tests/exercises/{}/{name}.md)", exercise.chapter);
        assert!(readme.contains(&link), "the README of {} has no link {link}", exercise.chapter);
    }
    let mut names: Vec<_> = exercises.iter().map(|exercise| &exercise.name).collect();
    names.sort();
    names.dedup();
    assert_eq!(names.len(), exercises.len(), "two exercises have the same name");
}

#[apply(test!)]
async fn each_test_of_an_exercise_has_a_text() {
    let exercises = all().unwrap();
    for chapter in tests::exercises::CHAPTERS {
        let path = root().join(format!("tests/tests/{chapter}/exercises.rs"));
        let source = fs::read_to_string(path).unwrap();
        let marked = source.split("#[exercise]\n").skip(1);
        let tests: Vec<_> = marked.map(|rest| rest.split("async fn ").nth(1).unwrap()).collect();
        let tests: Vec<_> = tests.iter().map(|rest| rest.split('(').next().unwrap()).collect();
        let of_chapter: Vec<_> = exercises.iter().filter(|exercise| exercise.chapter == chapter).collect();
        assert_eq!(tests.len(), of_chapter.len(), "{chapter}: {tests:?}");
        for exercise in of_chapter {
            let found = tests.iter().filter(|test| test.contains(&exercise.test)).count();
            assert_eq!(found, 1, "{} names {found} tests", exercise.name);
        }
    }
}
