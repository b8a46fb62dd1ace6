//! Baseline: an echo with blocking TCP calls and a thread for each connection, without an async
//! runtime.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use futures::future::{BoxFuture, FutureExt};

use super::echo::{accept_each, information, verify_echo};
use super::protocol::{Kind, Protocol, Recorder, Served, connected};

pub(super) const PROTOCOL: Protocol = Protocol {
    id: "blocking_echo",
    name: "blocking TCP echo",
    kind: Kind::Baseline,
    one_at_a_time: true,
    served: Served::Directly(|listener, shutdown| {
        accept_each(listener.tcp, shutdown, |stream| {
            let stream = stream.into_std()?;
            stream.set_nonblocking(false)?;
            thread::spawn(move || echo(stream));
            Ok(())
        })
        .boxed()
    }),
    connect: |address, readings| {
        async move {
            let stream = TcpStream::connect(address.place)?;
            stream.set_nodelay(true)?;
            stream.set_read_timeout(Some(REPLY_TIMEOUT))?;
            let message = information(readings);
            let buffers = Mutex::new((stream, vec![0; message.len()]));
            connected(Echo { message, buffers })
        }
        .boxed()
    },
};

/// Time after which a missing reply is an error.
const REPLY_TIMEOUT: Duration = Duration::from_secs(10);

fn echo(mut stream: TcpStream) {
    let mut buffer = vec![0; 8 * 1024];
    while let Ok(count @ 1..) = stream.read(&mut buffer) {
        if stream.write_all(&buffer[..count]).is_err() {
            break;
        }
    }
}

struct Echo {
    message: Vec<u8>,
    /// The connection, and the buffer for its reply.
    buffers: Mutex<(TcpStream, Vec<u8>)>,
}

impl Recorder for Echo {
    fn record(&self) -> BoxFuture<'_, anyhow::Result<()>> {
        async {
            let mut buffers = self.buffers.lock().unwrap_or_else(PoisonError::into_inner);
            let (stream, reply) = &mut *buffers;
            stream.write_all(&self.message)?;
            stream.read_exact(reply)?;
            verify_echo(&self.message, reply)
        }
        .boxed()
    }
}
