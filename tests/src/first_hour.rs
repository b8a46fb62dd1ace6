//! Checks what the programs print when newcomers make the usual first mistakes. These are the same
//! in each chapter whose server has its own address.

use crate::{Pair, run_program, unused_address};

impl Pair {
    /// Checks that the client without a server prints one line, which says how to start one, and no
    /// step of the tour. `scheme` is the scheme of the chapter's addresses. An empty command in
    /// `commands` is the tour.
    pub async fn client_says_how_to_start_a_server(&self, scheme: &str, commands: &[&[&str]]) {
        let (_bound, addr) = unused_address();
        let url = format!("{scheme}://{addr}");
        let start = format!("cargo run -p {} --bin server", self.chapter);
        for command in commands {
            let client = run_program(self.client, &[command, &["--url", &url][..]].concat()).await;
            assert_eq!((client.code, client.stdout.as_str()), (Some(1), ""), "{command:?}");
            assert_eq!(client.stderr, format!("error: no server at {url}; start one with: {start}\n"));
        }
    }

    /// Checks that the client, when it gets the address of another protocol, prints one line that
    /// shows the form of its own addresses.
    pub async fn client_refuses_another_protocol(&self, scheme: &str, commands: &[&[&str]]) {
        let other = if scheme == "tcp" { "http://host:1" } else { "tcp://host:1" };
        for command in commands {
            let client = run_program(self.client, &[command, &["--url", other][..]].concat()).await;
            assert_eq!(client.code, Some(1), "{command:?}");
            assert_eq!(client.stderr, format!("error: {other:?} is not of the form {scheme}://host:port\n"));
        }
    }

    /// Checks that a server whose port is taken prints one line. The line has a complete command
    /// that picks another port, and says how to give the address to the client.
    pub async fn server_says_how_to_pick_another_port(&self) {
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = taken.local_addr().unwrap().to_string();
        let server = run_program(self.server, &["--addr", &addr]).await;
        assert_eq!((server.code, server.stdout.as_str()), (Some(1), ""));
        let hint = format!(
            "; to use a free port, run: cargo run -p {} --bin server -- --addr 127.0.0.1:0 \
             (it prints its address; give that to the client with --url)\n",
            self.chapter
        );
        assert!(server.stderr.starts_with(&format!("error: cannot listen on {addr}: ")), "{}", server.stderr);
        assert!(server.stderr.ends_with(&hint), "{}", server.stderr);
        assert_eq!(server.stderr.lines().count(), 1);
    }
}

/// Returns the fields of a chapter's `Limits` and their values, from its `Debug` output. They
/// include the limits that all chapters share.
pub fn limit_fields(limits: &str) -> Vec<(&str, &str)> {
    let pairs = limits.split(['{', '}', ',']).filter_map(|part| part.trim().split_once(": "));
    pairs.filter(|(_name, value)| value.starts_with(|c: char| c.is_ascii_digit())).collect()
}
