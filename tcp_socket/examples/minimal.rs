//! The whole idea of this chapter in one file.
//!
//! TCP carries a stream of bytes and knows nothing about messages. One `write` can arrive
//! in several reads, and several writes can arrive in one. So a protocol has to say
//! where each message ends. Here, each one begins with its length, in four bytes.
//!
//! ```sh
//! cargo run -p tcp_socket --example minimal
//! ```

use std::io;
use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

#[tokio::main]
async fn main() -> io::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await?; // Port 0: any free one.
    let server = listener.local_addr()?;
    tokio::spawn(serve(listener));
    call(server).await
}

/// The server: accepts connections and gives each one a task.
async fn serve(listener: TcpListener) -> io::Result<()> {
    loop {
        let (stream, _peer) = listener.accept().await?;
        tokio::spawn(respond(stream));
    }
}

/// Serves one connection: sends a response for each request, in the same order.
async fn respond(mut stream: TcpStream) -> io::Result<()> {
    let mut readings = Vec::new();
    while let Some(request) = read_message(&mut stream).await? {
        let response = match parse(&request) {
            Some(reading) => {
                readings.push(reading);
                format!("accepted, {} so far", readings.len())
            }
            None => "error: send <station> <temperature>".to_owned(),
        };
        write_message(&mut stream, &response).await?;
    }
    Ok(())
}

fn parse(request: &str) -> Option<(String, f64)> {
    let (station, temperature) = request.split_once(' ')?;
    Some((station.to_owned(), temperature.parse().ok()?))
}

/// The client: sends three requests and prints what comes back.
async fn call(server: SocketAddr) -> io::Result<()> {
    let mut stream = TcpStream::connect(server).await?;
    for request in ["oslo-1 21.5", "oslo-1 21.7", "oslo-1 warm"] {
        write_message(&mut stream, request).await?;
        println!("client sends:    {request}");
        if let Some(response) = read_message(&mut stream).await? {
            println!("server responds: {response}");
        }
    }
    Ok(())
}

/// Sends a message: its length, then its bytes.
async fn write_message(stream: &mut TcpStream, message: &str) -> io::Result<()> {
    let length = u32::try_from(message.len()).map_err(io::Error::other)?;
    let mut bytes = length.to_be_bytes().to_vec(); // Big-endian, as in most protocols.
    bytes.extend_from_slice(message.as_bytes());
    stream.write_all(&bytes).await
}

/// Receives a message. Returns `None` if the other side has closed the connection. (A real
/// protocol would report an end in the middle of a length as an error.)
async fn read_message(stream: &mut TcpStream) -> io::Result<Option<String>> {
    let mut length = [0; 4];
    match stream.read_exact(&mut length).await {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        result => result?,
    };
    // `read_exact` reads again until all the bytes have arrived. A real server first checks
    // the length against a limit: here, four bytes from a client can reserve 4 GiB.
    let mut message = vec![0; u32::from_be_bytes(length) as usize];
    stream.read_exact(&mut message).await?;
    String::from_utf8(message).map(Some).map_err(io::Error::other)
}
