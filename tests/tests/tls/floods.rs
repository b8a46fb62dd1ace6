//! Clients that make the work of TLS for a server as large as they can.

use std::io;
use std::time::Duration;

use tests::{Server, apply, test};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::ClientConnection;

use crate::chapters::{CHAPTERS, client_config, file, within};

/// A client that stops after its ClientHello.
async fn stop_halfway(addr: &str) -> TcpStream {
    let mut stream = TcpStream::connect(addr).await.unwrap();
    let mut client = ClientConnection::new(client_config(None), "localhost".try_into().unwrap()).unwrap();
    let mut hello = Vec::new();
    client.write_tls(&mut hello).unwrap();
    stream.write_all(&hello).await.unwrap();
    stream
}

/// A client that reads nothing and repeats this until the server no longer reads or closes.
async fn flood(
    addr: &str,
    alpn: Option<&str>,
    mut next: impl AsyncFnMut(&mut TlsStream<TcpStream>) -> io::Result<()>,
) -> TlsStream<TcpStream> {
    let connector = TlsConnector::from(client_config(alpn));
    let tcp = TcpStream::connect(addr).await.unwrap();
    let mut stream = within(connector.connect("localhost".try_into().unwrap(), tcp)).await.unwrap();
    for _ in 0..1000 {
        let sent = timeout(Duration::from_millis(100), async {
            next(&mut stream).await?;
            stream.flush().await
        });
        if !sent.await.is_ok_and(|sent| sent.is_ok()) {
            break;
        }
    }
    stream
}

/// Returns the resident memory of a process.
fn kilobytes(server: &Server) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

#[apply(test!)]
async fn floods_of_tiny_records_and_key_updates_hold_little_memory() {
    const CLIENTS: usize = 20; // of each kind
    let ca = file("ca.pem");
    for chapter in &CHAPTERS {
        let server = chapter.server("server", &["--handshake-timeout", "120"]).await;
        let addr = server.url().split_once("://").unwrap().1;
        let (first, alpn) = (chapter.request.0, chapter.alpn);
        let call = async || {
            let client = chapter.call(server.url(), &["--ca", &ca]).await;
            assert_eq!(client.code, Some(0), "{}: {}", chapter.pair.chapter, client.stderr);
        };
        call().await;
        let before = kilobytes(&server);
        let clients = futures::future::join_all((0..CLIENTS).map(async |_| {
            let halfway = stop_halfway(addr).await;
            let records = flood(addr, alpn, async |stream| stream.write_all(&first[..1]).await).await;
            let key_updates = flood(addr, alpn, async |stream| {
                stream.get_mut().1.refresh_traffic_keys().map_err(io::Error::other)
            });
            (halfway, records, key_updates.await)
        }));
        let clients = within(clients).await;
        call().await;
        let per_client = kilobytes(&server).saturating_sub(before) / (3 * CLIENTS as u64);
        assert!(per_client < 64, "{}: {per_client} kB", chapter.pair.chapter);
        drop(clients);
        server.stop().await;
    }
}
