//! The handshake, beyond the [contract](tests::contract) that every server of the protocol must keep.

use tcp_socket::Limits;
use tcp_socket::limits::REPLIES_KEPT;
use tcp_socket::protocol::handshake::{Hello, random_id};
use tcp_socket::protocol::message::ErrorCode;
use tests::{apply, test};

use crate::support::{Raw, start};

#[apply(test!)]
async fn the_highest_common_version_is_chosen() {
    let server = start(Limits::default()).await;
    let mut raw = Raw::connect(&server.addr).await;
    let hello = Hello { lowest: 0, highest: 9, client_id: random_id().unwrap() }.encode();
    raw.write(&hello).await;
    let welcome = raw.welcome().await;
    assert!(!welcome.remembered);
    let mut again = Raw::connect(&server.addr).await;
    again.write(&hello).await;
    assert!(again.welcome().await.remembered);
    let limits = (welcome.max_payload, welcome.window as usize, welcome.max_watches);
    assert_eq!((welcome.version, limits), (1, (512 * 1024, REPLIES_KEPT, 64)));
    assert_eq!(welcome.idle_timeout, 60_000);
    let other = start(Limits::default()).await;
    let mut raw = Raw::connect(&other.addr).await;
    raw.write(&Hello { lowest: 1, highest: 1, client_id: random_id().unwrap() }.encode()).await;
    assert_ne!(raw.welcome().await.instance_id, welcome.instance_id);
}

#[apply(test!)]
async fn a_single_byte_that_begins_no_hello_is_refused_at_once() {
    let server = start(Limits::default()).await;
    let mut raw = Raw::connect(&server.addr).await;
    raw.write(b"x").await;
    assert_eq!(raw.welcome().await.version, 0);
    assert_eq!(raw.last_error().await, ErrorCode::BadMagic);
}
