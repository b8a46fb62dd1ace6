//! Baseline of fan-out: a server that writes a prepared frame to each subscriber's socket.

use std::sync::Arc;

use futures::StreamExt;
use futures::future::{BoxFuture, FutureExt};
use futures::stream;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Mutex;

use super::batch::INFORMATION;
use super::echo::{accept_each, information};
use super::protocol::{Kind, Protocol, Recorder, Served, Subscription, connected};
use super::tokio_echo::connect;

/// A connection begins with one of these bytes, and the server returns it as confirmation. A
/// publisher sends its byte once for each frame.
const SUBSCRIBE: u8 = b'S';
const PUBLISH: u8 = b'P';

pub(super) const PROTOCOL: Protocol = Protocol {
    id: "broadcast",
    name: "bare broadcast",
    kind: Kind::Baseline,
    one_at_a_time: true,
    served: Served::Directly(|listener, shutdown| {
        let subscribers = Arc::default();
        accept_each(listener.tcp, shutdown, move |stream| {
            tokio::spawn(serve(stream, Arc::clone(&subscribers)));
            Ok(())
        })
        .boxed()
    }),
    connect: |address, _| {
        async move { connected(Publisher(Mutex::new(connect(&address.place, 0).await?.0))) }.boxed()
    },
};

async fn serve(mut stream: TcpStream, subscribers: Arc<Mutex<Vec<TcpStream>>>) -> std::io::Result<()> {
    let frame = information(1);
    while let Ok(request) = stream.read_u8().await {
        let mut all = subscribers.lock().await;
        stream.write_u8(request).await?;
        if request == SUBSCRIBE {
            all.push(stream);
            break;
        }
        let mut open = Vec::with_capacity(all.len());
        for mut subscriber in all.drain(..) {
            if subscriber.write_all(&frame).await.is_ok() {
                open.push(subscriber);
            }
        }
        *all = open;
    }
    Ok(())
}

struct Publisher(Mutex<TcpStream>);

impl Recorder for Publisher {
    fn record(&self) -> BoxFuture<'_, anyhow::Result<()>> {
        async { request(&mut *self.0.lock().await, PUBLISH).await }.boxed()
    }
}

async fn request(stream: &mut TcpStream, request: u8) -> anyhow::Result<()> {
    stream.write_u8(request).await?;
    anyhow::ensure!(stream.read_u8().await? == request, "the broadcast did not confirm");
    Ok(())
}

pub(super) async fn subscribe(address: &str) -> anyhow::Result<Subscription> {
    let (mut stream, _) = connect(address, 0).await?;
    request(&mut stream, SUBSCRIBE).await?;
    let frames = stream::unfold(stream, async |mut stream| {
        stream.read_exact(&mut [0; INFORMATION]).await.ok()?;
        Some(((), stream))
    });
    Ok(frames.boxed())
}
