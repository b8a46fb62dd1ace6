//! The client in Python.

use tests::practice::python;
use tests::{apply, run_program, test};

use crate::PAIR;

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../http_rest/python/client.py");

#[apply(test!)]
#[needs(python())]
async fn the_python_client_does_what_the_tour_does() {
    let server = PAIR.serve().await;
    let client = run_program("python3", &["-B", SCRIPT, server.addr()]).await;
    assert_eq!((client.code, client.stderr.as_str()), (Some(0), ""));
    let shortened =
        client.stdout.lines().map(|line| line.splitn(4, ' ').take(3).collect::<Vec<_>>().join(" "));
    let expected = [
        "POST /stations 201",
        "GET /stations/python-1 200",
        "GET /stations/python-1 304",
        "PATCH /stations/python-1 200",
        "PUT /stations/python-1 412",
        "POST /readings 200",
        "POST /readings 200",
        "GET /readings?station=python-1 200",
        "POST /readings 422",
        "invalid: #/readings/1/value",
        "DELETE /stations/python-1 204",
        "GET /stations/python-1 404",
    ];
    assert_eq!(shortened.collect::<Vec<_>>(), expected, "{}", client.stdout);
    let once =
        r#"{"readings":[{"station":"python-1","metric":"wind","value":7.2,"recorded_at":1767225601000}]}"#;
    assert!(client.stdout.contains(once), "the repeated POST must be executed once: {}", client.stdout);
    server.stop().await;
    let alone = run_program("python3", &["-B", SCRIPT, "127.0.0.1:1"]).await;
    assert_eq!(alone.code, Some(1));
    assert!(alone.stderr.starts_with("error: no server at 127.0.0.1:1: "), "{}", alone.stderr);
}
