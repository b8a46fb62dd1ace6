//! Finds the shell commands in documents.

use std::sync::LazyLock;
use tests::{apply, test};

use regex::Regex;

use crate::markdown::Document;

#[derive(Debug, PartialEq)]
pub struct Command {
    pub line: usize,
    /// Assignments such as `BROKERS=install`.
    pub env: Vec<String>,
    /// The program and its arguments.
    pub words: Vec<String>,
    /// The folder of a `cd` before it, or "" for the root.
    pub folder: String,
}

/// Returns the commands in `sh`, `bash`, and `console` blocks.
pub fn commands_in_blocks(document: &Document) -> Vec<Command> {
    let mut commands = Vec::new();
    for fence in &document.fences {
        let language = fence.info.split(' ').next().unwrap();
        if ["sh", "bash", "console"].contains(&language) {
            commands.extend(parse(&fence.text, fence.line, language == "console"));
        }
    }
    commands
}

/// Returns the cargo commands within lines of text, except those with a `<placeholder>`.
pub fn commands_in_lines(document: &Document) -> Vec<Command> {
    static CARGO: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"^([A-Z_]+=\S+ )*cargo [^<]*$").unwrap());

    let calls = document.spans.iter().filter(|span| CARGO.is_match(&span.text));
    calls.flat_map(|span| parse(&span.text, span.line, false)).collect()
}

/// Parses a block of commands. In a `console` block, only the lines that begin with `$ ` are
/// commands. The others are their output.
fn parse(text: &str, first: usize, console: bool) -> Vec<Command> {
    let mut commands = Vec::new();
    let mut folder = String::new();
    let mut lines = (first..).zip(text.lines());
    while let Some((line, start)) = lines.next() {
        let mut whole = match start.strip_prefix("$ ") {
            Some(command) => command.to_owned(),
            None if console => continue,
            None => start.to_owned(),
        };
        while whole.ends_with('\\') {
            whole.pop();
            whole += lines.next().map_or("", |(_, more)| more);
        }
        let words = shlex::split(&whole).unwrap_or_else(|| panic!("a quote is not closed: {whole}"));
        for words in words.split(|word| ["|", "||", "&&", ";", "&"].contains(&word.as_str())) {
            let redirected = words.iter().position(|word| word.starts_with(['<', '>']));
            let words = &words[..redirected.unwrap_or(words.len())];
            let is_env = |word: &&String| {
                word.split_once('=')
                    .is_some_and(|(name, _)| name.bytes().all(|b| b.is_ascii_uppercase() || b == b'_'))
            };
            let env: Vec<_> = words.iter().take_while(is_env).cloned().collect();
            match &words[env.len()..] {
                [] => {}
                [cd, to] if cd == "cd" => folder.clone_from(to),
                words => commands.push(Command { line, env, words: words.to_vec(), folder: folder.clone() }),
            }
        }
    }
    commands
}

#[apply(test!)]
async fn lines_are_split_as_a_shell_splits_them() {
    let found = |text: &str, console| {
        let commands = parse(text, 1, console).into_iter();
        commands
            .map(|c| format!("{}|{}|{}|{}", c.line, c.env.join(" "), c.words.join("_"), c.folder))
            .collect::<Vec<_>>()
    };
    let text = "A=b C_D=e f 'g h' \"i\"  # j\nk | l && m > n\no \\\n  -p\ncd q\nr x=y";
    assert_eq!(
        found(text, false),
        ["1|A=b C_D=e|f_g h_i|", "2||k|", "2||l|", "2||m|", "3||o_-p|", "6||r_x=y|q"]
    );
    assert_eq!(found("$ a b\nc d\n$ e", true), ["1||a_b|", "3||e|"]);
}
