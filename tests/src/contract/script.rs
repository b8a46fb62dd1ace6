//! Contracts that are written as text, in `tests/exercises/contracts/`. Each file first explains its
//! lines.

use std::collections::HashMap;
use std::sync::LazyLock;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::{FutureExt, SinkExt, StreamExt};
use lab::wire::decode::Format;
use regex::{Captures, Regex};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{WebSocketStream, client_async};

use super::{Case, Checked, Contract, Stage, wrong};

/// Time within which a server has to respond.
const SOON: Duration = Duration::from_secs(5);

type Lines = Vec<&'static str>;

type Run = fn(Lines, String) -> BoxFuture<'static, Checked>;

pub(super) fn http_rest() -> Contract {
    let text = include_str!("../../exercises/contracts/http_rest.txt");
    let stages = stages(text, |lines, addr| http(lines, addr).boxed());
    let document = "http_rest/README.md and tests/exercises/contracts/http_rest.txt";
    Contract { chapter: "http_rest", format: Format::HttpRest, document, stages }
}

pub(super) fn websocket() -> Contract {
    let text = include_str!("../../exercises/contracts/websocket.txt");
    let stages = stages(text, |lines, addr| messages(lines, addr).boxed());
    let document = "websocket/README.md and tests/exercises/contracts/websocket.txt";
    Contract { chapter: "websocket", format: Format::WebSocket, document, stages }
}

/// Reads the stages. `do` inserts the lines of a `define`.
fn stages(text: &'static str, run: Run) -> Vec<Stage> {
    let mut defined: HashMap<&str, Lines> = HashMap::new();
    let mut stages: Vec<(&'static str, Vec<(&'static str, Lines)>)> = Vec::new();
    let mut defining = None;
    for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        let lines = match word {
            "define" => {
                defining = Some(rest);
                continue;
            }
            "stage" => {
                stages.push((rest, Vec::new()));
                continue;
            }
            "case" => {
                defining = None;
                stages.last_mut().expect("a case is in a stage").1.push((rest, Vec::new()));
                continue;
            }
            "do" => defined[rest].clone(),
            _ => vec![line],
        };
        match defining {
            Some(name) => defined.entry(name).or_default().extend(lines),
            None => {
                let case = stages.last_mut().and_then(|(_, cases)| cases.last_mut());
                case.expect("a line is in a case").1.extend(lines);
            }
        }
    }
    let case = |(name, lines): (_, Vec<_>)| Case::new(name, move |addr| run(lines.clone(), addr));
    let stage = |(name, cases): (_, Vec<_>)| Stage { name, cases: cases.into_iter().map(case).collect() };
    stages.into_iter().map(stage).collect()
}

/// The values of `{name}` so far.
struct Names(HashMap<String, String>);

impl Names {
    fn new() -> Self {
        Self([("id".to_owned(), format!("check-{:08x}", fastrand::u32(..)))].into())
    }

    /// Returns the text with the values of the names that have one.
    fn fill(&self, text: &str) -> String {
        let value = |name: &Captures<'_>| self.0.get(&name[1]).unwrap_or(&name[0].to_owned()).clone();
        name().replace_all(text, value).into_owned()
    }

    /// Returns whether the text is the wanted one, and gives new names their values.
    fn matches(&mut self, wanted: &str, got: &str) -> bool {
        let pattern = name()
            .replace_all(
                &regex::escape(&self.fill(wanted)).replace(r"\{", "{").replace(r"\}", "}"),
                "(?<$1>.+)",
            )
            .into_owned();
        let pattern = Regex::new(&format!("^{pattern}$"));
        let Some((pattern, found)) = pattern.ok().and_then(|p| Some((p.clone(), p.captures(got)?))) else {
            return false;
        };
        for name in pattern.capture_names().flatten() {
            self.0.insert(name.to_owned(), found[name].to_owned());
        }
        true
    }

    /// Returns whether the value has everything that is wanted. An object may have more members.
    fn contains(&mut self, wanted: &Value, got: &Value) -> bool {
        match (wanted, got) {
            (Value::String(any), _) if any == "*" => !got.is_null(),
            (Value::String(wanted), Value::String(got)) => self.matches(wanted, got),
            (Value::Object(wanted), Value::Object(got)) => wanted
                .iter()
                .all(|(name, wanted)| got.get(name).is_some_and(|got| self.contains(wanted, got))),
            (Value::Array(wanted), Value::Array(got)) => {
                wanted.len() == got.len()
                    && wanted.iter().zip(got).all(|(wanted, got)| self.contains(wanted, got))
            }
            (Value::Number(wanted), Value::Number(got)) => wanted.as_f64() == got.as_f64(),
            _ => wanted == got,
        }
    }
}

fn name() -> &'static Regex {
    static NAME: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"\{([a-z]+)\}").expect("valid"));
    &NAME
}

fn json(text: &str) -> Option<Value> {
    serde_json::from_str(text).ok()
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

/// Sends and receives messages on one or several connections.
async fn messages(lines: Lines, addr: String) -> Checked {
    let mut names = Names::new();
    let mut connections: HashMap<&str, WebSocketStream<TcpStream>> = HashMap::new();
    for line in lines {
        let (word, line) = line.split_once(' ').unwrap_or((line, ""));
        let (connection, text) = (word.trim_end_matches(['>', '<', '=']), names.fill(line));
        if let Some(path) = text.strip_prefix("open ") {
            connections
                .insert(connection, open(&addr, path).await?.or_else(|status| wrong("status 101", status))?);
            continue;
        }
        if let Some((status, path)) = text.strip_prefix("refused ").and_then(|rest| rest.split_once(' ')) {
            let got = open(&addr, path).await?.err().unwrap_or(101).to_string();
            if got != status {
                return wrong(format!("status {status}"), format!("status {got}"));
            }
            continue;
        }
        let socket = connections.get_mut(connection).expect("the script opens it");
        if word.ends_with('>') {
            let _ = socket.send(Message::text(text)).await; // The next line notices a broken connection.
        } else {
            receive(socket, &mut names, line, word.ends_with('=')).await?;
        }
    }
    Ok(())
}

/// Opens a connection, or returns the status of the response that refuses it.
async fn open(addr: &str, path: &str) -> Checked<Result<WebSocketStream<TcpStream>, u16>> {
    let Ok(stream) = TcpStream::connect(addr).await else { return wrong("a connection", "none") };
    match timeout(SOON, client_async(format!("ws://{addr}{path}"), stream)).await {
        Ok(Ok((socket, _response))) => Ok(Ok(socket)),
        Ok(Err(Error::Http(response))) => Ok(Err(response.status().as_u16())),
        Ok(Err(error)) => wrong("a handshake", error),
        Err(_) => wrong("a handshake", format!("nothing within {SOON:?}")),
    }
}

/// Waits for a message. Unless it has to be the next one, others are skipped.
async fn receive(
    socket: &mut WebSocketStream<TcpStream>,
    names: &mut Names,
    line: &str,
    next: bool,
) -> Checked {
    let (wanted, mut skipped) = (names.fill(line), String::new());
    loop {
        let got = match timeout(SOON, socket.next()).await {
            Err(_) => return wrong(wanted, format!("nothing more within {SOON:?}; before: {skipped}")),
            Ok(Some(Ok(Message::Text(text)))) => text.to_string(),
            Ok(Some(Ok(Message::Close(frame)))) => {
                format!("close {}", frame.map_or(1005, |frame| frame.code.into()))
            }
            Ok(Some(Ok(_))) => continue,
            Ok(Some(Err(error))) => return wrong(wanted, error),
            Ok(None) => return wrong(wanted, format!("the end of the stream; before: {skipped}")),
        };
        let message = json(&got);
        let is_wanted = match (json(&wanted), &message) {
            (Some(wanted), Some(got)) => names.contains(&wanted, got),
            _ => wanted == got,
        };
        if is_wanted {
            return Ok(());
        }
        if next && message.as_ref().is_none_or(|message| message["type"] != "heartbeat") {
            return wrong(wanted, got);
        }
        skipped += &format!("{got} ");
    }
}
