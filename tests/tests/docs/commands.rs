//! Checks the commands in documents: the files, packages, and tests that they name have to exist,
//! and the chapters' programs have to accept the arguments.

use std::path::Path;

use tests::{apply, run_program, test};

use crate::repository::{REPOSITORY, none, read};
use crate::shell::{Command, commands_in_blocks, commands_in_lines};

/// Options without a value that documents may use. Any other counts as a mistake.
const FLAGS: [&str; 8] =
    ["--all", "--all-targets", "--check", "--doc", "--locked", "--no-deps", "--release", "--workspace"];

/// The arguments of a `cargo` command, as far as the checks need them.
#[derive(Default)]
struct Cargo<'a> {
    subcommand: &'a str,
    package: Option<&'a str>,
    bin: Option<&'a str>,
    example: Option<&'a str>,
    bench: Option<&'a str>,
    test: Option<&'a str>,
    /// Arguments before `--`: parts of test names.
    filters: Vec<&'a str>,
    /// Arguments after `--`.
    arguments: Vec<&'a str>,
}

impl<'a> Cargo<'a> {
    fn parse(command: &'a Command) -> Result<Self, String> {
        let mut words = command.words[1..].iter().map(String::as_str).peekable();
        words.next_if(|word| word.starts_with('+')); // the toolchain
        let subcommand = words.next().ok_or("cargo has no subcommand")?;
        // After `cd <chapter>`, that chapter is the package. A `cd` into the clone names no package.
        let package = Some(command.folder.as_str()).filter(|to| !to.is_empty() && REPOSITORY.has_folder(to));
        let mut cargo = Self { subcommand, package, ..Self::default() };
        while let Some(word) = words.next() {
            let value = match word {
                "--" => {
                    cargo.arguments = words.collect();
                    break;
                }
                "-p" | "--package" => &mut cargo.package,
                "--bin" => &mut cargo.bin,
                "--example" => &mut cargo.example,
                "--bench" => &mut cargo.bench,
                "--test" => &mut cargo.test,
                _ if FLAGS.contains(&word) => continue,
                _ if word.starts_with('-') => {
                    return Err(format!("{word} is not among the options that documents use"));
                }
                _ => {
                    cargo.filters.push(word);
                    continue;
                }
            };
            *value = Some(words.next().ok_or_else(|| format!("{word} has no value"))?);
        }
        Ok(cargo)
    }

    async fn check(&self) -> Result<(), String> {
        if let Some(package) = self.package {
            in_repository(&format!("{package}/Cargo.toml"))?;
        }
        match self.subcommand {
            "run" => self.check_run().await,
            "bench" => match self.bench {
                Some(bench) => {
                    in_repository(&format!("{}/benches/{bench}.rs", self.package.unwrap_or("lab")))
                }
                None => Ok(()),
            },
            "test" => self.check_test().await,
            "fuzz" => match (self.package, &self.filters[..]) {
                (Some(package), ["run", target]) => {
                    in_repository(&format!("{package}/fuzz/fuzz_targets/{target}.rs"))
                }
                _ => Err("run `cargo fuzz run <target>` in a chapter's folder".to_owned()),
            },
            "build" | "clippy" | "doc" | "fmt" | "install" => Ok(()),
            other => Err(format!("`cargo {other}` is not among the subcommands that documents use")),
        }
    }

    async fn check_run(&self) -> Result<(), String> {
        if let [extra, ..] = self.filters[..] {
            return Err(format!("{extra:?} has to come after `--`"));
        }
        let package = self.package.unwrap_or("lab");
        if let Some(example) = self.example {
            return in_repository(&format!("{package}/examples/{example}.rs"));
        }
        let copy = match (package, self.bin) {
            ("lab", None | Some("lab")) => "lab-under-test".to_owned(),
            // Without `-p`, Cargo also looks in the tests.
            _ if self.package.is_none() => {
                let bin = self.bin.unwrap_or_default();
                in_repository(&format!("tests/src/bin/{bin}/main.rs"))?;
                bin.to_owned()
            }
            (_, Some(bin)) => {
                let path = format!("{package}/src/bin/{bin}");
                in_repository(&format!("{path}.rs"))
                    .or_else(|_| in_repository(&format!("{path}/main.rs")))?;
                format!("{package}-{bin}")
            }
            (_, None) => return Err(format!("{package} has several binaries: name one with --bin")),
        };
        // All programs of the tests are in the same folder.
        let program = Path::new(env!("CARGO_BIN_EXE_lab-under-test")).with_file_name(copy);
        accepts(&program, &self.arguments).await
    }

    async fn check_test(&self) -> Result<(), String> {
        let is_meant = |path: &str| {
            let name = path.strip_prefix("tests/tests/").and_then(|rest| rest.split(['/', '.']).next());
            name.is_some_and(|name| self.test.is_none_or(|test| test == name))
        };
        let files = REPOSITORY.files.iter().filter(|path| is_meant(path));
        let sources: Vec<_> = files.map(|path| read(path)).collect();
        if sources.is_empty() {
            return Err("there is no such test file".to_owned());
        }
        // `--ignored` runs only the exercises.
        let ignored = self.arguments.contains(&"--ignored");
        let filter = self.filters.first().unwrap_or(&"");
        // The marks of a test are between `#[apply(test!)]` and its name.
        let mut tests = sources.iter().flat_map(|source| source.split("test!)]").skip(1));
        let runs = tests.any(|test| {
            let (marks, rest) = test.split_once("async fn ").unwrap_or((test, ""));
            let name = rest.split('(').next().unwrap_or_default();
            name.contains(filter) && (!ignored || marks.contains("#[exercise]"))
        });
        if !runs {
            let kind = if ignored { "exercise" } else { "test" };
            return Err(format!("no {kind} has {filter:?} in its name"));
        }
        // Every test program accepts the same arguments as this one.
        accepts(&std::env::current_exe().unwrap(), &self.arguments).await
    }
}

fn in_repository(path: &str) -> Result<(), String> {
    if REPOSITORY.files.contains(path) { Ok(()) } else { Err(format!("there is no {path}")) }
}

/// Checks that a path into a folder of the repository exists. Hidden folders such as `.venv`, which
/// a program creates, are not checked.
fn exists_if_ours(word: &str) -> Result<(), String> {
    let ours = |(folder, _): (&str, &str)| !folder.is_empty() && REPOSITORY.has_folder(folder);
    let is_there =
        !word.split_once('/').is_some_and(ours) || word.contains("/.") || REPOSITORY.has_folder(word);
    if is_there { Ok(()) } else { in_repository(word) }
}

/// Checks that the program accepts these arguments. With `--help` after them, it parses them and
/// then only prints its help.
async fn accepts(program: &Path, arguments: &[&str]) -> Result<(), String> {
    if !program.exists() {
        return Err(format!("tests/Cargo.toml has no binary {}", program.file_name().unwrap().display()));
    }
    let output = run_program(program.to_str().unwrap(), &[arguments, &["--help"]].concat()).await;
    match output.code {
        Some(0) => Ok(()),
        _ => Err(output.stderr.lines().next().unwrap_or("the program fails without a message").to_owned()),
    }
}

#[apply(test!)]
async fn commands_in_documents_work() {
    let mut violations = Vec::new();
    let mut seen = 0;
    for document in &REPOSITORY.documents {
        for command in commands_in_blocks(document).iter().chain(&commands_in_lines(document)) {
            let outcome = if command.words[0] == "cargo" {
                seen += 1;
                match Cargo::parse(command) {
                    Ok(cargo) => cargo.check().await,
                    Err(reason) => Err(reason),
                }
            } else {
                command.words.iter().try_for_each(|word| exists_if_ours(word))
            };
            if let Err(reason) = outcome {
                let shown = command.words.join(" ");
                violations.push(format!("{}:{}: `{shown}`: {reason}", document.path, command.line));
            }
        }
    }
    assert!(seen > 0);
    none(&violations);
}
