//! The file of principals, tokens, and what the programs print.

use std::fs;

use tcp_socket::base::principals::{Operation, Principals, Role};
use tests::{Server, apply, pair, run_program, test};

use crate::chapters::{Chapter, Mode, file, token};

const HASH: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789ABCDEF";

#[apply(test!)]
async fn a_mistake_in_the_file_names_its_line() {
    let entry = |name: &str, role: &str, rest: &str| {
        format!("\n[[principal]]\nname = \"{name}\"\nrole = \"{role}\"\n{rest}\n")
    };
    let token = format!("token_sha256 = \"{HASH}\"");
    let good = entry("a", "reader", &token);
    assert_eq!(Principals::parse(&good).unwrap().all().len(), 1);
    for (text, line, says) in [
        (entry("a", "boss", &token), 4, "unknown variant `boss`"),
        (entry("a", "reader", &format!("{token}\ncolour = \"red\"")), 6, "unknown field `colour`"),
        (entry("a", "reader", "token_sha256 = \"12\""), 5, "64 hexadecimal digits"),
        (entry("a", "reader", ""), 2, "token_sha256 or a certificate"),
        (entry("A b", "reader", &token), 2, "1 to 32 characters"),
        (format!("{good}{}", entry("a", "reader", "certificate = \"c\"")), 7, "an earlier principal"),
        (format!("{good}{}", entry("b", "reader", &token)), 7, "an earlier principal"),
        ("principal = 1\n[".into(), 1, ""),
    ] {
        let (found, error) = Principals::parse(&text).unwrap_err();
        assert!(error.contains(says), "{error}");
        assert!(found == line || says.is_empty(), "line {found} instead of {line}: {error}");
        assert!(!error.contains("0123456789"), "{error}");
    }
}

#[apply(test!)]
async fn every_server_reads_the_file_at_its_start() {
    let wrong = file("wrong.toml");
    fs::write(&wrong, "[[principal]]\nname = \"a\"\nrole = \"boss\"\n").unwrap();
    for pair in [pair!("tcp_socket"), pair!("http_rest"), pair!("websocket"), pair!("grpc")] {
        let args = ["--addr", "127.0.0.1:0", "--principals"];
        let output = run_program(pair.server, &[&args[..], &[&wrong]].concat()).await;
        assert_eq!(output.code, Some(1));
        let expected = format!("error: {wrong}, line 3: unknown variant `boss`");
        assert!(output.stderr.starts_with(&expected), "{}", output.stderr);
    }
}

#[apply(test!)]
async fn a_server_that_others_can_reach_warns_and_logs_no_token() {
    let principals = file("principals.toml");
    for pair in [pair!("tcp_socket"), pair!("http_rest"), pair!("websocket"), pair!("grpc")] {
        let open = Server::start(pair.server, &["--addr", "0.0.0.0:0"]).await;
        let printed = open.stop().await;
        assert_eq!(printed.matches("add --tls and --principals").count(), 1, "{printed}");

        let server =
            Server::start(pair.server, &["--addr", "127.0.0.1:0", "--principals", &principals]).await;
        let call = match pair.chapter {
            "http_rest" => &["record", "rome-7", "wind", "7"][..],
            _ => &["record", "rome-7", "wind", "7"],
        };
        let token_file = file("oslo-1.token");
        let client = pair.client(&server, &[call, &["--token-file", &token_file]].concat()).await;
        assert_eq!(client.code, Some(1), "{}", client.stdout);
        // In one line, the program says what it was refused.
        assert_eq!(client.stderr.lines().count(), 1, "{}", client.stderr);
        let why = "oslo-1 is a station and may not record readings of other stations";
        assert!(client.stderr.contains(why), "{}", client.stderr);
        let printed = server.stop().await;
        assert!(!printed.contains("WARN") && !printed.contains(&token("oslo-1")), "{printed}");
    }
}

#[apply(test!)]
async fn a_new_token_is_shown_once_with_its_entry() {
    let lab = env!("CARGO_BIN_EXE_lab-under-test");
    let output = run_program(lab, &["certificates", "--token", "rome-7", "--role", "reader"]).await;
    assert_eq!((output.code, output.stderr.as_str()), (Some(0), ""));
    let shown = output.stdout.lines().find(|line| line.starts_with("wst_")).unwrap();
    assert_eq!((shown.len(), output.stdout.matches(shown).count()), (68, 1));
    let entry = &output.stdout[output.stdout.find("[[principal]]").unwrap()..];
    let principals = Principals::parse(entry).unwrap();
    let found = principals.by_token(shown.as_bytes()).unwrap();
    assert_eq!((found.name.as_str(), found.role), ("rome-7", Role::Reader));
    assert!(principals.by_token(&shown.as_bytes()[..67]).is_none());
    assert!(!format!("{principals:?}").contains(&found.token_sha256.as_ref().unwrap().to_string()));
}

/// A measurement of time would fail by chance. So this looks at how tokens are compared.
#[apply(test!)]
async fn tokens_are_compared_in_constant_time() {
    let source = include_str!("../../../tcp_socket/src/base/principals.rs");
    let start = source.find("pub fn by_token").unwrap();
    let body = &source[start..start + source[start..].find("\n    }\n").unwrap()];
    assert!(body.contains("Hash::of(token)") && body.contains(".ct_eq(&hash.0)"), "{body}");
    for early in ["return", "break", "find", "any(", "==", "?"] {
        assert!(!body.contains(early), "{early} could end the comparison early: {body}");
    }
    assert_eq!(source.matches("ct_eq(").count(), 1);
}

#[apply(test!)]
async fn guesses_over_grpc_cost_connections() {
    let server = Chapter::Grpc.start(Mode::Checked).await;
    // A client of our own would connect again.
    let stream = tokio::net::TcpStream::connect(&server.addr).await.unwrap();
    let (mut calls, connection) = h2::client::handshake(stream).await.unwrap();
    let ended = tokio::spawn(connection);
    let mut refused = 0;
    loop {
        let call = http::Request::post("http://localhost/weather.v1.WeatherService/Record")
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .header("authorization", "Bearer wst_wrong");
        let Ok((response, _body)) = calls.send_request(call.body(()).unwrap(), true) else { break };
        let Ok(response) = response.await else { break };
        assert_eq!(response.headers()["grpc-status"], "16", "UNAUTHENTICATED");
        refused += 1;
        assert!(refused < 200, "no bound");
        if calls.clone().ready().await.is_err() {
            break;
        }
    }
    assert!((100..=102).contains(&refused), "{refused}");
    let _ = ended.await.unwrap();
    server.stop().await;
}

#[apply(test!)]
async fn the_document_shows_the_table() {
    let document = include_str!("../../../docs/security.md");
    for operation in Operation::ALL {
        let cell = |role| if operation.roles().contains(&role) { "yes" } else { "no" };
        let [reader, station, operator] = [Role::Reader, Role::Station, Role::Operator].map(cell);
        let row = format!("| {} | {reader} | {station} | {operator} |", operation.words());
        assert!(document.contains(&row), "{row}");
    }
}

#[apply(test!)]
async fn a_token_is_the_password_of_a_broker_url_with_a_user() {
    use message_queue::address::BrokerUrl;
    let options = crate::chapters::with_token("oslo-1");
    let url =
        BrokerUrl::with_tls("redis://oslo-1@127.0.0.1:1,redis://oslo-1:x@127.0.0.1:2", &options).unwrap();
    assert_eq!(url.to_string(), "redis://127.0.0.1:1,redis://127.0.0.1:2", "no login is shown");
    assert!(format!("{url:?}").contains(&format!("oslo-1:{}@", token("oslo-1"))));
    let error = BrokerUrl::with_tls("redis://127.0.0.1:1", &options).unwrap_err();
    assert!(error.to_string().starts_with("--token-file needs a URL with a user"), "{error}");
}
