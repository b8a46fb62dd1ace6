//! A proxy between client and server that forwards byte by byte or cuts the connection.

use tcp_socket::protocol::handshake::{HELLO, WELCOME};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// What a proxy does to the connections that go through it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Fault {
    None,
    /// Forwards each byte in a separate write.
    ByteByByte,
    /// Ends the connection when the server's first frame has arrived here.
    CutBeforeReply,
    /// Ends the connection when the client's first frame has arrived here.
    CutBeforeRequest,
}

/// A proxy on its own port. A test can change where it leads and what it does.
pub struct Proxy {
    pub addr: String,
    pub leads_to: watch::Sender<(String, Fault)>,
}

impl Proxy {
    pub async fn start(server: &str, fault: Fault) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap().to_string();
        let (leads_to, now) = watch::channel((server.to_owned(), fault));
        let cut = leads_to.clone();
        tokio::spawn(async move {
            loop {
                let (client, _) = listener.accept().await.unwrap();
                let (server, fault) = now.borrow().clone();
                let cut = cut.clone();
                tokio::spawn(async move {
                    if let Ok(server) = TcpStream::connect(server).await {
                        forward(client, server, fault).await;
                        // It cuts only once and forwards the next connection normally.
                        if matches!(fault, Fault::CutBeforeReply | Fault::CutBeforeRequest) {
                            cut.send_modify(|(_, fault)| *fault = Fault::None);
                        }
                    }
                });
            }
        });
        Self { addr, leads_to }
    }
}

async fn forward(client: TcpStream, server: TcpStream, fault: Fault) {
    client.set_nodelay(true).unwrap();
    server.set_nodelay(true).unwrap();
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    // The handshake always passes.
    let up = pump(from_client, to_server, fault, Fault::CutBeforeRequest, HELLO);
    let down = pump(from_server, to_client, fault, Fault::CutBeforeReply, WELCOME);
    tokio::select! {
        () = up => {}
        () = down => {}
    }
}

async fn pump(
    mut from: impl AsyncReadExt + Unpin,
    mut to: impl AsyncWriteExt + Unpin,
    fault: Fault,
    cuts_here: Fault,
    handshake: usize,
) {
    let mut passed = 0;
    let mut buffer = [0; 4096];
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        if fault == cuts_here && passed + count > handshake {
            return;
        }
        passed += count;
        let size = if fault == Fault::ByteByByte { 1 } else { count };
        for piece in buffer[..count].chunks(size) {
            if to.write_all(piece).await.is_err() {
                return;
            }
            tokio::task::yield_now().await;
        }
    }
}
