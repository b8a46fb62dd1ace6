//! How streams with TLS begin and end.

use std::time::Duration;

use http_rest::protocol::model::StationPatch;
use tests::{apply, test};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::rustls::Error::AlertReceived;
use tokio_rustls::rustls::{AlertDescription, Error};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::chapters::{Bounds, CHAPTERS, client_config, client_options, server_config, within};

#[apply(test!)]
async fn a_server_ends_its_stream_with_close_notify() {
    for chapter in &CHAPTERS {
        let server = chapter.start(Bounds::default()).await;
        let mut stream = server.request(chapter).await;
        // The request was complete for HTTP. For TCP, it was only HELLO, and stopping ends the connection.
        let stop = tokio::spawn(server.stop());
        // Without close_notify, this would be an error.
        within(stream.read_to_end(&mut Vec::new())).await.unwrap();
        drop(stream);
        stop.await.unwrap();
    }
}

#[apply(test!)]
async fn a_response_without_close_notify_may_be_truncated() {
    for (complete, body) in [(true, &b"{\"accepted\":1}"[..]), (false, b"{\"accepted\":1}")] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("https://{}", listener.local_addr().unwrap());
        let acceptor = TlsAcceptor::from(server_config(None));
        let serve = async {
            let (stream, _peer) = listener.accept().await.unwrap();
            let mut stream = acceptor.accept(stream).await.unwrap();
            let mut request = [0; 16 * 1024];
            assert!(stream.read(&mut request).await.unwrap() > 0);
            // Without Content-Length, the body ends with the connection.
            let head = b"HTTP/1.1 200 OK\r\netag: \"1\"\r\nconnection: close\r\n\r\n";
            stream.write_all(&[head, body].concat()).await.unwrap();
            stream.flush().await.unwrap();
            if complete {
                stream.shutdown().await.unwrap();
            }
        };
        let client = http_rest::Client::with_tls(&url, &client_options()).unwrap();
        // A PATCH is not repeated: it may have been executed.
        let patch = StationPatch::default();
        let (result, ()) =
            within(async { tokio::join!(client.patch_station("a", &patch, "\"1\""), serve) }).await;
        let error = result.unwrap_err();
        let broken = matches!(error, http_rest::Error::Broken(_));
        assert_eq!(broken, !complete, "{error:?}");
        assert!(error.may_have_been_executed());
    }
}

#[apply(test!)]
async fn a_client_that_offers_only_another_protocol_is_refused() {
    for chapter in &CHAPTERS {
        let Some(alpn) = chapter.alpn else { continue };
        let other = if alpn == "h2" { "http/1.1" } else { "h2" };
        let server = chapter.start(Bounds::default()).await;
        for (offered, served) in [(&[alpn][..], true), (&[other, alpn], true), (&[other], false)] {
            let mut config = (*client_config(None)).clone();
            config.alpn_protocols = offered.iter().map(|name| name.as_bytes().to_vec()).collect();
            let connector = TlsConnector::from(std::sync::Arc::new(config));
            let connected = connector.connect("localhost".try_into().unwrap(), server.tcp().await).await;
            match connected {
                Ok(stream) => assert_eq!(stream.get_ref().1.alpn_protocol(), Some(alpn.as_bytes())),
                Err(error) => {
                    let found = error.get_ref().unwrap().downcast_ref::<Error>();
                    assert_eq!(found, Some(&AlertReceived(AlertDescription::NoApplicationProtocol)));
                    assert!(!served);
                    continue;
                }
            }
            assert!(served, "{offered:?}");
        }
        server.stop().await;
    }
}

#[apply(test!)]
async fn a_client_beyond_the_limit_gets_the_reason_over_tls() {
    for chapter in &CHAPTERS {
        let server = chapter.start(Bounds { max_connections: 1, ..Bounds::default() }).await;
        let first = server.tls().await;
        let mut second = server.tls().await;
        let mut refusal = Vec::new();
        within(second.read_to_end(&mut refusal)).await.unwrap();
        let refusal = String::from_utf8_lossy(&refusal);
        assert!(refusal.contains(chapter.too_many), "{refusal}");
        drop((first, second));
        server.stop().await;
    }
}

#[apply(test!)]
async fn half_open_handshakes_end_in_time() {
    const LIMIT: Duration = Duration::from_millis(300);
    for chapter in &CHAPTERS {
        let server = chapter.start(Bounds { handshake_timeout: LIMIT, ..Bounds::default() }).await;
        // Nothing, the first byte, and a header that announces more than ever comes.
        for sent in [&b""[..], b"\x16", b"\x16\x03\x01\x02\x00\x01\x00"] {
            let mut stream = server.tcp().await;
            stream.write_all(sent).await.unwrap();
            let mut rest = Vec::new();
            // With unread input, the end may be a reset.
            let _ = within(stream.read_to_end(&mut rest)).await;
            assert!(rest.is_empty(), "{rest:?}");
        }
        server.stop().await;
    }
}

#[apply(test!)]
async fn half_open_handshakes_do_not_delay_a_stop() {
    for chapter in &CHAPTERS {
        let server =
            chapter.start(Bounds { handshake_timeout: Duration::from_secs(3600), ..Bounds::default() }).await;
        let mut stream = server.tcp().await;
        stream.write_all(b"\x16\x03\x01").await.unwrap();
        // Connections are accepted in order: after this handshake, the server has the first one, too.
        let other = server.tls().await;
        drop(other);
        let started = std::time::Instant::now();
        server.stop().await;
        assert!(started.elapsed() < Duration::from_secs(9), "it waited for the drain timeout");
    }
}
