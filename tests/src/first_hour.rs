//! What a newcomer meets first, alike in every chapter that has an address of its own.

use crate::{Pair, nobody, run_program};

impl Pair {
    /// The client without a server: one line that says how to start one, and no step of
    /// the tour. `scheme` is that of the chapter's addresses; of `commands` the empty
    /// one is the tour.
    pub async fn client_says_how_to_start_a_server(&self, scheme: &str, commands: &[&[&str]]) {
        let (_bound, addr) = nobody();
        let url = format!("{scheme}://{addr}");
        let start = format!("cargo run -p {} --bin server", self.chapter);
        for command in commands {
            let client = run_program(self.client, &[command, &["--url", &url][..]].concat()).await;
            assert_eq!((client.code, client.stdout.as_str()), (Some(1), ""), "{command:?}");
            assert_eq!(client.stderr, format!("error: no server at {url}; start one with: {start}\n"));
        }
    }

    /// The client with an address of another protocol: one line that says which form
    /// its own have.
    pub async fn client_refuses_another_protocol(&self, scheme: &str, commands: &[&[&str]]) {
        let other = if scheme == "tcp" { "http://host:1" } else { "tcp://host:1" };
        for command in commands {
            let client = run_program(self.client, &[command, &["--url", other][..]].concat()).await;
            assert_eq!(client.code, Some(1), "{command:?}");
            assert_eq!(client.stderr, format!("error: {other:?} is not of the form {scheme}://host:port\n"));
        }
    }

    /// A server whose port is taken prints one line. It contains a complete command that
    /// picks another port, and how to tell the client.
    pub async fn server_says_how_to_pick_another_port(&self) {
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = taken.local_addr().unwrap().to_string();
        let server = run_program(self.server, &["--addr", &addr]).await;
        assert_eq!((server.code, server.stdout.as_str()), (Some(1), ""));
        let hint = format!(
            "; for a free port run: cargo run -p {} --bin server -- --addr 127.0.0.1:0 \
             (it prints its address; give that to the client with --url)\n",
            self.chapter
        );
        assert!(server.stderr.starts_with(&format!("error: cannot listen on {addr}: ")), "{}", server.stderr);
        assert!(server.stderr.ends_with(&hint), "{}", server.stderr);
        assert_eq!(server.stderr.lines().count(), 1);
    }
}

/// The fields of a chapter's `Limits` and their values, from its `Debug` output. Those of
/// the limits that all chapters share are among them.
pub fn limit_fields(limits: &str) -> Vec<(&str, &str)> {
    let pairs = limits.split(['{', '}', ',']).filter_map(|part| part.trim().split_once(": "));
    pairs.filter(|(_name, value)| value.starts_with(|c: char| c.is_ascii_digit())).collect()
}
