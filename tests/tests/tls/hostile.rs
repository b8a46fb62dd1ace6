//! Clients that send too much where TLS should begin.

use tests::{apply, test};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::chapters::{Bounds, CHAPTERS, within};

/// Far more than the buffers of a socket hold.
const FLOOD: usize = 16 * 1024 * 1024;

#[apply(test!)]
async fn a_refused_client_that_sends_much_still_gets_the_reason() {
    for chapter in &CHAPTERS {
        let server = chapter.start(Bounds::default()).await;
        let (request, refused) = (chapter.request.0, chapter.refused);
        // In the first row, a ClientHello ends after four bytes, and what follows is not TLS. rustls
        // responds with an alert (0x15).
        for (begin, expected) in
            [(&b"\x16\x03\x01\0\x04\x01\0\0\x10"[..], &b"\x15\x03"[..]), (request, refused)]
        {
            let stream = server.tcp().await;
            let (mut reader, mut writer) = stream.into_split();
            let flood = [begin, &vec![b'x'; FLOOD]].concat();
            let sent = tokio::spawn(async move { writer.write_all(&flood).await });
            within(sent).await.unwrap().unwrap();
            let mut received = Vec::new();
            within(reader.read_to_end(&mut received)).await.unwrap();
            assert!(received.starts_with(expected), "{}: {received:?}", chapter.pair.chapter);
        }
        server.stop().await;
    }
}

#[apply(test!)]
async fn others_are_served_beside_many_half_open_handshakes() {
    for chapter in &CHAPTERS {
        let server = chapter.start(Bounds { max_connections: 1001, ..Bounds::default() }).await;
        let mut open = Vec::new();
        for _ in 0..1000 {
            let mut stream = server.tcp().await;
            stream.write_all(b"\x16\x03\x01").await.unwrap();
            open.push(stream);
        }
        let stream = server.request(chapter).await;
        drop((open, stream));
        server.stop().await;
    }
}
