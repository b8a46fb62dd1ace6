//! Every Markdown file of the repository held against what it speaks of: links,
//! names, code and commands. And which part of the repository uses which.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::process::ExitCode;

use tests::{run, test};

mod ci;
mod code_blocks;
mod commands;
mod folders;
mod links;
mod markdown;
mod named_code;
mod repository;
mod shell;
mod stack;

fn main() -> ExitCode {
    use {ci::*, code_blocks::*, commands::*, folders::*, links::*, named_code::*, shell::*, stack::*};
    run([
        test!(every_relative_link_leads_to_a_file_or_heading),
        test!(anchors_are_made_as_github_makes_them),
        test!(a_link_whose_text_is_code_names_something_in_its_file),
        test!(a_name_is_looked_for_as_a_word),
        test!(code_in_documents_is_code_of_the_repository),
        test!(lines_are_found_together_and_in_order),
        test!(commands_in_documents_exist),
        test!(slow_test_each_chapter_runs_from_its_own_folder).slow(),
        test!(a_line_is_split_as_the_shell_splits_it),
        test!(the_base_uses_nothing_else_of_its_crate),
        test!(a_chapter_uses_no_other_but_the_base),
        test!(imports_inside_a_crate_go_one_way),
        test!(the_readme_has_both_commands_that_ci_runs),
    ])
}
