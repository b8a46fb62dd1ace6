//! Compares the bytes that the lab counts with the layouts of three protocols.

use lab::compare::bytes::{Wire, count_bytes};
use lab::protocols::{self, INFORMATION};
use lab::run::brokers::Brokers;
use lab::run::placement::Placement;
use lab::run::running_protocol::{RunningProtocol, Through};
use lab::wire::proxy::{Bytes, Proxy};
use tests::{apply, test};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

#[apply(test!)]
async fn the_proxy_counts_what_it_forwards() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let proxy = Proxy::start(listener.local_addr().unwrap().to_string(), None).unwrap();
    let mut client = TcpStream::connect(&proxy.address()).await.unwrap();
    let (mut server, _peer) = listener.accept().await.unwrap();
    client.write_all(&[1; 100_000]).await.unwrap();
    server.read_exact(&mut [0; 100_000]).await.unwrap();
    server.write_all(b"seven b").await.unwrap();
    client.read_exact(&mut [0; 7]).await.unwrap();
    assert_eq!(proxy.count(), Bytes { sent: 100_000, received: 7 });
    drop(client);
    assert_eq!(
        server.read(&mut [0]).await.unwrap(),
        0,
        "the proxy should also forward the end of the stream"
    );
    drop(proxy);
}

/// Counts the bytes of a request with this many readings.
async fn wire(id: &str, readings: u64) -> Wire {
    let protocol = protocols::by_id(id).unwrap();
    let target =
        RunningProtocol::start(protocol, Placement::Free, &mut Brokers::default(), Through::Proxy, None)
            .unwrap();
    count_bytes(&target, target.proxy.as_ref().unwrap(), readings).await.unwrap()
}

#[apply(test!)]
async fn an_echo_sends_nothing_but_payload() {
    // "oslo-1" takes six bytes, the metric one, and value and time eight each.
    assert_eq!(INFORMATION, 6 + 1 + 8 + 8);
    let one = wire("tokio_echo", 1).await;
    assert_eq!((one.request, one.response, one.set_up), (23.0, 23.0, 0.0));
    let ten = wire("tokio_echo", 10).await;
    assert_eq!((ten.request, ten.response, ten.set_up), (230.0, 230.0, 0.0));
}

/// Follows `tcp_socket/PROTOCOL.md`, sections 3, 5, and 6.
#[apply(test!)]
async fn a_tcp_request_has_the_size_of_its_layout() {
    let header = 2 + 2 + 4 + 4 + 4; // kind, flags, request ID, payload length, checksum
    let batch = 8 + 1 + 6 + 2; // batch ID, length of the station's ID, "oslo-1", number of readings
    let reading = 1 + 8 + 8; // metric, value, time
    let accepted = 4;
    let hello = 4 + 2 + 2 + 16; // magic, lowest and highest version, client ID
    let welcome = 4 + 2 + 2 + 16 + 4 + 4 + 4 + 4;
    let one = wire("tcp_socket", 1).await;
    assert_eq!(one.request, f64::from(header + batch + reading));
    assert_eq!(one.response, f64::from(header + accepted));
    assert_eq!(one.set_up, f64::from(hello + welcome));
    let ten = wire("tcp_socket", 10).await;
    assert_eq!(ten.request, f64::from(header + batch + 10 * reading));
}

/// Follows RFC 6455, section 5.2: the header has two bytes, plus two for a length of at least 126,
/// plus four for the mask that a client sends.
#[apply(test!)]
async fn a_websocket_request_has_the_size_of_its_layout() {
    let request = concat!(
        r#"{"type":"record","id":99,"readings":[{"station":"oslo-1","metric":"temperature","#,
        r#""value":-3.5,"recorded_at":1767225600000}]}"#
    );
    let reply = r#"{"type":"recorded","id":99,"accepted":1}"#;
    assert_eq!((request.len(), reply.len()), (123, 40));
    // The requests after the warm-up have the IDs 20 to 119: 80 of these have two digits, and 20
    // have three. A length of up to 125 fits into the second byte.
    let third_digit = 20.0 / 100.0;
    let one = wire("websocket", 1).await;
    assert_eq!(one.request, (2 + 4 + 123) as f64 + third_digit);
    assert_eq!(one.response, (2 + 40) as f64 + third_digit);
    // The size of the handshake depends on optional headers, which each side may add.
    assert!(one.set_up > 300.0 && one.set_up < 600.0, "{}", one.set_up);
}
