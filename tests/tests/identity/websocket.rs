//! Tickets, and the close codes of refusals.

use futures::StreamExt;
use tests::{apply, test};
use tokio_tungstenite::connect_async;
use tokio_tungstenite::tungstenite::Message;

use crate::chapters::{Chapter, Mode, Running, token};

/// Asks for a ticket. Returns the status and the body.
async fn ticket(server: &Running, token: Option<&str>) -> (u16, String) {
    let mut request = reqwest::Client::new().post(format!("{}/ticket", server.url));
    if let Some(token) = token {
        request = request.bearer_auth(token);
    }
    let response = request.send().await.unwrap();
    (response.status().as_u16(), response.text().await.unwrap())
}

/// Opens a WebSocket, and returns the first message, or the code and reason of the close frame.
async fn open(server: &Running, path: &str, first: &str) -> Result<String, (u16, String)> {
    let (mut socket, _response) = connect_async(format!("ws://{}{path}", server.addr)).await.unwrap();
    let _ = futures::SinkExt::send(&mut socket, Message::text(first)).await; // It may be closed already.
    loop {
        match socket.next().await.unwrap().unwrap() {
            Message::Text(text) if !text.contains("heartbeat") => return Ok(text.to_string()),
            Message::Close(frame) => {
                let frame = frame.unwrap();
                return Err((frame.code.into(), frame.reason.to_string()));
            }
            _ => {}
        }
    }
}

const SUBSCRIBE: &str = r#"{"type":"subscribe","id":1}"#;

#[apply(test!)]
async fn a_ticket_opens_one_connection() {
    let server = Chapter::WebSocket.start(Mode::Checked).await;
    let (status, issued) = ticket(&server, Some(&token("reader"))).await;
    assert_eq!((status, issued.len()), (200, 32));
    let path = format!("/live?ticket={issued}");
    assert!(open(&server, &path, SUBSCRIBE).await.unwrap().contains("subscribed"));
    let reused = open(&server, &path, SUBSCRIBE).await.unwrap_err();
    assert_eq!(reused, (4401, "this ticket is unknown, used, or too old".into()));
    // The ticket carries the role of its caller.
    let (_, issued) = ticket(&server, Some(&token("reader"))).await;
    let chat = open(&server, &format!("/chat?ticket={issued}"), "").await.unwrap_err();
    assert_eq!(chat, (4403, "reader is a reader and may not join the chat".into()));
    server.stop().await;
}

#[apply(test!)]
async fn strangers_get_no_ticket_and_close_code_4401() {
    let server = Chapter::WebSocket.start(Mode::Checked).await;
    for wrong in [None, Some("wst_wrong"), Some(&*token("nobody"))] {
        assert_eq!(ticket(&server, wrong).await.0, 401, "{wrong:?}");
    }
    for path in ["/live", "/chat", "/live?ticket=", "/live?ticket=0123456789abcdef0123456789abcdef"] {
        assert_eq!(open(&server, path, SUBSCRIBE).await.unwrap_err().0, 4401, "{path}");
    }
    // The page itself is open to everybody: it asks for the token.
    assert!(reqwest::get(&server.url).await.unwrap().text().await.unwrap().contains("Your token"));
    server.stop().await;
    let open_server = Chapter::WebSocket.start(Mode::Open).await;
    assert_eq!(ticket(&open_server, Some("wst_x")).await.0, 404);
    assert!(open(&open_server, "/live?ticket=x", SUBSCRIBE).await.is_ok());
    open_server.stop().await;
}
