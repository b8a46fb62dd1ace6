//! The client in Python.

use std::path::Path;

use tests::{apply, assert_same, expected_output, run_program, test};

use crate::PAIR;

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../websocket/python");

pub fn virtual_environment() -> Result<(), String> {
    if Path::new(FOLDER).join(".venv/bin/python").exists() {
        return Ok(());
    }
    Err("there is no Python environment; create it with: websocket/python/setup".to_owned())
}

#[apply(test!)]
#[needs(virtual_environment())]
async fn the_python_client_prints_what_the_readme_shows() {
    let server = PAIR.serve().await;
    let (python, script) = (format!("{FOLDER}/.venv/bin/python"), format!("{FOLDER}/client.py"));
    let client = run_program(&python, &["-B", "-W", "error", &script, server.addr()]).await;
    assert_eq!((client.code, client.stderr.as_str()), (Some(0), ""));
    let command = "websocket/python/.venv/bin/python websocket/python/client.py 127.0.0.1:8081";
    assert_same(&client.stdout, &expected_output("websocket/README.md", command));
    server.stop().await;
}
