//! Lists the files of the repository, and parses its Markdown documents.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use crate::markdown::Document;

/// The files and documents of the repository. All paths start at its root and use `/`.
pub struct Repository {
    pub files: BTreeSet<String>,
    pub documents: Vec<Document>,
}

pub static REPOSITORY: LazyLock<Repository> = LazyLock::new(|| {
    // The lines of this file are plain names, not patterns.
    let ignored = read(".gitignore");
    let ignored: Vec<_> = ignored.lines().map(|name| name.trim_matches('/')).collect();
    assert!(ignored.contains(&"target"), "{ignored:?}");
    let mut files = BTreeSet::new();
    walk("", &ignored, &mut files);
    let hidden = |path: &str| path.split('/').any(|part| part.starts_with('.'));
    let documents = files.iter().filter(|path| path.ends_with(".md") && !hidden(path));
    let documents: Vec<_> = documents.map(|path| Document::parse(path, &read(path))).collect();
    assert!(documents.iter().any(|document| document.path == "README.md"));
    Repository { files, documents }
});

impl Repository {
    pub fn has_folder(&self, path: &str) -> bool {
        path.is_empty() || self.files.iter().any(|file| file.starts_with(&format!("{path}/")))
    }
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

pub fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Adds the files in `folder`, without those that Git ignores and without Python's virtual
/// environments.
fn walk(folder: &str, ignored: &[&str], files: &mut BTreeSet<String>) {
    for entry in fs::read_dir(root().join(folder)).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        if name == ".git" || ignored.contains(&name.as_str()) || entry.path().join("pyvenv.cfg").exists() {
            continue;
        }
        let path = if folder.is_empty() { name } else { format!("{folder}/{name}") };
        if entry.file_type().unwrap().is_dir() {
            walk(&path, ignored, files);
        } else {
            files.insert(path);
        }
    }
}

/// Panics with all violations, unless the list is empty.
pub fn none(violations: &[String]) {
    assert!(violations.is_empty(), "{} violations:\n{}", violations.len(), violations.join("\n"));
}
