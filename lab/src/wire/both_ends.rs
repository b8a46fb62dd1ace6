//! Ends TLS on both sides of a recording. The client's connection is decrypted, recorded, and
//! encrypted again on its way to the server:
//!
//! ```text
//! client == TLS ==> recorded as it travels ==> decrypted --> recorded --> encrypted == TLS ==> server
//! ```
//!
//! This works only because client and server trust the authority of the certificates, whose key the
//! lab has. Nobody without such a key can do it.

use std::fmt;
use std::fmt::Write;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex, PoisonError};

use tcp_socket::base::tls;
use tokio::io::copy_bidirectional;
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::{ClientConfig, KeyLog, ServerConfig};

/// The secrets of all connections that were decrypted, in the format that Wireshark reads.
#[derive(Default)]
pub struct Secrets(Mutex<String>);

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secrets") // Nothing should print them by mistake.
    }
}

impl Secrets {
    /// Returns one line for each secret.
    pub fn text(&self) -> String {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl KeyLog for Secrets {
    fn log(&self, label: &str, client_random: &[u8], secret: &[u8]) {
        let hex = |bytes: &[u8]| bytes.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"));
        let mut text = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = writeln!(text, "{label} {} {}", hex(client_random), hex(secret));
    }
}

/// Decrypts connections and forwards them to `target`. Returns the address that it listens on. Call
/// this inside a Tokio runtime, which it needs until the connections end.
///
/// # Errors
/// If no port is available.
pub fn decrypt(config: Arc<ServerConfig>, target: String) -> io::Result<SocketAddr> {
    let acceptor = TlsAcceptor::from(config);
    forward(move |mut stream| {
        let (acceptor, target) = (acceptor.clone(), target.clone());
        async move {
            let mut other = connect(&target).await?;
            // The ends of both directions pass on, as they are.
            match acceptor.accept(&mut stream).await {
                Ok(mut decrypted) => copy_bidirectional(&mut decrypted, &mut other).await,
                Err(error) => Err(error),
            }
        }
    })
}

/// Encrypts connections and forwards them to the server at `target`. Otherwise like [`decrypt`].
///
/// # Errors
/// If no port is available.
pub fn encrypt(config: Arc<ClientConfig>, target: String) -> io::Result<SocketAddr> {
    forward(move |mut stream| {
        let (config, target) = (config.clone(), target.clone());
        async move {
            let host = target.rsplit_once(':').map_or("", |(host, _port)| host).to_owned();
            let mut encrypted = tls::connect(config, &host, connect(&target).await?).await?;
            copy_bidirectional(&mut stream, &mut encrypted).await
        }
    })
}

async fn connect(target: &str) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(target).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Accepts connections. `each` forwards one until it ends.
fn forward<F>(each: impl Fn(TcpStream) -> F + Send + 'static) -> io::Result<SocketAddr>
where
    F: Future<Output = io::Result<(u64, u64)>> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0")?;
    listener.set_nonblocking(true)?;
    let address = listener.local_addr()?;
    let listener = tokio::net::TcpListener::from_std(listener)?;
    tokio::spawn(async move {
        while let Ok((stream, _peer)) = listener.accept().await {
            let _ = stream.set_nodelay(true);
            tokio::spawn(each(stream)); // If it fails, both connections end, which is recorded.
        }
    });
    Ok(address)
}
