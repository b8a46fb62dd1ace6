//! What each known fault looks like on both sides.

use tests::{apply, test};

use crate::chapters::{CHAPTERS, file};

/// A fault: how the two sides are started, and what they say about it.
struct Fault {
    /// The server's certificate.
    certificate: &'static str,
    /// The client's certificate, and whether the server asks for one.
    identity: Option<&'static str>,
    mutual: bool,
    client: &'static str,
    server: &'static str,
}

const FAULTS: [Fault; 6] = [
    Fault {
        certificate: "server-other-ca",
        identity: None,
        mutual: false,
        client: "this client does not trust the authority of the server's certificate; give the authority's \
                 with --ca",
        server: "it does not accept this server's certificate: UnknownCA",
    },
    Fault {
        certificate: "server-other-name",
        identity: None,
        mutual: false,
        client: "the server's certificate does not fit: certificate not valid for name \"127.0.0.1\"; \
                 certificate is only valid for DnsName(\"example.test\")",
        server: "it does not accept this server's certificate: BadCertificate",
    },
    Fault {
        certificate: "server-expired",
        identity: None,
        mutual: false,
        client: "the server's certificate has expired; to renew it, run: cargo run -- certificates --renew",
        server: "it does not accept this server's certificate: CertificateExpired",
    },
    Fault {
        certificate: "server",
        identity: None,
        mutual: true,
        client: "the server asks for a client certificate; choose one, for example with --identity oslo-1",
        server: "it showed no certificate, which --client-ca requires",
    },
    Fault {
        certificate: "server",
        identity: Some("client-expired"),
        mutual: true,
        client: "this client's certificate has expired; to renew it, run: cargo run -- certificates --renew",
        server: "its certificate does not fit --client-ca: certificate expired",
    },
    Fault {
        certificate: "server",
        identity: Some("client-other-ca"),
        mutual: true,
        client: "the server does not trust the authority of this client's certificate; choose another with \
                 --identity",
        server: "its certificate does not fit --client-ca: UnknownIssuer",
    },
];

#[apply(test!)]
async fn both_sides_name_the_fault_and_the_client_does_not_retry() {
    let ca = file("ca.pem");
    for chapter in &CHAPTERS {
        for fault in &FAULTS {
            let asks = ["--client-ca", &ca];
            let server = chapter.server(fault.certificate, if fault.mutual { &asks } else { &[] }).await;
            let identity = fault.identity.map(|name| file(&format!("{name}.pem")));
            let mut args = vec!["--ca", &ca];
            args.extend(identity.iter().flat_map(|path| ["--identity", path]));
            let client = chapter.call(server.url(), &args).await;
            assert_eq!(client.code, Some(1), "{}: {}", chapter.pair.chapter, fault.client);
            assert_eq!(client.stderr, format!("error: {}\n", fault.client), "{}", chapter.pair.chapter);
            server.has_printed(fault.server).await;
            let printed = server.stop().await;
            let attempts: Vec<_> = printed.lines().filter(|line| line.contains(" refused: ")).collect();
            assert_eq!(attempts.len(), 1, "{}: {printed}", chapter.pair.chapter);
        }
    }
}

#[apply(test!)]
async fn a_client_without_tls_learns_that_the_port_speaks_tls() {
    for chapter in &CHAPTERS {
        let [plain, tls] = chapter.schemes;
        let server = chapter.server("server", &[]).await;
        let client = chapter.call(&server.url().replace(tls, plain), &[]).await;
        assert_eq!((client.code, client.stderr), (Some(1), format!("error: {}\n", chapter.not_tls)));
        let printed = server.stop().await;
        assert_eq!(printed.matches("refused: it does not speak TLS").count(), 1, "{printed}");
    }
}

#[apply(test!)]
async fn a_client_with_tls_learns_that_the_port_is_plain() {
    let ca = file("ca.pem");
    for chapter in &CHAPTERS {
        let [plain, tls] = chapter.schemes;
        let server = chapter.pair.serve().await;
        let client = chapter.call(&server.url().replacen(plain, tls, 1), &["--ca", &ca]).await;
        let expected = "error: the server does not speak TLS on this port; start it with --tls, or use an \
                        address without TLS\n";
        assert_eq!((client.code, client.stderr.as_str()), (Some(1), expected), "{}", chapter.pair.chapter);
        server.stop().await;
    }
}

#[apply(test!)]
async fn options_for_tls_without_tls_are_refused() {
    for chapter in &CHAPTERS {
        let url = format!("{}://127.0.0.1:1", chapter.schemes[0]);
        for args in [["--ca", "x.pem"], ["--identity", "oslo-1"]] {
            let client = chapter.call(&url, &args).await;
            let expected =
                "error: --ca and --identity need an address with TLS, such as https:// or tls://\n";
            assert_eq!(
                (client.code, client.stderr.as_str()),
                (Some(1), expected),
                "{}",
                chapter.pair.chapter
            );
        }
    }
}
