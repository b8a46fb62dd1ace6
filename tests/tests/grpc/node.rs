//! The client in JavaScript, with Node.js, against our server.

use tests::exercises::root;
use tests::{apply, assert_same, expected_output, run_program, test};

use crate::support::PAIR;

/// Returns an error unless the Node client is set up.
fn node_client() -> Result<(), String> {
    if root().join("grpc/node/node_modules/@grpc/grpc-js").exists() {
        return Ok(());
    }
    Err("the Node client is not set up: run `grpc/node/setup`".to_owned())
}

#[apply(test!)]
#[needs(node_client())]
async fn the_node_client_makes_all_kinds_of_call() {
    let server = PAIR.serve().await;
    let script = root().join("grpc/node/client.js");
    let client = run_program("node", &[script.to_str().unwrap(), server.addr()]).await;
    assert_eq!((client.code, client.stderr.as_str()), (Some(0), ""));
    assert_same(
        &client.stdout,
        &expected_output("grpc/README.md", "node grpc/node/client.js 127.0.0.1:50051"),
    );
    server.stop().await;
}
