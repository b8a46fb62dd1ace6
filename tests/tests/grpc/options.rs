//! The limits as options of the server.

use grpc::Limits;
use grpc::proto::RecordRequest;
use tests::{Server, apply, limit_fields, run_program, test};

use crate::support::*;

/// Returns the fields of [`Limits`] as options, and whether each is a time.
fn options() -> Vec<(String, bool)> {
    let limits = format!("{:?}", Limits::default());
    let option =
        |(name, value): (&str, &str)| (format!("--{}", name.replace('_', "-")), value.ends_with('s'));
    limit_fields(&limits).into_iter().map(option).collect()
}

/// Starts a server with every limit set.
async fn serve(number: &str, seconds: &str) -> Server {
    let value = |is_time| if is_time { seconds } else { number };
    let mut args = vec!["--addr=127.0.0.1:0".to_owned()];
    args.extend(options().iter().map(|(option, is_time)| format!("{option}={}", value(*is_time))));
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    Server::start(PAIR.server, &args).await
}

#[apply(test!)]
async fn every_limit_is_an_option_of_the_server() {
    let server = serve("2147483647", "4000000").await; // The largest values accepted.
    assert_eq!(client(server.url()).record(&[reading("oslo-1", 1.0)]).await.unwrap(), 1);
    server.stop().await;
    serve("1", "0.001").await.stop().await; // And the smallest ones.

    // These options take effect.
    let args = ["--addr", "127.0.0.1:0", "--max-message", "50", "--max-header-list", "500"];
    let args = [&args[..], &["--handshake-timeout", "0.1"]].concat();
    let server = Server::start(PAIR.server, &args).await;
    assert!(Raw::tcp(server.addr()).await.read_to_end().await.is_empty(), "the server sent something");
    let connection = connect(server.addr()).await;
    let request = |count| prefixed(&RecordRequest { readings: vec![reading("oslo-1", 1.0); count] });
    for (readings, metadata, code) in [(1, "short", "0"), (2, "short", "8"), (1, &*"long".repeat(50), "8")] {
        let response = unary(&connection, RECORD, &[("x-text", metadata)], request(readings)).await;
        assert_eq!(response.code(), code, "{readings} readings, {metadata}");
    }
    drop(connection);
    server.stop().await;
}

#[apply(test!)]
async fn an_invalid_limit_is_refused_at_startup() {
    for wrong in [
        "--max-connections=0",
        "--max-calls=-1",
        "--max-message=1e6",
        "--stream-window=2147483648",
        "--max-abandoned=18446744073709551616",
        "--idle-timeout=0",
        "--keepalive-interval=-1",
        "--drain-timeout=NaN",
        "--linger-time=inf",
        "--request-timeout=1e300",
        "--handshake-timeout=soon",
    ] {
        let refused = run_program(PAIR.server, &["--addr", "127.0.0.1:0", wrong]).await;
        assert_eq!((refused.code, refused.stdout.as_str()), (Some(2), ""), "{wrong}");
        let option = wrong.split('=').next().unwrap();
        assert!(refused.stderr.contains(option) && refused.stderr.contains("not a"), "{}", refused.stderr);
    }
}
