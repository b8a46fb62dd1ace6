//! Faults of a kind that students make, planted into a server that passes all stages: `check` finds them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use futures::future::join_all;
use tests::contract::all;
use tests::exercises::root;
use tests::practice::python;
use tests::{Output, apply, run_program, test};

fn folder() -> PathBuf {
    root().join("tests/exercises/planted")
}

async fn check(server: &Path, more: &[&str]) -> Output {
    let command = format!("python3 -B {} {{addr}}", server.display());
    run_program(env!("CARGO_BIN_EXE_check"), &[&["tcp_socket", "--server", &command], more].concat()).await
}

/// Applies a patch to a copy of the server, and returns its path.
fn plant(patch: &Path) -> PathBuf {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let copy = target.join("planted").join(patch.file_stem().unwrap());
    fs::create_dir_all(&copy).unwrap();
    fs::copy(folder().join("server.py"), copy.join("server.py")).unwrap();
    let mut git = Command::new("git");
    git.arg("apply").arg(patch).current_dir(&copy).env("GIT_CEILING_DIRECTORIES", target);
    assert!(git.status().unwrap().success(), "{} does not apply", patch.display());
    copy.join("server.py")
}

/// Checks that the case that a patch names finds its fault, or that the stage that it names doesn't.
async fn assert_found(patch: &Path) {
    let text = fs::read_to_string(patch).unwrap();
    let second = text.lines().nth(1).unwrap();
    let server = plant(patch);
    if let Some((stage, case)) = second.strip_prefix("Found by: stage ").and_then(|by| by.split_once(", ")) {
        let Output { code, stdout, stderr } = check(&server, &["--stage", stage]).await;
        let found = code == Some(1) && stdout.contains(&format!("\nnot yet: {case}\n"));
        assert!(found, "{}: {code:?}\n{stdout}{stderr}", patch.display());
    } else {
        let stage = second.strip_prefix("Not found by stage ").and_then(|by| by.split(':').next());
        let stage = stage.unwrap_or_else(|| panic!("{} does not say what finds it", patch.display()));
        let Output { code, stdout, .. } = check(&server, &["--stage", stage]).await;
        assert_eq!(code, Some(0), "this is found now, so change {}: {stdout}", patch.display());
    }
}

#[apply(test!)]
#[needs(python())]
async fn check_finds_the_planted_faults_and_none_in_the_server_itself() {
    let mut patches: Vec<_> = fs::read_dir(folder()).unwrap().map(|entry| entry.unwrap().path()).collect();
    patches.retain(|path| path.extension().is_some_and(|extension| extension == "patch"));
    assert_eq!(patches.len(), 10);
    let server = folder().join("server.py");
    assert!(fs::read_to_string(&server).unwrap().lines().count() <= 200);
    let stages = join_all((1..=all()[0].stages.len()).map(|stage| {
        let server = &server;
        async move {
            let Output { code, stdout, stderr } = check(server, &["--stage", &stage.to_string()]).await;
            assert_eq!(code, Some(0), "{stdout}{stderr}");
        }
    }));
    futures::join!(stages, join_all(patches.iter().map(|patch| assert_found(patch))));
}
