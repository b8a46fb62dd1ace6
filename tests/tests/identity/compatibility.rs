//! Version 2 of the TCP protocol: old clients with new servers, and the reverse.

use bytes::{BufMut, BytesMut};
use tcp_socket::protocol::frame::{FrameBuffer, kind, put_frame};
use tcp_socket::protocol::handshake::{Hello, WELCOME, Welcome};
use tcp_socket::protocol::message::{ErrorCode, Refusal};
use tcp_socket::{Client, Error};
use tests::{apply, test};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::chapters::{Chapter, Mode, token, with_token};

struct Raw {
    stream: TcpStream,
    input: FrameBuffer,
}

impl Raw {
    /// Connects, offers versions from 1 to `highest`, and returns the version that the server chose.
    async fn connect(addr: &str, highest: u16) -> (Self, u16) {
        let mut stream = TcpStream::connect(addr).await.unwrap();
        stream.write_all(&Hello { lowest: 1, highest, client_id: [7; 16] }.encode()).await.unwrap();
        let mut welcome = [0; WELCOME];
        stream.read_exact(&mut welcome).await.unwrap();
        (Self { stream, input: FrameBuffer::new(4096) }, Welcome::decode(&welcome).unwrap().version)
    }

    /// Sends a request, and returns kind, request ID, and payload of the response.
    async fn ask(&mut self, kind: u16, payload: &[u8]) -> (u16, u32, Vec<u8>) {
        let mut frame = BytesMut::new();
        put_frame(&mut frame, kind, 0, 3, |into| into.put_slice(payload));
        self.stream.write_all(&frame).await.unwrap();
        loop {
            if let Some(frame) = self.input.next_frame().unwrap() {
                return (frame.kind, frame.request_id, frame.payload.to_vec());
            }
            assert!(self.input.read_from(&mut self.stream).await.unwrap() > 0, "the server closed");
        }
    }
}

fn code(response: &(u16, u32, Vec<u8>)) -> u16 {
    assert_eq!(response.0, kind::ERROR);
    Refusal::parse(&response.2).unwrap().code
}

#[apply(test!)]
async fn an_old_client_is_served_by_a_new_server_as_a_stranger() {
    let server = Chapter::Tcp.start(Mode::Checked).await;
    let (mut old, version) = Raw::connect(&server.addr, 1).await;
    assert_eq!(version, 1);
    assert_eq!(old.ask(kind::PING, b"").await.0, kind::PONG);
    assert_eq!(code(&old.ask(kind::WATCH, b"oslo-1").await), ErrorCode::Unauthenticated as u16);
    // Version 1 has no such kind, whatever the token is.
    assert_eq!(
        code(&old.ask(kind::TOKEN, token("operator").as_bytes()).await),
        ErrorCode::UnknownKind as u16
    );
    assert_eq!(old.ask(kind::PING, b"").await.0, kind::PONG);
    server.stop().await;
}

#[apply(test!)]
async fn a_client_from_the_future_gets_version_2() {
    let server = Chapter::Tcp.start(Mode::Checked).await;
    let (mut client, version) = Raw::connect(&server.addr, 9).await;
    assert_eq!(version, 2);
    assert_eq!(code(&client.ask(kind::WATCH, b"oslo-1").await), ErrorCode::Unauthenticated as u16);
    assert_eq!(
        client.ask(kind::TOKEN, token("reader").as_bytes()).await,
        (kind::CALLER, 3, b"reader".to_vec())
    );
    assert_eq!(code(&client.ask(kind::WATCH, b"oslo-1").await), ErrorCode::UnknownStation as u16);
    server.stop().await;
}

#[apply(test!)]
async fn a_wrong_token_ends_the_connection() {
    let server = Chapter::Tcp.start(Mode::Checked).await;
    let (mut client, _version) = Raw::connect(&server.addr, 2).await;
    let response = client.ask(kind::TOKEN, b"wst_wrong").await;
    assert_eq!((code(&response), response.1), (ErrorCode::BadToken as u16, 0));
    assert_eq!(client.input.read_from(&mut client.stream).await.unwrap(), 0, "the server should close");
    let refused = Client::connect_with_tls(&server.url, &with_token("nobody")).await.err().unwrap();
    assert!(matches!(refused, Error::Refused(_)), "{refused}");
    assert_eq!(refused.to_string(), "BadToken (12): the server does not know this token");
    server.stop().await;
}

#[apply(test!)]
async fn a_new_client_never_sends_its_token_to_an_old_server() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("tcp://{}", listener.local_addr().unwrap());
    let old = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut hello = [0; 24];
        stream.read_exact(&mut hello).await.unwrap();
        assert_eq!(hello[4..8], [0, 1, 0, 2]); // versions 1 to 2
        let welcome = Welcome {
            version: 1,
            remembered: false,
            instance_id: [1; 16],
            max_payload: 524_288,
            window: 1024,
            max_watches: 64,
            idle_timeout: 60_000,
        };
        stream.write_all(&welcome.encode()).await.unwrap();
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).await.unwrap();
        rest
    };
    let client = async {
        let client = Client::connect_with_tls(&url, &with_token("operator")).await.unwrap();
        client.close().await;
    };
    let (rest, ()) = tokio::join!(old, client);
    assert_eq!(rest[..2], kind::GOODBYE.to_be_bytes(), "the first frame is GOODBYE");
    assert_eq!(rest.len(), 16);
}

#[apply(test!)]
async fn the_decoder_shows_version_2_and_hides_the_token() {
    use lab::wire::message::Side;
    let mut decoder = lab::wire::decode::tcp_socket::decoder();
    decoder.push(Side::Client, &Hello { lowest: 1, highest: 2, client_id: [7; 16] }.encode());
    let mut frame = BytesMut::new();
    put_frame(&mut frame, kind::TOKEN, 0, 1, |payload| payload.put_slice(b"wst_secret"));
    let messages = decoder.push(Side::Client, &frame);
    assert_eq!(messages[0].summary, "TOKEN #1");
    assert_eq!(messages[0].secrets().collect::<Vec<_>>(), [(24 + 16..24 + 26, b'*')]);
    assert!(messages[0].fields.iter().all(|field| !field.value.contains("secret")));
}
