//! Compares the Indonesian README with the English one.

use crate::repository::REPOSITORY;
use crate::shell::commands_in_blocks;
use tests::{apply, test};

#[apply(test!)]
async fn the_translation_shows_the_same_commands_in_the_same_order() {
    let commands = |path| {
        let document = REPOSITORY.documents.iter().find(|document| document.path == path).unwrap();
        let commands = commands_in_blocks(document).into_iter();
        commands.map(|command| (command.env, command.words)).collect::<Vec<_>>()
    };
    assert_eq!(commands("README.id.md"), commands("README.md"));
}
