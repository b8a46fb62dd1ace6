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

/// Checks that a server passes all stages, which are checked at the same time.
async fn assert_passes(server: &Path, otherwise: &str) {
    let stages = 1..=all()[0].stages.len();
    join_all(stages.map(|stage| async move {
        let Output { code, stdout, stderr } = check(server, &["--stage", &stage.to_string()]).await;
        assert_eq!(code, Some(0), "{}: {otherwise}\n{stdout}{stderr}", server.display());
    }))
    .await;
}

/// Checks that the case that a patch names finds its fault.
async fn assert_found(patch: &Path) {
    let text = fs::read_to_string(patch).unwrap();
    let server = plant(patch);
    let found_by = text.lines().find_map(|line| line.strip_prefix("Found by: stage "));
    if let Some((stage, case)) = found_by.and_then(|found_by| found_by.split_once(", ")) {
        let Output { code, stdout, stderr } = check(&server, &["--stage", stage]).await;
        let found = code == Some(1) && stdout.contains(&format!("\nnot yet: {case}\n"));
        assert!(found, "{}: {code:?}\n{stdout}{stderr}", patch.display());
    } else {
        assert!(text.contains("\nFound by nothing: "), "{} does not say what finds it", patch.display());
        assert_passes(&server, "check finds this now, so name the case in its patch").await;
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
    let found = join_all(patches.iter().map(|patch| assert_found(patch)));
    futures::join!(assert_passes(&server, "it has no fault"), found);
}
