//! The beginning of a server for the WebSocket chapter: it does the handshake and echoes messages.
//!
//! cargo build --bin starter-websocket
//! cargo run --bin check -- websocket --server 'target/debug/starter-websocket {addr}'
use futures::{SinkExt, StreamExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::accept_hdr_async;
use tokio_tungstenite::tungstenite::Error;
use tokio_tungstenite::tungstenite::handshake::server::{ErrorResponse, Request, Response};
use tokio_tungstenite::tungstenite::http::StatusCode;

async fn serve(stream: TcpStream) -> Result<(), Error> {
    let mut path = String::new();
    #[allow(clippy::result_large_err, reason = "tungstenite wants this type")]
    let choose = |request: &Request, response: Response| {
        request.uri().path().clone_into(&mut path);
        if ["/echo", "/live", "/chat"].contains(&path.as_str()) {
            return Ok(response);
        }
        let mut refused = ErrorResponse::new(None);
        *refused.status_mut() = StatusCode::NOT_FOUND;
        Err(refused)
    };
    let mut socket = accept_hdr_async(stream, choose).await?;
    while let Some(message) = socket.next().await {
        let message = message?;
        if path == "/echo" && message.is_text() {
            socket.send(message).await?; // Your part: answer the requests at /live and /chat.
        }
    }
    Ok(())
}

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let listener = TcpListener::bind(std::env::args().nth(1).expect("an address")).await?;
    loop {
        let (stream, _) = listener.accept().await?;
        tokio::spawn(serve(stream));
    }
}
