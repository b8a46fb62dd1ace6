//! Checks that `.ci/run` runs the first two commands of the README.

use crate::repository::{REPOSITORY, read};
use crate::shell::commands_in_blocks;
use tests::{apply, test};

#[apply(test!)]
async fn ci_runs_both_commands_of_the_readme() {
    let readme = REPOSITORY.documents.iter().find(|document| document.path == "README.md").unwrap();
    let shown = commands_in_blocks(readme);
    let script = read(".ci/run");
    for wanted in ["cargo run --release", "cargo test"] {
        let words: Vec<_> = wanted.split(' ').collect();
        let is_shown =
            shown.iter().any(|command| command.env == ["BROKERS=install"] && command.words == words);
        assert!(is_shown, "no block of README.md has `BROKERS=install {wanted}`");
        let run = script.lines().skip_while(|line| *line != "export BROKERS=install");
        assert!(run.clone().next().is_some(), ".ci/run has no `export BROKERS=install`");
        assert!(run.into_iter().any(|line| line == wanted), ".ci/run does not run `{wanted}` after it");
    }
}
