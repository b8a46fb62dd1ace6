//! The contract of the WebSocket chapter.

use futures::channel::mpsc::unbounded;
use futures::{FutureExt, SinkExt, StreamExt};
use lab::wire::decode::Format;
use tokio::net::TcpStream;
use tokio::select;
use tokio::time::timeout;
use tokio_tungstenite::client_async;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_util::task::AbortOnDropHandle;

use super::messages::{Channel, messages};
use super::script::{SOON, stages};
use super::{Checked, Contract, wrong};

pub(super) fn contract() -> Contract {
    let text = include_str!("../../exercises/contracts/websocket.txt");
    let stages = stages(text, |lines, tested| {
        messages(lines, tested.addr, |addr, path| open(addr, path).boxed_local()).boxed_local()
    });
    let document = "websocket/README.md and tests/exercises/contracts/websocket.txt";
    Contract { name: "websocket", format: Format::WebSocket, document, stages }
}

/// Opens a connection, or returns the status of the response that refuses it.
async fn open(addr: String, path: String) -> Checked<Result<Channel, u16>> {
    let Ok(stream) = TcpStream::connect(&addr).await else { return wrong("a connection", "none") };
    let mut socket = match timeout(SOON, client_async(format!("ws://{addr}{path}"), stream)).await {
        Ok(Ok((socket, _response))) => socket,
        Ok(Err(Error::Http(response))) => return Ok(Err(response.status().as_u16())),
        Ok(Err(error)) => return wrong("a handshake", error),
        Err(_) => return wrong("a handshake", format!("nothing within {SOON:?}")),
    };
    let (send, mut to_server) = unbounded::<String>();
    let (arrived, receive) = unbounded();
    let task = tokio::spawn(async move {
        loop {
            let got = select! {
                Some(text) = to_server.next() => {
                    let _ = socket.send(Message::text(text)).await;
                    continue;
                }
                got = socket.next() => got,
            };
            let text = match got {
                Some(Ok(Message::Text(text))) => text.to_string(),
                Some(Ok(Message::Close(frame))) => {
                    format!("close {}", frame.map_or(1005, |frame| frame.code.into()))
                }
                Some(Ok(_)) => continue,
                Some(Err(error)) => error.to_string(),
                None => return,
            };
            let _ = arrived.unbounded_send(text);
        }
    });
    Ok(Ok(Channel { send: Some(send), receive, _task: AbortOnDropHandle::new(task) }))
}
