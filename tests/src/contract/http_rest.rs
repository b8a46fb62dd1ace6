//! The contract of the HTTP chapter: how its script is run.

use futures::FutureExt;
use lab::wire::decode::Format;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::script::{Lines, Names, SOON, json, stages};
use super::{Checked, Contract, wrong};

pub(super) fn contract() -> Contract {
    let text = include_str!("../../exercises/contracts/http_rest.txt");
    let stages = stages(text, |lines, tested| http(lines, tested.addr).boxed_local());
    let document = "http_rest/README.md and tests/exercises/contracts/http_rest.txt";
    Contract { name: "http_rest", format: Format::HttpRest, document, stages }
}

/// Sends the requests, each on a connection of its own, and checks the responses.
async fn http(lines: Lines, addr: String) -> Checked {
    let mut names = Names::new();
    let (mut request, mut head, mut body) = (Vec::new(), String::new(), String::new());
    for line in lines {
        let (sign, line) = line.split_once(' ').unwrap_or((line, ""));
        if sign == ">" {
            request.push(names.fill(line));
            continue;
        }
        if !request.is_empty() {
            (head, body) = exchange(&addr, &std::mem::take(&mut request)).await?;
        }
        let header = |name: &str| {
            let mut fields = head.lines().skip(1).filter_map(|field| field.split_once(':'));
            fields.find(|(field, _)| field.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
        };
        let (good, got) = if line == "empty" {
            (body.is_empty(), body.clone())
        } else if let Some(wanted) = json(&names.fill(line)).filter(Value::is_object) {
            (json(&body).is_some_and(|got| names.contains(&wanted, &got)), body.clone())
        } else if let Some(name) = line.strip_prefix("no ") {
            (header(name).is_none(), format!("{name}: {}", header(name).unwrap_or_default()))
        } else if let Some((name, wanted)) = line.split_once(": ") {
            let got = header(name);
            (
                got.is_some_and(|got| names.matches(wanted, got)),
                format!("{name}: {}", got.unwrap_or("(no such header)")),
            )
        } else {
            let got = head.split(' ').nth(1).unwrap_or_default();
            (got == line, format!("status {got} {body}"))
        };
        if !good {
            return wrong(names.fill(line), got);
        }
    }
    Ok(())
}

/// Sends a request: its first line, its headers, and its body. Returns head and body of the response.
async fn exchange(addr: &str, request: &[String]) -> Checked<(String, String)> {
    let is_header = |line: &&String| !line.starts_with('{') && line.contains(": ");
    let headers: String = request[1..].iter().filter(is_header).map(|line| format!("{line}\r\n")).collect();
    let body = request[1..].last().filter(|line| !is_header(line)).map_or("", String::as_str);
    let (first, length) = (&request[0], body.len());
    let text = format!(
        "{first} HTTP/1.1\r\nhost: {addr}\r\nconnection: close\r\ncontent-length: {length}\r\n{headers}\r\n{body}"
    );
    let exchange = async {
        let mut stream = TcpStream::connect(addr).await?;
        stream.write_all(text.as_bytes()).await?;
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).await.map(|_| String::from_utf8_lossy(&bytes).into_owned())
    };
    match timeout(SOON, exchange).await {
        Ok(Ok(response)) => match response.split_once("\r\n\r\n") {
            Some((head, body)) => Ok((head.to_owned(), body.to_owned())),
            None => wrong("a response", "no complete header"),
        },
        Ok(Err(error)) => wrong("a response", error),
        Err(_) => wrong("a response, then the end of the stream", format!("not both within {SOON:?}")),
    }
}
