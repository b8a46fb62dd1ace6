//! Every Markdown file of the repository held against what it speaks of: links,
//! names, code and commands. And which part of the repository uses which.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::process::ExitCode;

use tests::run;

mod anchors;
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
