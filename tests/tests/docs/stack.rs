//! Checks, in the sources, that each part of the repository uses only the parts below it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;
use tests::{apply, test};

use regex::Regex;

use crate::repository::{REPOSITORY, none, read};

const CHAPTERS: [&str; 5] = ["grpc", "http_rest", "message_queue", "tcp_socket", "websocket"];

/// Returns the Rust files in a folder, without comments.
fn sources(folder: &str) -> impl Iterator<Item = (&'static str, String)> {
    static COMMENT: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"(?m)(?:^|\s)//.*$").unwrap());
    let prefix = format!("{folder}/");
    let files =
        REPOSITORY.files.iter().filter(move |path| path.starts_with(&prefix) && path.ends_with(".rs"));
    files.map(|path| (path.as_str(), COMMENT.replace_all(&read(path), "").into_owned()))
}

#[apply(test!)]
async fn the_base_uses_nothing_else_from_its_crate() {
    let path = Regex::new(r"\b(?:crate|super)(?:::\w+)*").unwrap();
    let mut violations = Vec::new();
    let mut lines = 0;
    for (file, text) in sources("tcp_socket/src/base") {
        // The journal, a tool for experiments, the clients' tour, TLS, and identity have limits of their own.
        let count = read(file).lines().count();
        if file.ends_with("/journal.rs") {
            assert!(count <= 60, "the journal has {count} lines");
        } else if file.ends_with("/tour.rs") {
            assert!(count <= 70, "the tour has {count} lines");
        } else if file.ends_with("/principals.rs") || file.ends_with("/token.rs") {
            assert!(count <= 340, "{file} has {count} lines");
        } else if file.ends_with("/tls.rs") {
            assert!(count <= 430, "TLS has {count} lines");
        } else {
            lines += count;
        }
        let up = if file.ends_with("/mod.rs") { "super" } else { "super::super" };
        for found in path.find_iter(&text) {
            let found = found.as_str();
            if found.starts_with(up) || (found.starts_with("crate") && !found.starts_with("crate::base")) {
                violations.push(format!("{file} uses {found}"));
            }
        }
    }
    assert!((1..=900).contains(&lines), "the base has {lines} lines");
    none(&violations);
}

#[apply(test!)]
async fn a_chapter_uses_only_the_base_of_another() {
    let path = Regex::new(&format!(r"(?:^|[^:\w])({})::(\{{|\w+)", CHAPTERS.join("|"))).unwrap();
    let dependency = Regex::new(r"(?m)^(\w+)(?:\.workspace)? *=").unwrap();
    let mut violations = Vec::new();
    for chapter in CHAPTERS {
        for (file, text) in sources(chapter) {
            for found in path.captures_iter(&text) {
                if &found[1] != chapter && (&found[1], &found[2]) != ("tcp_socket", "base") {
                    violations.push(format!("{file} uses {}::{}", &found[1], &found[2]));
                }
            }
        }
        let manifest = read(&format!("{chapter}/Cargo.toml"));
        for found in dependency.captures_iter(&manifest) {
            let upper = ["lab", "tests"].contains(&&found[1]);
            let other = CHAPTERS.contains(&&found[1]) && &found[1] != "tcp_socket";
            if upper || other {
                violations.push(format!("{chapter}/Cargo.toml depends on {}", &found[1]));
            }
        }
    }
    none(&violations);
}

/// Returns each module of a crate with the modules that it imports. Their names are paths, such as
/// `client::calls`.
fn imports(name: &str) -> BTreeMap<String, BTreeSet<String>> {
    static PATH: LazyLock<Regex> =
        LazyLock::new(|| Regex::new(r"(?:^|[^:\w])((?:\w+::)+)(\w+|\{[^;]*\})").unwrap());

    let src = format!("{name}/src");
    let files = sources(&src).filter(|(file, _)| !file.contains("/bin/") && !file.ends_with("/main.rs"));
    let texts: BTreeMap<_, _> = files
        .map(|(file, text)| {
            let module = file[src.len() + 1..].trim_end_matches(".rs").trim_end_matches("lib");
            (module.trim_end_matches("/mod").replace('/', "::"), text)
        })
        .collect();
    let imports = texts.iter().map(|(module, text)| {
        let parent = module.rsplit_once("::").map_or("", |(parent, _)| parent);
        let paths = PATH.captures_iter(text).flat_map(|found| {
            let mut paths = Vec::new();
            expand(&found[1], &found[2], &mut paths);
            paths
        });
        let targets = paths.filter_map(|path| {
            let path = match path.split_once("::")? {
                ("crate", path) => format!("::{path}"),
                ("super", path) => format!("{parent}::{path}"),
                ("self", path) => format!("{module}::{path}"),
                _ => format!("{module}::{path}"), // A module below this one, or another crate.
            };
            let path = path.trim_start_matches("::");
            let parents = std::iter::successors(Some(path), |path| Some(path.rsplit_once("::")?.0));
            // A path that is in none of the modules is in the root of the crate.
            Some(parents.into_iter().find(|path| texts.contains_key(*path)).unwrap_or("").to_owned())
        });
        (module.clone(), targets.filter(|target| target != module).collect())
    });
    imports.collect()
}

/// Appends all paths that begin with `prefix` and continue with `rest`, which may be a group.
fn expand(prefix: &str, rest: &str, paths: &mut Vec<String>) {
    let Some(group) = rest.strip_prefix('{') else { return paths.push(format!("{prefix}{rest}")) };
    let (mut depth, mut start) = (0, 0);
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            ',' | '}' if depth == 0 => {
                let item = group[start..at].trim();
                let (inner, last) = item.split_at(item.find('{').unwrap_or(item.len()));
                match last {
                    "" => paths.push(format!("{prefix}{inner}")),
                    group => expand(&format!("{prefix}{inner}"), group, paths),
                }
                start = at + 1;
                if c == '}' {
                    break;
                }
            }
            '}' => depth -= 1,
            _ => {}
        }
    }
}

/// Returns the layer of a module in its crate, counted from the bottom, and its top module.
fn layer(module: &str) -> Option<(usize, &str)> {
    let top = module.split("::").next()?;
    let layers = [&["limits"][..], &["protocol"], &["client", "server"]];
    layers.iter().position(|names| names.contains(&top)).map(|layer| (layer, top))
}

#[apply(test!)]
async fn imports_in_a_crate_go_in_one_direction() {
    let mut violations = Vec::new();
    for name in CHAPTERS.into_iter().chain(["lab"]) {
        let mut imports = imports(name);
        assert!(imports.values().any(|targets| !targets.is_empty()), "{name}");
        for (module, target) in imports.iter().flat_map(|(module, to)| to.iter().map(move |to| (module, to)))
        {
            let (Some((from, top)), Some((to, other))) = (layer(module), layer(target)) else { continue };
            if to >= from && top != other {
                violations.push(format!("{name}: {module} imports {target}"));
            }
        }
        // Repeatedly remove the modules that import no others or are not imported by any. What
        // remains are the cycles.
        loop {
            let imported: BTreeSet<_> = imports.values().flatten().cloned().collect();
            let before = imports.len();
            imports.retain(|module, targets| !targets.is_empty() && imported.contains(module));
            let left: BTreeSet<_> = imports.keys().cloned().collect();
            imports.values_mut().for_each(|targets| targets.retain(|target| left.contains(target)));
            if imports.len() == before {
                break;
            }
        }
        if !imports.is_empty() {
            violations.push(format!("{name} has a cycle of imports: {imports:?}"));
        }
    }
    none(&violations);
}
