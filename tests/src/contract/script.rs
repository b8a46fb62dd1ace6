//! Contracts that are written as text, in `tests/exercises/contracts/`. Each file first explains its
//! lines.

use std::collections::HashMap;
use std::sync::LazyLock;
use std::time::Duration;

use futures::future::LocalBoxFuture;
use regex::{Captures, Regex};
use serde_json::Value;

use super::{Case, Checked, Stage, Tested};

/// Time within which a server has to respond.
pub(super) const SOON: Duration = Duration::from_secs(5);

/// The lines of a case.
pub(super) type Lines = Vec<&'static str>;

type Run = fn(Lines, Tested) -> LocalBoxFuture<'static, Checked>;

/// Reads the stages. `do` inserts the lines of a `define`.
pub(super) fn stages(text: &'static str, run: Run) -> Vec<Stage> {
    let mut defined: HashMap<&str, Lines> = HashMap::new();
    let mut stages: Vec<(&'static str, Vec<(&'static str, Lines)>)> = Vec::new();
    let mut defining = None;
    for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        let lines = match word {
            "define" => {
                defining = Some(rest);
                continue;
            }
            "stage" => {
                stages.push((rest, Vec::new()));
                continue;
            }
            "case" => {
                defining = None;
                stages.last_mut().expect("a case is in a stage").1.push((rest, Vec::new()));
                continue;
            }
            "do" => defined[rest].clone(),
            _ => vec![line],
        };
        match defining {
            Some(name) => defined.entry(name).or_default().extend(lines),
            None => {
                let case = stages.last_mut().and_then(|(_, cases)| cases.last_mut());
                case.expect("a line is in a case").1.extend(lines);
            }
        }
    }
    let case = |(name, lines): (_, Vec<_>)| Case::of(name, move |tested| run(lines.clone(), tested));
    let stage = |(name, cases): (_, Vec<_>)| Stage { name, cases: cases.into_iter().map(case).collect() };
    stages.into_iter().map(stage).collect()
}

/// The values of `{name}` so far.
pub(super) struct Names(HashMap<String, String>);

impl Names {
    pub(super) fn new() -> Self {
        Self([("id".to_owned(), format!("check-{:08x}", fastrand::u32(..)))].into())
    }

    /// Returns the text with the values of the names that have one.
    pub(super) fn fill(&self, text: &str) -> String {
        let value = |name: &Captures<'_>| self.0.get(&name[1]).unwrap_or(&name[0].to_owned()).clone();
        name().replace_all(text, value).into_owned()
    }

    /// Returns whether the text is the wanted one, and gives new names their values.
    pub(super) fn matches(&mut self, wanted: &str, got: &str) -> bool {
        let pattern = name()
            .replace_all(
                &regex::escape(&self.fill(wanted)).replace(r"\{", "{").replace(r"\}", "}"),
                "(?<$1>.+)",
            )
            .into_owned();
        let pattern = Regex::new(&format!("^{pattern}$"));
        let Some((pattern, found)) = pattern.ok().and_then(|p| Some((p.clone(), p.captures(got)?))) else {
            return false;
        };
        for name in pattern.capture_names().flatten() {
            self.0.insert(name.to_owned(), found[name].to_owned());
        }
        true
    }

    /// Returns whether the value has everything that is wanted. An object may have more members.
    pub(super) fn contains(&mut self, wanted: &Value, got: &Value) -> bool {
        match (wanted, got) {
            (Value::String(any), _) if any == "*" => !got.is_null(),
            (Value::String(wanted), Value::String(got)) => self.matches(wanted, got),
            // A name, or its value.
            (Value::String(wanted), Value::Number(got)) => self.matches(wanted, &got.to_string()),
            (Value::Object(wanted), Value::Object(got)) => wanted
                .iter()
                .all(|(name, wanted)| got.get(name).is_some_and(|got| self.contains(wanted, got))),
            (Value::Array(wanted), Value::Array(got)) => {
                wanted.len() == got.len()
                    && wanted.iter().zip(got).all(|(wanted, got)| self.contains(wanted, got))
            }
            (Value::Number(wanted), Value::Number(got)) => wanted.as_f64() == got.as_f64(),
            _ => wanted == got,
        }
    }
}

fn name() -> &'static Regex {
    static NAME: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"\{([a-z]+)\}").expect("valid"));
    &NAME
}

/// Returns the value, if the text is JSON.
pub(super) fn json(text: &str) -> Option<Value> {
    serde_json::from_str(text).ok()
}
