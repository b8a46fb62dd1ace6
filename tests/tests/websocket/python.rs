//! The client in Python.

use tests::practice::environment;
use tests::{apply, assert_same, expected_output, run_program, test};

use crate::PAIR;

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../websocket/python");

#[apply(test!)]
#[needs(environment("websocket"))]
async fn the_python_client_prints_what_the_readme_shows() {
    let server = PAIR.serve().await;
    let (python, script) = (format!("{FOLDER}/.venv/bin/python"), format!("{FOLDER}/client.py"));
    let client = run_program(&python, &["-B", "-W", "error", &script, server.addr()]).await;
    assert_eq!((client.code, client.stderr.as_str()), (Some(0), ""));
    let command = "websocket/python/.venv/bin/python websocket/python/client.py 127.0.0.1:8081";
    assert_same(&client.stdout, &expected_output("websocket/README.md", command));
    server.stop().await;
}
