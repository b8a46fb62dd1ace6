//! Compares every Markdown file with the repository: its links, names, code, and commands. Also
//! checks which parts of the repository use which others.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::process::ExitCode;

use tests::run;

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
mod translation;

fn main() -> ExitCode {
    run()
}
