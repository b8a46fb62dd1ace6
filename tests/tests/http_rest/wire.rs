//! The README shows messages as they travel, and these tests compare them with real ones.

use futures::future::join;
use regex::Regex;
use tests::{apply, run_program, test};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};

use crate::PAIR;
use crate::raw::until;

/// Returns the request and the response under "On the wire", without the explanations.
fn messages_in_the_readme() -> [String; 2] {
    let readme = include_str!("../../../http_rest/README.md");
    let mut blocks = readme.split("## On the wire").nth(1).unwrap().split("```text\n").skip(1);
    [(); 2].map(|()| {
        let block = blocks.next().unwrap().split("\n```").next().unwrap();
        let lines: Vec<_> = block.lines().map(|line| line.split('←').next().unwrap().trim_end()).collect();
        lines.join("\r\n")
    })
}

/// Returns the lines without the values that differ from run to run. The order of headers
/// has no meaning (RFC 9110, section 5.3), so the lines are sorted.
fn comparable(message: &str) -> Vec<String> {
    let varying = Regex::new(r#"(idempotency-key: |host: |date: |"recorded_at":)[^\r}]*"#).unwrap();
    let mut lines: Vec<_> = varying.replace_all(message, "$1…").lines().map(str::to_owned).collect();
    lines.sort();
    lines
}

#[apply(test!)]
async fn the_readme_shows_the_messages_that_are_sent() {
    let [request, response] = messages_in_the_readme();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let args = ["record", "oslo-1", "temperature", "-3.5", "--url", &url];
    let client = async { run_program(PAIR.client, &args).await };
    let server = PAIR.serve().await;
    let proxy = async {
        let (mut client, _) = listener.accept().await.unwrap();
        let sent = until(&mut client, "}]}").await;
        assert_eq!(comparable(&sent), comparable(&request));
        let mut server = TcpStream::connect(server.addr()).await.unwrap();
        server.write_all(request.as_bytes()).await.unwrap();
        let received = until(&mut server, "}").await;
        assert_eq!(comparable(&received), comparable(&response));
        client.write_all(response.as_bytes()).await.unwrap();
    };
    let (client, ()) = join(client, proxy).await;
    assert_eq!(client.stdout, "accepted 1\n", "{}", client.stderr);
    server.stop().await;
}
