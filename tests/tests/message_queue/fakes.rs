//! Fake brokers, which send responses that the installed broker usually would not send.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, copy};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::task::AbortOnDropHandle;

/// A server on a free port. It ends when it is dropped.
pub struct Fake {
    pub addr: SocketAddr,
    _accepting: AbortOnDropHandle<()>,
}

/// Starts a server that handles each connection with `serve`.
pub async fn fake<F: Future<Output = std::io::Result<()>> + Send + 'static>(
    serve: impl Fn(TcpStream) -> F + Send + Sync + 'static,
) -> Fake {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let accepting = tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream));
        }
    });
    Fake { addr, _accepting: AbortOnDropHandle::new(accepting) }
}

/// Starts a fake Redis. `respond` returns the response to a command, given its name. If it returns
/// `None`, HELLO gets version 7.0.15 and every other command gets OK.
pub async fn fake_redis(respond: impl Fn(&str) -> Option<String> + Send + Sync + 'static) -> Fake {
    let respond = Arc::new(respond);
    fake(move |stream| {
        let respond = respond.clone();
        async move {
            let (reader, mut writer) = stream.into_split();
            let mut lines = BufReader::new(reader);
            while let Some(name) = command(&mut lines).await? {
                let hello = "*4\r\n+server\r\n+redis\r\n+version\r\n+7.0.15\r\n".to_owned();
                let usual = if name == "HELLO" { hello } else { "+OK\r\n".to_owned() };
                writer.write_all(respond(&name).unwrap_or(usual).as_bytes()).await?;
            }
            Ok(())
        }
    })
    .await
}

/// Reads the next command, in RESP's encoding, and returns its name.
async fn command(lines: &mut (impl AsyncBufReadExt + Unpin)) -> std::io::Result<Option<String>> {
    let mut line = String::new();
    lines.read_line(&mut line).await?;
    let Some(count) = line.strip_prefix('*') else { return Ok(None) };
    let mut name = None;
    for _ in 0..count.trim().parse::<usize>().unwrap() {
        let mut length = String::new();
        lines.read_line(&mut length).await?;
        let mut word = vec![0; length.trim()[1..].parse::<usize>().unwrap() + 2];
        lines.read_exact(&mut word).await?;
        name.get_or_insert_with(|| String::from_utf8_lossy(&word).trim().to_owned());
    }
    Ok(name)
}

/// Starts a proxy for RabbitMQ. Each of the `replacements` replaces one of the first methods that
/// have this class and number.
pub async fn rewritten(url: &str, method: (u16, u16), replacements: Vec<Vec<u8>>) -> Fake {
    rewriting(url, method, replacements).await.0
}

/// Like [`rewritten`], but also returns a count of the methods.
pub async fn rewriting(
    url: &str,
    method: (u16, u16),
    replacements: Vec<Vec<u8>>,
) -> (Fake, Arc<AtomicUsize>) {
    let target = url.rsplit('/').next().unwrap().to_owned();
    let (replacements, count) = (Arc::new(replacements), Arc::new(AtomicUsize::new(0)));
    let counted = count.clone();
    let fake = fake(move |client| {
        let (target, replacements, count) = (target.clone(), replacements.clone(), counted.clone());
        async move {
            let (mut from_server, mut to_server) = TcpStream::connect(target).await?.into_split();
            let (mut from_client, mut to_client) = client.into_split();
            tokio::spawn(async move { copy(&mut from_client, &mut to_server).await });
            loop {
                // A frame: type, channel, size, payload, and an end mark.
                let mut frame = vec![0; 7];
                from_server.read_exact(&mut frame).await?;
                let size = u32::from_be_bytes(frame[3..7].try_into().unwrap()) as usize;
                frame.resize(7 + size + 1, 0);
                from_server.read_exact(&mut frame[7..]).await?;
                let found = frame[0] == 1
                    && frame[7..9] == method.0.to_be_bytes()
                    && frame[9..11] == method.1.to_be_bytes();
                if found && let Some(method) = replacements.get(count.fetch_add(1, Ordering::Relaxed)) {
                    frame.truncate(3);
                    frame.extend(u32::try_from(method.len()).unwrap().to_be_bytes());
                    frame.extend(method);
                    frame.push(0xce);
                }
                to_client.write_all(&frame).await?;
            }
        }
    })
    .await;
    (fake, count)
}

/// Returns AMQP's `connection.close` (class 10, method 50) or `channel.close` (20, 40).
pub fn close(class: u16, code: u16, text: &str) -> Vec<u8> {
    let method: u16 = if class == 10 { 50 } else { 40 };
    let mut payload = [class.to_be_bytes(), method.to_be_bytes(), code.to_be_bytes()].concat();
    payload.push(u8::try_from(text.len()).unwrap());
    payload.extend(text.as_bytes());
    payload.extend([0; 4]);
    payload
}
