//! The pairs over TLS.

use tests::{Server, apply, assert_same, run_program, test};
use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;

use crate::chapters::{CHAPTERS, Chapter, client_config, file, within};

impl Chapter {
    /// Returns what the client's tour prints.
    async fn tour(&self, server: &Server, args: &[&str]) -> String {
        let tour = run_program(self.pair.client, &[&["--url", server.url()], args].concat()).await;
        assert_eq!((tour.code, tour.stderr.as_str()), (Some(0), ""), "{}", self.pair.chapter);
        tour.stdout
    }
}

#[apply(test!)]
async fn a_tour_over_tls_prints_the_same_as_without() {
    let (ca, identity) = (file("ca.pem"), file("client-oslo-1.pem"));
    for chapter in &CHAPTERS {
        let plain = chapter.pair.serve().await;
        let expected = chapter.tour(&plain, &[]).await;
        plain.stop().await;

        let server = chapter.server("server", &[]).await;
        assert!(server.url().starts_with(&format!("{}://", chapter.schemes[1])), "{}", server.url());
        assert_same(&chapter.tour(&server, &["--ca", &ca]).await, &expected);
        server.stop().await;

        let mutual = chapter.server("server", &["--client-ca", &ca]).await;
        assert_same(&chapter.tour(&mutual, &["--ca", &ca, "--identity", &identity]).await, &expected);
        mutual.stop().await;
    }
}

#[apply(test!)]
async fn the_certificate_is_also_for_localhost() {
    let ca = file("ca.pem");
    for chapter in &CHAPTERS {
        let server = chapter.server("server", &[]).await;
        let url = server.url().replace("127.0.0.1", "localhost");
        let client = chapter.call(&url, &["--ca", &ca]).await;
        assert_eq!(client.code, Some(0), "{}", client.stderr);
        server.stop().await;
    }
}

#[apply(test!)]
async fn the_first_byte_of_a_client_is_that_of_tls() {
    let ca = file("ca.pem");
    for chapter in &CHAPTERS {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("{}://{}", chapter.schemes[1], listener.local_addr().unwrap());
        let first = async {
            let (mut stream, _peer) = within(listener.accept()).await.unwrap();
            within(stream.read_u8()).await.unwrap()
        };
        let args = ["--ca", &ca];
        tokio::select! {
            client = chapter.call(&url, &args) => panic!("{client:?}"),
            first = first => assert_eq!(first, 0x16, "{}", chapter.pair.chapter),
        }
    }
}

#[apply(test!)]
async fn openapi_names_the_server_with_its_scheme() {
    let chapter = CHAPTERS.iter().find(|chapter| chapter.pair.chapter == "http_rest").unwrap();
    let server = chapter.server("server", &[]).await;
    let tls = client_config(Some("http/1.1"));
    let http = reqwest::Client::builder().tls_backend_preconfigured((*tls).clone()).build().unwrap();
    let url = format!("{}/openapi.json", server.url());
    let openapi: serde_json::Value = http.get(url).send().await.unwrap().json().await.unwrap();
    assert_eq!(openapi["servers"], serde_json::json!([{ "url": server.url() }]));
    server.stop().await;
}
