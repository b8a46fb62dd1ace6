//! Baseline: an echo over TCP with tokio and a task for each connection.

use std::sync::{Mutex, PoisonError};

use futures::future::{BoxFuture, FutureExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::batch::INFORMATION;
use super::echo::{accept_each, information, verify_echo};
use super::protocol::{Kind, Protocol, Recorder, Served, connected};

pub(super) const PROTOCOL: Protocol = Protocol {
    id: "tokio_echo",
    name: "tokio TCP echo",
    kind: Kind::Baseline,
    one_at_a_time: false,
    served: Served::Directly(|listener, shutdown| {
        accept_each(listener, shutdown, |stream| {
            tokio::spawn(echo(stream));
            Ok(())
        })
        .boxed()
    }),
    connect: |address, readings| {
        async move {
            let first = connect(&address, readings * INFORMATION).await?;
            let idle = Mutex::new(vec![first]);
            connected(Echo { address, message: information(readings), idle })
        }
        .boxed()
    },
};

async fn echo(mut stream: TcpStream) {
    let mut buffer = vec![0; 8 * 1024];
    while let Ok(count @ 1..) = stream.read(&mut buffer).await {
        if stream.write_all(&buffer[..count]).await.is_err() {
            break;
        }
    }
}

/// An echoed reply doesn't say which request it belongs to. So each call in flight has its own
/// connection, which the client keeps for later calls.
struct Echo {
    address: String,
    message: Vec<u8>,
    idle: Mutex<Vec<Connection>>,
}

/// A connection, and the buffer for its reply.
type Connection = (TcpStream, Vec<u8>);

pub(super) async fn connect(address: &str, reply: usize) -> anyhow::Result<Connection> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    Ok((stream, vec![0; reply]))
}

impl Recorder for Echo {
    fn record(&self) -> BoxFuture<'_, anyhow::Result<()>> {
        async {
            let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
            let (mut stream, mut reply) = match idle {
                Some(connection) => connection,
                None => connect(&self.address, self.message.len()).await?,
            };
            stream.write_all(&self.message).await?;
            stream.read_exact(&mut reply).await?;
            verify_echo(&self.message, &reply)?;
            self.idle.lock().unwrap_or_else(PoisonError::into_inner).push((stream, reply));
            Ok(())
        }
        .boxed()
    }
}
