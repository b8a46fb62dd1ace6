//! The beginning of a server for the Weather Station Protocol: it only does the handshake.
//!
//! rustc -o target/my_server tests/exercises/starters/tcp_socket.rs
//! cargo run --bin check -- tcp_socket --server 'target/my_server {addr}'
use std::io::{Read, Result, Write};
use std::net::{Shutdown, TcpListener, TcpStream};

const ERROR: u16 = 0x1ff;

fn crc32c(data: &[u8]) -> u32 {
    !data.iter().fold(!0, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| crc >> 1 ^ if crc & 1 == 1 { 0x82f6_3b78 } else { 0 })
    })
}

fn send(connection: &mut TcpStream, kind: u16, request_id: u32, payload: &[u8]) -> Result<()> {
    let mut frame = [kind.to_be_bytes(), 0_u16.to_be_bytes()].concat();
    frame.extend(request_id.to_be_bytes());
    frame.extend((payload.len() as u32).to_be_bytes());
    let checksum = crc32c(&[&frame, payload].concat());
    frame.extend(checksum.to_be_bytes());
    frame.extend(payload);
    connection.write_all(&frame)
}

fn serve(mut connection: TcpStream, instance_id: [u8; 16]) -> Result<()> {
    let mut hello = [0; 24];
    connection.read_exact(&mut hello[..4])?;
    let is_hello = hello.starts_with(b"WSTN");
    if is_hello {
        connection.read_exact(&mut hello[4..])?;
    }
    let [lowest, highest] = [4, 6].map(|at| u16::from_be_bytes([hello[at], hello[at + 1]]));
    let version = u16::from(is_hello && lowest <= 1 && 1 <= highest);
    let mut welcome = b"WSTN".to_vec();
    welcome.extend([version.to_be_bytes(), 0_u16.to_be_bytes()].concat());
    welcome.extend(instance_id);
    welcome.extend([524_288_u32, 1024, 64, 60_000].map(u32::to_be_bytes).concat());
    connection.write_all(&welcome)?;
    if version == 0 {
        send(&mut connection, ERROR, 0, if is_hello { &[0, 2] } else { &[0, 1] })?;
        connection.shutdown(Shutdown::Write)?;
    }
    while connection.read(&mut [0; 4096])? > 0 {} // Your part: read frames, and answer them.
    Ok(())
}

fn main() -> Result<()> {
    let listener = TcpListener::bind(std::env::args().nth(1).expect("an address"))?;
    let mut instance_id = [0; 16];
    std::fs::File::open("/dev/urandom")?.read_exact(&mut instance_id)?;
    for connection in listener.incoming() {
        let connection = connection?;
        std::thread::spawn(move || serve(connection, instance_id));
    }
    Ok(())
}
