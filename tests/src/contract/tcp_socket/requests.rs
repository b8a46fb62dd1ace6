//! The first four stages: one connection, and requests that the server need not remember.

use super::*;

pub(super) async fn greets(addr: String) -> Checked {
    let welcome = Connection::open(&addr).await?.welcome;
    same("WELCOME: remembered", u16::from(welcome.remembered), 0)?;
    if welcome.max_payload < 300_000 || welcome.window == 0 || welcome.idle_timeout < 1000 {
        let wanted = "WELCOME: a payload of 300,000 bytes (10,000 readings), some replies kept, an idle \
                      timeout of 1 s or more";
        return wrong(wanted, format!("{welcome:?}"));
    }
    Ok(())
}

pub(super) async fn chooses_a_version(addr: String) -> Checked {
    let mut stream = connect(&addr).await?;
    write(&mut stream, &Hello { lowest: 0, highest: 7, client_id: [7; 16] }.encode()).await?;
    same("WELCOME: version", read_welcome(&mut stream, SOON).await?.version, 1)
}

pub(super) async fn greets_in_pieces(addr: String) -> Checked {
    let mut stream = connect(&addr).await?;
    let hello = Hello { lowest: 1, highest: 1, client_id: random_id().unwrap_or_default() }.encode();
    for piece in [&hello[..2], &hello[2..9], &hello[9..]] {
        write(&mut stream, piece).await?;
        sleep(PIECE).await;
    }
    Connection::welcomed(stream).await.map(drop)
}

pub(super) async fn keeps_its_instance_id(addr: String) -> Checked {
    let first = Connection::open(&addr).await?.welcome.instance_id;
    let second = Connection::open(&addr).await?.welcome.instance_id;
    if first == second { Ok(()) } else { wrong("the same instance ID on both connections", "another one") }
}

pub(super) async fn refuses_versions(addr: String) -> Checked {
    for (lowest, highest) in [(2, 3), (0, 0), (2, 1)] {
        let mut stream = connect(&addr).await?;
        write(&mut stream, &Hello { lowest, highest, client_id: [1; 16] }.encode()).await?;
        refused(stream, ErrorCode::UnsupportedVersion, SOON).await?;
    }
    Ok(())
}

pub(super) async fn refuses_other_bytes(addr: String) -> Checked {
    for bytes in [&b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"[..], b"HELLO, and much more than a HELLO has"] {
        let mut stream = connect(&addr).await?;
        write(&mut stream, bytes).await?;
        refused(stream, ErrorCode::BadMagic, SOON).await?;
    }
    Ok(())
}

pub(super) async fn answers_a_ping(addr: String) -> Checked {
    let mut connection = Connection::open(&addr).await?;
    for id in [1, 0xffff_fffe] {
        connection.ask(kind::PING, id, b"").await?.is(kind::PONG, id, b"")?;
    }
    Ok(())
}

pub(super) async fn records_a_reading(addr: String) -> Checked {
    Connection::open(&addr).await?.record(1, 1, &[reading(&station(), -3.5)]).await
}

pub(super) async fn refuses_a_reading(addr: String) -> Checked {
    let mut connection = Connection::open(&addr).await?;
    let hot = batch(1, &[reading(&station(), 71.0)]);
    connection.ask(kind::RECORD, 1, &hot).await?.is_error(1, ErrorCode::InvalidReading)?;
    connection.is_alive().await
}

pub(super) async fn refuses_a_kind(addr: String) -> Checked {
    let mut connection = Connection::open(&addr).await?;
    for kind in [0x00ff, kind::RECORDED, kind::PONG] {
        connection.ask(kind, 1, b"?").await?.is_error(1, ErrorCode::UnknownKind)?;
    }
    connection.is_alive().await
}

pub(super) async fn says_goodbye(addr: String) -> Checked {
    let mut connection = Connection::open(&addr).await?;
    connection.ask(kind::GOODBYE, 0, b"").await?.is(kind::GOODBYE, 0, b"")?;
    connection.is_at_the_end().await
}

pub(super) async fn reads_single_bytes(addr: String) -> Checked {
    let mut connection = Connection::open(&addr).await?;
    for byte in frame(kind::RECORD, 1, &batch(1, &[reading(&station(), 1.0)])) {
        connection.write(&[byte]).await?;
        sleep(Duration::from_millis(1)).await;
    }
    connection.next("RECORDED").await?.is(kind::RECORDED, 1, &1_u32.to_be_bytes())
}

pub(super) async fn reads_two_at_once(addr: String) -> Checked {
    let mut connection = Connection::open(&addr).await?;
    let two = [frame(kind::PING, 1, b""), frame(kind::RECORD, 2, &batch(1, &[reading(&station(), 1.0)]))];
    connection.write(&two.concat()).await?;
    let wanted = "a response to each of two requests";
    let mut responses = [connection.next(wanted).await?, connection.next(wanted).await?];
    responses.sort_by_key(|response| response.id);
    responses[0].is(kind::PONG, 1, b"")?;
    responses[1].is(kind::RECORDED, 2, &1_u32.to_be_bytes())
}

pub(super) async fn reads_across_writes(addr: String) -> Checked {
    let mut connection = Connection::open(&addr).await?;
    // The first write ends within the header of the second request.
    let two = [frame(kind::PING, 1, b""), frame(kind::PING, 2, b"")].concat();
    connection.write(&two[..21]).await?;
    connection.next("PONG").await?.is(kind::PONG, 1, b"")?;
    connection.write(&two[21..]).await?;
    connection.next("PONG").await?.is(kind::PONG, 2, b"")
}

pub(super) async fn reads_a_large_batch(addr: String) -> Checked {
    let mut connection = Connection::open(&addr).await?;
    connection.record(1, 1, &vec![reading(&station(), 1.0); 10_000]).await?;
    connection.is_alive().await
}

pub(super) async fn reads_several_runs(addr: String) -> Checked {
    let (one, two) = (station(), station());
    let readings = [reading(&one, 1.0), reading(&one, 2.0), reading(&two, 3.0), reading(&one, 4.0)];
    Connection::open(&addr).await?.record(1, 1, &readings).await
}

pub(super) async fn is_not_overtaken(addr: String) -> Checked {
    let mut stream = connect(&addr).await?;
    let hello = Hello { lowest: 1, highest: 1, client_id: random_id().unwrap_or_default() }.encode();
    write(&mut stream, &[&hello[..], &frame(kind::PING, 1, b"")].concat()).await?;
    let mut connection = Connection::welcomed(stream).await?;
    connection.next("PONG").await?.is(kind::PONG, 1, b"")
}

pub(super) async fn answers_many(addr: String) -> Checked {
    let mut connection = Connection::open(&addr).await?;
    let station = station();
    let request = |id: u32| match id % 2 {
        0 => frame(kind::PING, id, b""),
        _ => frame(kind::RECORD, id, &batch(id.into(), &[reading(&station, 1.0)])),
    };
    connection.write(&(1..=500).flat_map(request).collect::<Vec<u8>>()).await?;
    let mut responses = BTreeMap::new();
    while responses.len() < 500 {
        let wanted = format!("500 responses, not only {}", responses.len());
        let response = connection.next(&wanted).await?;
        responses.insert(response.id, response);
    }
    for (id, response) in (1..).zip(responses.values()) {
        match id % 2 {
            0 => response.is(kind::PONG, id, b"")?,
            _ => response.is(kind::RECORDED, id, &1_u32.to_be_bytes())?,
        }
    }
    Ok(())
}

pub(super) async fn answers_before_goodbye(addr: String) -> Checked {
    let mut connection = Connection::open(&addr).await?;
    let record = frame(kind::RECORD, 1, &batch(1, &[reading(&station(), 1.0)]));
    connection.write(&[record, frame(kind::GOODBYE, 0, b"")].concat()).await?;
    connection.next("RECORDED").await?.is(kind::RECORDED, 1, &1_u32.to_be_bytes())?;
    connection.next("GOODBYE").await?.is(kind::GOODBYE, 0, b"")?;
    connection.is_at_the_end().await
}

pub(super) async fn answers_at_the_end(addr: String) -> Checked {
    let mut connection = Connection::open(&addr).await?;
    connection.write(&frame(kind::PING, 1, b"")).await?;
    let _ = connection.stream.shutdown().await;
    connection.next("PONG").await?.is(kind::PONG, 1, b"")?;
    connection.next("GOODBYE").await?.is(kind::GOODBYE, 0, b"")?;
    connection.is_at_the_end().await
}
