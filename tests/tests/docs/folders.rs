//! Checks that each chapter's programs also run from the chapter's own folder.

use std::path::Path;
use tests::{apply, test};

use tokio::process::Command;

#[apply(test!)]
#[slow]
async fn slow_test_each_chapter_runs_from_its_own_folder() {
    for chapter in ["tcp_socket", "http_rest", "grpc", "websocket", "message_queue"] {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(chapter);
        for program in ["server", "client"] {
            let mut command = Command::new(env!("CARGO"));
            command.args(["run", "--bin", program, "--", "--help"]).current_dir(&folder);
            let output = command.kill_on_drop(true).output().await.unwrap();
            let printed = String::from_utf8_lossy(&output.stdout);
            let errors = String::from_utf8_lossy(&output.stderr);
            assert!(printed.contains(&format!("Usage: {program}")), "{chapter}: {printed}{errors}");
        }
    }
}
