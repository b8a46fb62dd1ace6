//! Clients in another language, Python, against our server.

use std::path::{Path, PathBuf};

use lab::certificates::{Options, write};
use tests::{Output, Server, apply, assert_same, expected_output, run_program, test};

use crate::support::*;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("grpc")
}

/// Returns an error unless the Python client is set up for the current proto.
pub fn python_client() -> Result<(), String> {
    let of = std::fs::read(folder().join("python/.venv/weather.proto")).ok();
    let now = std::fs::read(folder().join("protos/weather/v1/weather.proto")).ok();
    if of.is_some() && of == now {
        return Ok(());
    }
    Err("the Python client is not set up for this proto: run `grpc/python/setup`".to_owned())
}

async fn python(args: &[&str]) -> Output {
    let python = folder().join("python/.venv/bin/python");
    let script = folder().join("python").join(args[0]);
    let args = [&["-B", script.to_str().unwrap()], &args[1..]].concat();
    run_program(python.to_str().unwrap(), &args).await
}

fn readme(script: &str, args: &str) -> String {
    let command = format!("grpc/python/.venv/bin/python grpc/python/{script} 127.0.0.1:50051{args}");
    expected_output("grpc/README.md", &command)
}

#[apply(test!)]
#[needs(python_client())]
async fn the_python_client_makes_all_kinds_of_call() {
    let server = PAIR.serve().await;
    let client = python(&["client.py", server.addr()]).await;
    assert_eq!(client.code, Some(0), "{}", client.stderr);
    assert_same(&client.stdout, &readme("client.py", ""));
    // The last call is not checked: either side's clock may end it.
    for call in ["Record OK", "Watch CANCELLED", "Upload OK", "Monitor OK"] {
        server.has_printed(call).await;
    }
    server.stop().await;
}

#[apply(test!)]
#[needs(python_client())]
async fn the_python_client_works_over_tls() {
    let certificates = Path::new(env!("CARGO_TARGET_TMPDIR")).join("grpc-python");
    write(
        &certificates,
        &Options { renew: true, broken: true, station: vec!["oslo-1".to_owned()], ..Options::default() },
    )
    .unwrap();
    let file = |name: &str| certificates.join(name).to_str().unwrap().to_owned();
    let (ca, identity, key) = (file("ca.pem"), file("client-oslo-1.pem"), file("server-key.pem"));
    let certificate = file("server.pem");
    let tls = ["--tls", "--certificate", &certificate, "--key", &key, "--client-ca", &ca];
    let server = Server::start(PAIR.server, &[&["--addr", "127.0.0.1:0"], &tls[..]].concat()).await;
    let addr = server.url().strip_prefix("https://").unwrap();
    let call = async |args: &[&str]| python(&[&["client.py", addr], args].concat()).await;
    let client = call(&["--ca", &ca, "--identity", &identity]).await;
    assert_eq!(client.code, Some(0), "{}", client.stderr);
    assert_same(&client.stdout, &readme("client.py", ""));
    server.has_printed("Monitor OK").await;

    let other_ca = file("server-other-ca.pem");
    for refused in [&["--ca", &ca][..], &["--ca", &other_ca, "--identity", &identity]] {
        let client = call(refused).await;
        assert_eq!((client.code, client.stdout.as_str()), (Some(1), ""), "{refused:?}");
        assert!(client.stderr.contains("StatusCode.UNAVAILABLE"), "{}", client.stderr);
    }
    server.stop().await;
}

#[apply(test!)]
#[needs(python_client())]
async fn a_generic_client_needs_no_proto() {
    let server = PAIR.serve().await;
    for (args, shown) in
        [(vec![], ""), (vec!["grpc.health.v1.Health/Check", "{}"], " grpc.health.v1.Health/Check {}")]
    {
        let client = python(&[&["reflect.py", server.addr()], &args[..]].concat()).await;
        assert_eq!(client.code, Some(0), "{}", client.stderr);
        assert_same(&client.stdout, &readme("reflect.py", shown));
    }
    let record =
        r#"{"readings": [{"station": "a", "metric": "METRIC_WIND", "value": 3, "recordedAt": "1"}]}"#;
    let client = python(&["reflect.py", server.addr(), "weather.v1.WeatherService/Record", record]).await;
    assert_eq!(client.stdout, "{'accepted': '1'}\n", "{}", client.stderr);
    server.stop().await;
}
