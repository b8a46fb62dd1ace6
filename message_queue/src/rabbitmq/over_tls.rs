//! The runtime that lapin uses for connections with TLS.

use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_rs::Tokio;
use async_rs::traits::{Executor, Reactor, RuntimeKit};
use async_rs::util::Task;
use futures::Stream;
use futures::io::{AsyncRead, AsyncWrite};
use tcp_socket::base::tls::{self, Socket};
use tokio::net::TcpStream;
use tokio_rustls::rustls::ClientConfig;
use tokio_util::compat::{Compat, TokioAsyncReadCompatExt};

/// Tokio, but each TCP connection that it opens for lapin speaks TLS inside. So this chapter has the
/// same TLS, options, and errors as the others, and lapin needs none of its own.
#[derive(Clone, Debug)]
pub(super) struct OverTls {
    tokio: Tokio,
    config: Arc<ClientConfig>,
    host: String,
}

impl OverTls {
    /// The broker's certificate must be for `host`, a name or an IP address.
    pub(super) fn new(config: Arc<ClientConfig>, host: String) -> Self {
        Self { tokio: Tokio::current(), config, host }
    }
}

impl RuntimeKit for OverTls {}

impl Executor for OverTls {
    type Task<T: Send + 'static> = <Tokio as Executor>::Task<T>;

    fn block_on<T, F: Future<Output = T>>(&self, future: F) -> T {
        self.tokio.block_on(future)
    }

    fn spawn<T: Send + 'static, F: Future<Output = T> + Send + 'static>(
        &self,
        future: F,
    ) -> Task<Self::Task<T>> {
        self.tokio.spawn(future)
    }

    fn spawn_blocking<T: Send + 'static, F: FnOnce() -> T + Send + 'static>(
        &self,
        work: F,
    ) -> Task<Self::Task<T>> {
        self.tokio.spawn_blocking(work)
    }
}

impl Reactor for OverTls {
    type TcpStream = Compat<Socket>;
    type Sleep = <Tokio as Reactor>::Sleep;

    /// This is for sockets that the caller opens, so lapin never calls it.
    fn register<H: Read + Write + Send + 'static>(
        &self,
        _socket: H,
    ) -> io::Result<impl AsyncRead + AsyncWrite + Send + Unpin + 'static> {
        Err::<Self::TcpStream, _>(io::ErrorKind::Unsupported.into())
    }

    fn sleep(&self, time: Duration) -> Self::Sleep {
        self.tokio.sleep(time)
    }

    fn interval(&self, time: Duration) -> impl Stream<Item = Instant> + Send + 'static {
        self.tokio.interval(time)
    }

    fn tcp_connect_addr(
        &self,
        addr: SocketAddr,
    ) -> impl Future<Output = io::Result<Self::TcpStream>> + Send + 'static {
        let (config, host) = (self.config.clone(), self.host.clone());
        async move {
            let stream = TcpStream::connect(addr).await?;
            stream.set_nodelay(true)?;
            Ok(tls::connect(config, &host, stream).await?.compat())
        }
    }
}
