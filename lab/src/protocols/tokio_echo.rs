//! Baseline: an echo over TCP with tokio and a task for each connection.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use futures::future::{BoxFuture, FutureExt};
use tcp_socket::base::linger::LingerLimits;
use tcp_socket::base::tls::{self, Acceptor, Socket};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::batch::INFORMATION;
use super::echo::{accept_each, information, verify_echo};
use super::protocol::{Address, Kind, Protocol, Recorder, Served, connected};

pub(super) const PROTOCOL: Protocol = Protocol {
    id: "tokio_echo",
    name: "tokio TCP echo",
    kind: Kind::Baseline,
    one_at_a_time: false,
    served: Served::Directly(|listener, shutdown| {
        let limits = LingerLimits { bytes: 0, time: Duration::ZERO };
        let acceptor = Acceptor::new(listener.tls, Duration::from_secs(10), limits, b"");
        accept_each(listener.tcp, shutdown.clone(), move |stream| {
            let echoing =
                acceptor.handshake_then(stream, |stream| stream, shutdown.clone(), |stream, _| echo(stream));
            tokio::spawn(echoing);
            Ok(())
        })
        .boxed()
    }),
    connect: |address, readings| {
        async move {
            let first = open(&address, readings * INFORMATION).await?;
            let idle = Mutex::new(vec![first]);
            connected(Echo { address, message: information(readings), idle })
        }
        .boxed()
    },
};

async fn echo(mut stream: Socket) {
    let mut buffer = vec![0; 8 * 1024];
    while let Ok(count @ 1..) = stream.read(&mut buffer).await {
        if stream.write_all(&buffer[..count]).await.is_err() || stream.flush().await.is_err() {
            break;
        }
    }
}

/// An echoed reply doesn't say which request it belongs to. So each call in flight has its own
/// connection, which the client keeps for later calls.
struct Echo {
    address: Address,
    message: Vec<u8>,
    idle: Mutex<Vec<Connection>>,
}

/// A connection, and the buffer for its reply.
type Connection<S = Socket> = (S, Vec<u8>);

pub(super) async fn connect(address: &str, reply: usize) -> anyhow::Result<Connection<TcpStream>> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    Ok((stream, vec![0; reply]))
}

async fn open(address: &Address, reply: usize) -> anyhow::Result<Connection> {
    let (stream, reply) = connect(&address.place, reply).await?;
    let Some(config) = address.options().config(address.tls.is_some(), None)? else {
        return Ok((Socket::Left(stream), reply));
    };
    let host = address.place.rsplit_once(':').map_or("", |(host, _port)| host);
    Ok((tls::connect(config, host, stream).await?, reply))
}

impl Recorder for Echo {
    fn record(&self) -> BoxFuture<'_, anyhow::Result<()>> {
        async {
            let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
            let (mut stream, mut reply) = match idle {
                Some(connection) => connection,
                None => open(&self.address, self.message.len()).await?,
            };
            stream.write_all(&self.message).await?;
            stream.flush().await?;
            stream.read_exact(&mut reply).await?;
            verify_echo(&self.message, &reply)?;
            self.idle.lock().unwrap_or_else(PoisonError::into_inner).push((stream, reply));
            Ok(())
        }
        .boxed()
    }
}
