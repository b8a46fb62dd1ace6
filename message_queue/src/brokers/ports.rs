//! Finds free ports.

use std::io;
use std::net::{Ipv4Addr, TcpListener};

/// Range of the ports to try. It is below the ephemeral ports, since a closed connection may still
/// hold one of those.
const PORTS: std::ops::Range<u16> = 20_000..32_000;

pub(super) fn is_free(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
}

pub(super) fn free_port() -> io::Result<u16> {
    (0..1_000)
        .map(|_| fastrand::u16(PORTS))
        .find(|port| is_free(*port))
        .ok_or_else(|| io::Error::other("no free port found"))
}
