//! What the reader has done so far, in a file that Git ignores.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};
use std::{fs, io};

use serde::{Deserialize, Serialize};

/// What the reader has done with one exercise.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Attempt {
    /// Number of checks so far.
    pub checks: u32,
    /// Number of hints shown.
    pub hints: usize,
    /// When a check passed for the first time, in seconds since 1970-01-01T00:00:00Z.
    pub solved_at: Option<u64>,
    /// Whether the solution was shown before that.
    pub gave_up: bool,
}

impl Attempt {
    /// Returns the state in one word.
    pub fn state(&self) -> &'static str {
        match self {
            Self { gave_up: true, .. } => "given up",
            Self { solved_at: Some(_), .. } => "solved",
            Self { checks: 0, hints: 0, .. } => "new",
            _ => "begun",
        }
    }
}

/// All attempts, by the exercises' names.
#[derive(Debug)]
pub struct Progress {
    path: PathBuf,
    attempts: BTreeMap<String, Attempt>,
}

impl Progress {
    /// Reads the file. If there is none, nothing has been done yet.
    pub fn read(path: PathBuf) -> anyhow::Result<Self> {
        let attempts = match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|error| {
                anyhow::anyhow!("{} is damaged ({error}); delete it to start again", path.display())
            })?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => BTreeMap::new(),
            Err(error) => anyhow::bail!("cannot read {}: {error}", path.display()),
        };
        Ok(Self { path, attempts })
    }

    /// Returns what was done with this exercise.
    pub fn of(&self, exercise: &str) -> Attempt {
        self.attempts.get(exercise).cloned().unwrap_or_default()
    }

    /// Changes what was done with this exercise, and writes the file.
    pub fn change(&mut self, exercise: &str, change: impl FnOnce(&mut Attempt)) -> anyhow::Result<()> {
        change(self.attempts.entry(exercise.to_owned()).or_default());
        let text = serde_json::to_string_pretty(&self.attempts)?;
        fs::write(&self.path, text + "\n")
            .map_err(|error| anyhow::anyhow!("cannot write {}: {error}", self.path.display()))
    }
}

/// Returns the seconds since 1970-01-01T00:00:00Z.
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
