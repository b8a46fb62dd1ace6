//! Clients of other makes, with and without a token: curl, and Python's grpcio.

use std::path::Path;

use tests::{apply, run_program, test};

use crate::chapters::{Chapter, Mode, file, token};

#[apply(test!)]
async fn curl_gets_401_without_a_token_and_403_without_permission() {
    let server = Chapter::Http.start(Mode::Checked).await;
    let stations = format!("{}/stations", server.url);
    for (name, status) in
        [(None, "401"), (Some("nobody"), "401"), (Some("oslo-1"), "403"), (Some("reader"), "200")]
    {
        // The header is in a file: everybody on the machine can see the arguments.
        let header = file(&format!("{}.header", name.unwrap_or("no")));
        let line = name.map(|name| format!("Authorization: Bearer {}\n", token(name))).unwrap_or_default();
        std::fs::write(&header, line).unwrap();
        let args = ["-s", "-i", "-H", &format!("@{header}"), &stations];
        let printed = run_program("curl", &args).await.stdout;
        assert!(printed.starts_with(&format!("HTTP/1.1 {status}")), "{name:?}: {printed}");
        assert_eq!(printed.contains("www-authenticate: Bearer"), status == "401", "{printed}");
    }
    server.stop().await;
}

const PYTHON: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../grpc/python/.venv/bin/python");

fn grpcio() -> Result<(), String> {
    let there = Path::new(PYTHON).exists();
    there
        .then_some(())
        .ok_or_else(|| "there is no Python environment; create it with: grpc/python/setup".into())
}

/// Records a reading of oslo-1, and prints the status.
const CALL: &str = r#"
import sys, pathlib, grpc
from weather.v1 import weather_pb2 as weather
from weather.v1.weather_pb2_grpc import WeatherServiceStub
reading = weather.Reading(station="oslo-1", metric=weather.METRIC_WIND, value=7, recorded_at=1)
metadata = [("authorization", "Bearer " + pathlib.Path(file).read_text().strip()) for file in sys.argv[2:]]
try:
    stub = WeatherServiceStub(grpc.insecure_channel(sys.argv[1]))
    stub.Record(weather.RecordRequest(readings=[reading]), metadata=metadata, timeout=20)
    print("OK")
except grpc.RpcError as error:
    print(error.code().name)
"#;

#[apply(test!)]
#[needs(grpcio())]
async fn grpcio_gets_the_two_statuses_of_refusals() {
    let server = Chapter::Grpc.start(Mode::Checked).await;
    for (name, status) in [
        (None, "UNAUTHENTICATED\n"),
        (Some("nobody"), "UNAUTHENTICATED\n"),
        (Some("reader"), "PERMISSION_DENIED\n"),
        (Some("oslo-1"), "OK\n"),
    ] {
        let token = name.map(|name| file(&format!("{name}.token")));
        let mut args = vec!["-B", "-c", CALL, &server.addr];
        args.extend(token.as_deref());
        let output = run_program(PYTHON, &args).await;
        assert_eq!(output.stdout, status, "{name:?}: {}", output.stderr);
    }
    server.stop().await;
}
