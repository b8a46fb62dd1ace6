//! What gRPC adds: HTTP/2 is named in the handshake, and streams outlive their connection.

use std::time::Duration;

use ::grpc::client::{Client, Error, Event, Options};
use ::grpc::proto::{Metric, Reading};
use futures::TryStreamExt;
use hyper_util::rt::TokioIo;
use tcp_socket::base::tls::connect;
use tests::{Pair, apply, test};
use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tonic::transport::Endpoint;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus::Serving;
use tonic_health::pb::health_client::HealthClient;
use tower::service_fn;

use crate::chapters::{
    Bounds, CHAPTERS, Chapter, client_config, client_options, file, server_config, within,
};

fn chapter() -> &'static Chapter {
    CHAPTERS.iter().find(|chapter| chapter.pair.chapter == "grpc").unwrap()
}

fn client(url: &str) -> Client {
    Client::new(url, &Options { tls: client_options(), ..Options::default() }).unwrap()
}

#[apply(test!)]
async fn each_side_of_grpc_wants_the_other_to_name_http_2() {
    let server = chapter().start(Bounds::default()).await;
    let mut stream = within(connect(client_config(None), "localhost", server.tcp().await)).await.unwrap();
    let mut refusal = Vec::new();
    within(stream.read_to_end(&mut refusal)).await.unwrap();
    assert!(refusal.ends_with(b"\x0cthe TLS handshake must name h2 (ALPN)"), "{refusal:?}");
    assert_eq!(refusal.len(), 9 + 9 + usize::from(refusal[11]), "the length of GOAWAY");
    drop(stream);
    server.stop().await;

    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://{}", listener.local_addr().unwrap());
    let acceptor = TlsAcceptor::from(server_config(None));
    let client = client(&url);
    let serve = async {
        let (stream, _peer) = listener.accept().await.unwrap();
        let mut stream = acceptor.accept(stream).await.unwrap();
        let _ = stream.read_to_end(&mut Vec::new()).await; // It ends without close_notify.
    };
    let (called, ()) = within(async { tokio::join!(client.record(&[]), serve) }).await;
    let error = called.unwrap_err();
    assert!(
        matches!(&error, Error::Tls(text) if text == "the server speaks another protocol over TLS"),
        "{error:?}"
    );
    assert!(!error.may_have_been_executed());
}

#[apply(test!)]
async fn a_connection_without_its_first_bytes_ends_with_close_notify() {
    let bounds = Bounds { handshake_timeout: Duration::from_millis(300), ..Bounds::default() };
    let server = chapter().start(bounds).await;
    let mut stream = server.tls().await;
    let mut received = Vec::new();
    // Without close_notify, this would be an error.
    within(stream.read_to_end(&mut received)).await.unwrap();
    assert_eq!(received, b"");
    server.stop().await;
}

#[apply(test!)]
async fn health_and_watch_work_over_tls_until_the_certificate_is_wrong() {
    let server = chapter().server("server", &[]).await;
    let addr = server.url().strip_prefix("https://").unwrap().to_owned();
    let connector = service_fn(move |_uri| {
        let addr = addr.clone();
        async move {
            let stream = tokio::net::TcpStream::connect(addr).await?;
            connect(client_config(Some("h2")), "127.0.0.1", stream).await.map(TokioIo::new)
        }
    });
    let endpoint = Endpoint::from_shared(server.url().to_owned()).unwrap();
    let channel = endpoint.connect_with_connector(connector).await.unwrap();
    let request = HealthCheckRequest { service: "weather.v1.WeatherService".to_owned() };
    let health = HealthClient::new(channel).check(request).await.unwrap().into_inner();
    assert_eq!(health.status(), Serving);

    let client = client(server.url());
    let reading =
        Reading { station: "oslo-1".into(), metric: Metric::Wind.into(), value: 7.0, recorded_at: 1 };
    assert_eq!(client.record(std::slice::from_ref(&reading)).await.unwrap(), 1);
    let mut watching = client.watch("oslo-1", None, None).await.unwrap();
    client.record(&[reading]).await.unwrap();
    assert!(matches!(within(watching.try_next()).await.unwrap(), Some(Event::Recorded(_))));

    let addr = server.url().strip_prefix("https://").unwrap().to_owned();
    server.stop().await;
    assert!(matches!(within(watching.try_next()).await.unwrap(), Some(Event::Disconnected(_))));
    let Pair { server: program, .. } = chapter().pair;
    let (certificate, key) = (file("server-other-ca.pem"), file("server-other-ca-key.pem"));
    let tls = ["--addr", &addr, "--tls", "--certificate", &certificate, "--key", &key];
    let other = tests::Server::start(program, &tls).await;
    let error = within(watching.try_next()).await.unwrap_err();
    assert!(matches!(error, Error::Tls(_)), "{error:?}");
    other.stop().await;
}
