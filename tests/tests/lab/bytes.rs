//! Bytes on the wire, against what the layout of each protocol says.

use lab::protocols::{self, INFORMATION};
use lab::proxy::{Bytes, Proxy, count_bytes};
use lab::server::Server;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

pub async fn the_proxy_counts_what_it_forwards() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let proxy = Proxy::start(listener.local_addr().unwrap().to_string()).unwrap();
    let mut client = TcpStream::connect(proxy.address()).await.unwrap();
    let (mut server, _peer) = listener.accept().await.unwrap();
    client.write_all(&[1; 100_000]).await.unwrap();
    server.read_exact(&mut [0; 100_000]).await.unwrap();
    server.write_all(b"seven b").await.unwrap();
    client.read_exact(&mut [0; 7]).await.unwrap();
    assert_eq!(proxy.count(), Bytes { sent: 100_000, received: 7 });
    drop(client);
    assert_eq!(server.read(&mut [0]).await.unwrap(), 0, "the end is forwarded, too");
    drop(proxy);
}

/// What one request of a protocol takes, with one reading or more.
async fn wire(id: &str, readings: usize) -> lab::proxy::Wire {
    let server = Server::start(id, None).unwrap();
    let proxy = Proxy::start(server.address().to_owned()).unwrap();
    count_bytes(protocols::by_id(id).unwrap(), &proxy, readings).await.unwrap()
}

pub async fn an_echo_is_all_payload() {
    // oslo-1 is six bytes, the metric one, value and time eight each.
    assert_eq!(INFORMATION, 6 + 1 + 8 + 8);
    let one = wire("tokio_echo", 1).await;
    assert_eq!((one.request, one.response, one.set_up), (23.0, 23.0, 0.0));
    let ten = wire("tokio_echo", 10).await;
    assert_eq!((ten.request, ten.response, ten.set_up), (230.0, 230.0, 0.0));
}
