//! The real binaries.

use tests::{assert_same, expected_output};

use crate::PAIR;

pub async fn the_pair_prints_what_the_readme_shows() {
    let server = PAIR.serve().await;
    let client = PAIR.client(&server, &[]).await;
    assert_eq!(client.code, Some(0), "{}", client.stderr);
    assert_same(
        &client.stdout,
        &expected_output("http_rest/README.md", "cargo run -p http_rest --bin client"),
    );
    let printed = server.stop().await;
    assert_same(&printed, &expected_output("http_rest/README.md", "cargo run -p http_rest --bin server"));
}

pub async fn a_client_without_a_server_says_how_to_start_one() {
    PAIR.client_says_how_to_start_a_server("http", &[&[], &["stations", "list"]]).await;
}

pub async fn a_server_without_its_port_says_how_to_pick_another() {
    PAIR.server_says_how_to_pick_another_port().await;
}

pub async fn an_address_of_another_protocol_is_refused_by_the_client() {
    PAIR.client_refuses_another_protocol("http", &[&[], &["stations", "list"]]).await;
}

pub async fn the_subcommands_do_one_thing_each() {
    let server = PAIR.serve().await;
    let steps: [(&[&str], &str); 9] = [
        (
            &["stations", "create", "rim", "Rim", "--latitude", "-1.5"],
            r#"{"id":"rim","name":"Rim","latitude":-1.5,"longitude":null}"#,
        ),
        (&["record", "rim", "temperature", "-3.5"], "accepted 1"),
        (&["record", "rim", "wind", "2"], "accepted 1"),
        (&["readings", "rim", "--limit", "1"], r#"{"station":"rim","metric":"wind","value":2.0,"#),
        (
            &["readings", "rim", "--metric", "temperature"],
            r#"{"station":"rim","metric":"temperature","value":-3.5,"#,
        ),
        (
            &["stations", "update", "rim", "--name", "Edge"],
            r#"{"id":"rim","name":"Edge","latitude":-1.5,"longitude":null}"#,
        ),
        (&["stations", "get", "rim"], r#"{"id":"rim","name":"Edge","latitude":-1.5,"longitude":null}"#),
        (&["stations", "list"], r#"{"id":"rim","name":"Edge","latitude":-1.5,"longitude":null}"#),
        (&["stations", "delete", "rim"], "deleted"),
    ];
    for (args, expected) in steps {
        let client = PAIR.client(&server, args).await;
        assert_eq!(client.code, Some(0), "{args:?}: {}", client.stderr);
        assert!(client.stdout.starts_with(expected), "{args:?}: {}", client.stdout);
    }
    let gone = PAIR.client(&server, &["stations", "get", "rim"]).await;
    assert_eq!(gone.code, Some(1));
    assert_eq!(gone.stderr, "error: 404 Not Found: no station \"rim\"\n");
    server.stop().await;
}
