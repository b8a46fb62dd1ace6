//! The client program in a terminal: what it shows, and how it ends.

use std::process::Stdio;
use std::time::Duration;

use futures::StreamExt;
use serde_json::{Value, json};
use tests::signal::{Pid, Signal, kill};
use tests::{Server, apply, test};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, Command};
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;
use websocket::Metric;
use websocket::client::{ChatEvent, Client};
use websocket::protocol::message::Change;

use crate::PAIR;
use crate::fake::{Fake, Proxy, joined, message, next, request, send};
use crate::live::reading;
use crate::local::{Local, Raw, limits, soon};

/// Returns the lines of a program's stdout or stderr.
fn lines<T: AsyncRead + Unpin>(from: &mut Option<T>) -> Lines<BufReader<T>> {
    BufReader::new(from.take().unwrap()).lines()
}

async fn line<T: AsyncRead + Unpin>(lines: &mut Lines<BufReader<T>>) -> String {
    soon("a line", lines.next_line()).await.unwrap().expect("a line, not the end")
}

fn terminal(args: &[&str], url: &str) -> Child {
    Command::new(PAIR.client)
        .args(args)
        .args(["--url", url])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap()
}

#[apply(test!)]
async fn typed_lines_become_messages_and_the_end_of_input_leaves_the_room() {
    let server = PAIR.serve().await;
    let client = Client::new(server.url());
    let (ben, mut at_ben) = client.chat("lobby", "ben").await.unwrap();
    next(&mut at_ben).await;
    let mut terminal = terminal(&["chat", "--name", "ana"], server.url());
    let mut keyboard = terminal.stdin.take().unwrap();
    let mut screen = lines(&mut terminal.stdout);
    let mut shown = async || line(&mut screen).await;

    assert_eq!(shown().await, "* joined; in the room: ana, ben");
    let joined = ChatEvent::Presence { sequence: 2, name: "ana".to_owned(), change: Change::Joined };
    assert_eq!(next(&mut at_ben).await, joined);
    ben.say("hello ana").await.unwrap();
    next(&mut at_ben).await;
    assert_eq!(shown().await, "3  ben: hello ana");
    keyboard.write_all("hello ben\n\n/who\n".as_bytes()).await.unwrap();
    let mut lines = [shown().await, shown().await];
    lines.sort();
    assert_eq!(lines, ["* in the room: ana, ben", "4  ana: hello ben"]);
    let ChatEvent::Message { text, .. } = next(&mut at_ben).await else { panic!("a message") };
    assert_eq!(text, "hello ben");
    // The last line is still sent, although the input ends right after it.
    keyboard.write_all("goodbye\n".as_bytes()).await.unwrap();
    drop(keyboard);
    let ChatEvent::Message { text, .. } = next(&mut at_ben).await else { panic!("a message") };
    assert_eq!(text, "goodbye");
    let left = ChatEvent::Presence { sequence: 6, name: "ana".to_owned(), change: Change::Left };
    assert_eq!(next(&mut at_ben).await, left);
    assert!(soon("the end", terminal.wait()).await.unwrap().success());
    ben.leave().await;
    client.close().await;
    server.stop().await;
}

#[apply(test!)]
async fn the_live_client_shows_readings_until_it_is_interrupted() {
    let server = PAIR.serve().await;
    let client = Client::new(server.url());
    let mut terminal = terminal(&["live", "--station", "a", "--metric", "wind"], server.url());
    let mut screen = lines(&mut terminal.stdout);
    // Once the first reading is shown, the client has subscribed.
    let shown = tokio::spawn(async move { (line(&mut screen).await, screen) });
    while !shown.is_finished() {
        client
            .record(&[reading("a", Metric::Temperature, 1.0), reading("a", Metric::Wind, 7.2)])
            .await
            .unwrap();
    }
    let (shown, mut screen) = shown.await.unwrap();
    assert_eq!(shown, r#"{"station":"a","metric":"wind","value":7.2,"recorded_at":1767225600000}"#);
    // Interrupt it while readings are still arriving.
    let recording =
        tokio::spawn(async move { while client.record(&[reading("a", Metric::Wind, 7.2)]).await.is_ok() {} });
    kill(Pid::from_raw(terminal.id().unwrap().cast_signed()), Signal::SIGINT).unwrap();
    while soon("the rest", screen.next_line()).await.unwrap().is_some() {}
    assert!(soon("the end", terminal.wait()).await.unwrap().success());
    recording.abort();
    server.stop().await;
}

/// Text from the server must not be able to control the screen.
#[apply(test!)]
async fn the_terminal_client_shows_no_control_characters() {
    let (fake, url) = Fake::start().await;
    let mut terminal = terminal(&["chat", "--name", "ana"], &url);
    let mut socket = fake.accept().await;
    let mut agreed = joined(&request(&mut socket).await, false, 1);
    agreed["present"] = json!(["a\u{1b}[2J"]);
    send(&mut socket, agreed).await;
    let mut hostile = message(2);
    (hostile["name"], hostile["text"]) = (json!("b\u{7}"), json!("\u{1b}[2Jgone\u{9b}"));
    send(&mut socket, hostile).await;
    let mut screen = lines(&mut terminal.stdout);
    for expected in [r"* joined; in the room: a\u001b[2J", r"2  b\u0007: \u001b[2Jgone\u009b"] {
        assert_eq!(line(&mut screen).await, expected);
    }
}

/// Runs a command against a fake server that responds to `record` and `readings` with text that
/// contains control characters. Returns the command's output.
async fn printed_from_a_hostile_server(args: &[&str]) -> String {
    const HOSTILE: &str = "a\u{1b}[2J\u{7}\r\u{9b}2J\u{202e}b";
    let (fake, url) = Fake::start().await;
    let serve = tokio::spawn(async move {
        let mut socket = fake.accept().await;
        let mut recorded = 0;
        while let Some(Ok(Message::Text(text))) = socket.next().await {
            let request: Value = serde_json::from_str(&text).unwrap();
            let id = &request["id"];
            let reading =
                json!({"sequence": 1, "station": HOSTILE, "metric": "wind", "value": 1, "recorded_at": 0});
            let message = match request["type"].as_str().unwrap() {
                "record" if recorded == 0 => json!({"type": "recorded", "id": id, "accepted": 2}),
                "readings" if request["station"] != "refused" => {
                    json!({"type": "readings", "id": id, "readings": [reading]})
                }
                _ => json!({"type": "error", "id": id, "code": "invalid", "reason": HOSTILE}),
            };
            recorded += 1;
            send(&mut socket, message).await;
        }
    });
    let output = tests::run_program(PAIR.client, &[args, &["--url", &url]].concat()).await;
    serve.abort();
    let printed = output.stdout + &output.stderr;
    let hostile = |c: char| c != '\n' && (c.is_control() || c == '\u{202e}');
    assert!(!printed.contains(hostile), "{args:?} {printed:?}");
    printed
}

#[apply(test!)]
async fn no_control_character_from_a_server_reaches_the_terminal() {
    let escaped = r"a\u001b[2J\u0007\r\u009b2J\u202eb";
    let tour = printed_from_a_hostile_server(&[]).await;
    assert!(tour.contains(&format!(r#"   {{"station":"{escaped}","#)), "{tour}");
    assert!(tour.contains(&format!("   error: {escaped}\n")), "{tour}");
    let readings = printed_from_a_hostile_server(&["readings", "a"]).await;
    assert!(readings.starts_with(&format!(r#"{{"station":"{escaped}","#)), "{readings}");
    let refused = printed_from_a_hostile_server(&["readings", "refused"]).await;
    assert_eq!(refused, format!("error: {escaped}\n"));
}

#[apply(test!)]
async fn live_reconnects_and_says_what_was_missed() {
    let server = Local::start(limits()).await;
    let proxy = Proxy::start(server.addr.to_string()).await;
    let direct = Client::new(&server.url());
    let record = async |station: &str, count: usize, value: f64| {
        direct.record(&vec![reading(station, Metric::Wind, value); count]).await.unwrap();
    };
    record("old", 3, 1.0).await;
    let mut live = terminal(&["live", "--metric", "wind"], &proxy.url);
    let (mut screen, mut notes) = (lines(&mut live.stdout), lines(&mut live.stderr));
    let shown = |station: &str, value: &str| {
        format!(r#"{{"station":"{station}","metric":"wind","value":{value},"recorded_at":1767225600000}}"#)
    };
    // Once the first reading is shown, the client has subscribed.
    let first = tokio::spawn(async move { (line(&mut screen).await, screen) });
    while !first.is_finished() {
        record("a", 1, 2.0).await;
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let (first, mut screen) = first.await.unwrap();
    assert_eq!(first, shown("a", "2.0"));
    record("a", 1, 3.0).await;
    while line(&mut screen).await != shown("a", "3.0") {}

    let mut again = async || line(&mut notes).await;
    proxy.cut();
    let lost = again().await;
    assert!(lost.starts_with("connection lost: ") && lost.ends_with("; reconnecting"), "{lost}");
    proxy.mend();
    assert_eq!(again().await, "connected again; nothing was missed");

    // The client missed readings of a known station and of a new one.
    proxy.cut();
    assert!(again().await.starts_with("connection lost: "));
    record("a", 2, 4.0).await;
    direct.record(&[reading("new", Metric::Humidity, 50.0)]).await.unwrap(); // Not in the subscription.
    record("new", 1, 5.0).await;
    proxy.mend();
    assert_eq!(again().await, "connected again; here is what was missed");
    for (station, value) in [("a", "4.0"), ("a", "4.0"), ("new", "5.0")] {
        assert_eq!(line(&mut screen).await, shown(station, value));
    }

    // The client can't tell which readings of this station are older than its subscription.
    proxy.cut();
    assert!(again().await.starts_with("connection lost: "));
    record("old", 2, 6.0).await;
    proxy.mend();
    assert_eq!(again().await, "connected again; 2 readings were missed");

    // The client missed more readings than it can read back.
    proxy.cut();
    assert!(again().await.starts_with("connection lost: "));
    record("a", 600, 7.0).await;
    proxy.mend();
    assert_eq!(again().await, "connected again; here is what was missed, except for 100 readings");
    for _ in 0..500 {
        assert_eq!(line(&mut screen).await, shown("a", "7.0"));
    }
    record("a", 1, 8.0).await;
    assert_eq!(line(&mut screen).await, shown("a", "8.0"));

    kill(Pid::from_raw(live.id().unwrap().cast_signed()), Signal::SIGINT).unwrap();
    assert!(soon("the end", live.wait()).await.unwrap().success());
    direct.close().await;
    server.stop().await;
}

#[apply(test!)]
async fn the_terminal_client_reports_a_restarted_server() {
    let server = PAIR.serve().await;
    let addr = server.addr().to_owned();
    let mut live = terminal(&["live"], server.url());
    let mut chat = terminal(&["chat", "--name", "ana"], server.url());
    let (mut live_notes, mut chat_notes) = (lines(&mut live.stderr), lines(&mut chat.stderr));
    let (mut readings, mut screen) = (lines(&mut live.stdout), lines(&mut chat.stdout));
    assert_eq!(line(&mut screen).await, "* joined; in the room: ana");
    // Once `live` shows a reading, it has subscribed.
    let client = Client::new(server.url());
    let subscribed = async {
        while timeout(Duration::from_millis(50), line(&mut readings)).await.is_err() {
            client.record(&[reading("a", Metric::Wind, 1.0)]).await.unwrap();
        }
    };
    soon("a reading", subscribed).await;
    client.close().await;
    server.stop().await;
    let lost =
        "connection lost: the server closed the connection with 1001: the server is stopping; reconnecting";
    assert_eq!(line(&mut live_notes).await, lost);
    assert_eq!(line(&mut chat_notes).await, lost);
    let server = Server::start(PAIR.server, &["--addr", &addr]).await;
    assert_eq!(
        line(&mut live_notes).await,
        "connected again; the server restarted and has forgotten earlier readings"
    );
    assert_eq!(
        line(&mut chat_notes).await,
        "connected again; the server restarted and has forgotten earlier messages"
    );
    assert_eq!(line(&mut screen).await, "* in the room: ana");
    for program in [&mut live, &mut chat] {
        kill(Pid::from_raw(program.id().unwrap().cast_signed()), Signal::SIGINT).unwrap();
        assert!(soon("the end", program.wait()).await.unwrap().success());
    }
    server.stop().await;
}

/// The program exits if a new connection would only fail with the same error.
#[apply(test!)]
async fn the_terminal_client_exits_when_reconnecting_cannot_help() {
    let rejections = [
        "HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n",
        "HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n",
        "220 mail.example ESMTP\r\n",
    ];
    for (index, rejection) in rejections.into_iter().enumerate() {
        let (fake, url) = Fake::start().await;
        let command: &[&str] = if index == 1 { &["chat", "--name", "ana"] } else { &["live"] };
        let mut program = terminal(command, &url);
        let mut notes = lines(&mut program.stderr);
        drop(fake.agree().await);
        // The client tries again if the server is only busy, or breaks the connection.
        for response in ["HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n", "", rejection] {
            fake.respond(response).await;
        }
        assert!(line(&mut notes).await.starts_with("connection lost: "));
        let end = line(&mut notes).await;
        assert!(end.starts_with("error: the handshake failed: "), "{end}");
        assert_eq!(soon("the end", program.wait()).await.unwrap().code(), Some(1));
    }
}

/// This happens, for example, in `client … | head -1`.
#[apply(test!)]
async fn the_terminal_client_exits_silently_when_its_output_is_closed() {
    let server = PAIR.serve().await;
    let client = Client::new(server.url());
    let batch = vec![reading("a", Metric::Wind, 1.0); 500];
    client.record(&batch).await.unwrap();
    for command in [&[][..], &["readings", "a", "--limit", "500"], &["live"], &["chat", "--name", "ana"]] {
        let mut program = terminal(command, server.url());
        let stdout = program.stdout.take();
        // `live` shows nothing until somebody records a reading. A program notices that its output
        // is closed only when it writes again.
        let busy = tokio::spawn({
            let (client, batch) = (client.clone(), batch[..1].to_vec());
            async move {
                let (chat, mut events) = client.chat("lobby", "ben").await.unwrap();
                tokio::spawn(async move { while events.next().await.is_some() {} });
                loop {
                    client.record(&batch).await.unwrap();
                    chat.say("hello").await.unwrap();
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            }
        });
        let mut stdout = lines(&mut { stdout });
        line(&mut stdout).await;
        drop(stdout);
        let ended = soon("the end", program.wait_with_output()).await.unwrap();
        busy.abort();
        assert_eq!((ended.status.code(), ended.stderr.as_slice()), (Some(0), &b""[..]), "{command:?}");
    }
    client.close().await;
    server.stop().await;
}

/// The first Ctrl-C starts a close handshake, which the peer never completes.
#[apply(test!)]
async fn a_second_ctrl_c_ends_the_programs_at_once() {
    for command in [&["live"][..], &["chat", "--name", "ana"]] {
        let (fake, url) = Fake::start().await;
        let mut program = terminal(command, &url);
        let mut socket = fake.agree().await;
        let reading = json!({"type": "reading", "sequence": 1, "station": "a", "metric": "wind", "value": 1, "recorded_at": 0});
        send(&mut socket, reading).await;
        send(&mut socket, message(2)).await;
        let mut screen = lines(&mut program.stdout);
        line(&mut screen).await; // By now, the signal handlers are installed.
        interrupt_twice(&mut program).await;
    }
    let server = PAIR.serve().await;
    let _holds_on = Raw::open(server.addr().parse().unwrap(), "/chat").await;
    let pid = Pid::from_raw(server.pid().cast_signed());
    kill(pid, Signal::SIGINT).unwrap();
    server.has_printed("stopping").await;
    kill(pid, Signal::SIGINT).unwrap();
    assert_eq!(server.exit_code().await, Some(130));
}

async fn interrupt_twice(program: &mut Child) {
    let pid = Pid::from_raw(program.id().unwrap().cast_signed());
    kill(pid, Signal::SIGINT).unwrap();
    // The kernel may merge two signals in a row into one.
    let again = async {
        loop {
            if let Ok(ended) = timeout(Duration::from_millis(20), program.wait()).await {
                return ended.unwrap();
            }
            let _ = kill(pid, Signal::SIGINT);
        }
    };
    assert_eq!(soon("the end", again).await.code(), Some(130));
}
