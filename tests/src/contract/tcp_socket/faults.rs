//! The stages about clients that ask for too much or break the rules.

use super::*;

pub(super) async fn limits_payloads(addr: String) -> Checked {
    let mut connection = Connection::open(&addr).await?;
    let length = connection.welcome.max_payload.saturating_add(1);
    let mut header = frame(kind::RECORD, 1, b"");
    header[8..12].copy_from_slice(&length.to_be_bytes());
    connection.write(&header).await?;
    connection.is_closed_with(ErrorCode::FrameTooLarge).await
}

pub(super) async fn limits_batches(addr: String) -> Checked {
    let mut connection = Connection::open(&addr).await?;
    let many = batch(1, &vec![reading(&station(), 1.0); 10_001]);
    connection.ask(kind::RECORD, 1, &many).await?.is_error(1, ErrorCode::InvalidReading)?;
    let none = batch(1, &[]);
    connection.ask(kind::RECORD, 2, &none).await?.is_error(2, ErrorCode::InvalidReading)
}

pub(super) async fn limits_watches(addr: String) -> Checked {
    let station = station();
    let mut connection = Connection::open(&addr).await?;
    connection.record(1, 1, &[reading(&station, 1.0)]).await?;
    let most = connection.welcome.max_watches;
    for id in 2..most.saturating_add(2).min(1000) {
        connection.watch(id, &station).await?;
    }
    let one_more = connection.ask(kind::WATCH, 5000, station.as_bytes()).await?;
    one_more.is_error(5000, ErrorCode::TooManyWatches)?;
    connection.is_alive().await
}

pub(super) async fn limits_the_handshake(addr: String) -> Checked {
    let mut stream = connect(&addr).await?;
    write(&mut stream, b"WSTN").await?;
    refused(stream, ErrorCode::HandshakeTimeout, LATE).await
}

pub(super) async fn checks_checksums(addr: String) -> Checked {
    // One flipped bit in the header, in the checksum, and in the payload.
    for at in [3, 13, 20] {
        let mut connection = Connection::open(&addr).await?;
        let mut flipped = frame(kind::RECORD, 1, &batch(1, &[reading(&station(), 1.0)]));
        flipped[at] ^= 0x10;
        connection.write(&flipped).await?;
        connection.is_closed_with(ErrorCode::BadChecksum).await?;
    }
    Ok(())
}

pub(super) async fn checks_request_ids(addr: String) -> Checked {
    for kind in [kind::PING, kind::CANCEL] {
        let mut connection = Connection::open(&addr).await?;
        connection.write(&frame(kind, 0, b"")).await?;
        connection.is_closed_with(ErrorCode::BadRequestId).await?;
    }
    Ok(())
}

pub(super) async fn checks_goodbyes(addr: String) -> Checked {
    let malformed =
        [frame(kind::GOODBYE, 7, b""), frame(kind::GOODBYE, 0, b"?"), flagged(kind::GOODBYE, 0x8000, 0, b"")];
    for goodbye in malformed {
        let mut connection = Connection::open(&addr).await?;
        connection.write(&goodbye).await?;
        connection.is_closed_with(ErrorCode::BadGoodbye).await?;
    }
    Ok(())
}

pub(super) async fn checks_flags(addr: String) -> Checked {
    let mut connection = Connection::open(&addr).await?;
    for flags in [0x0100, 0x8000] {
        connection.write(&flagged(kind::PING, flags, 1, b"")).await?;
        connection.next("ERROR").await?.is_error(1, ErrorCode::UnknownFlag)?;
    }
    connection.write(&flagged(kind::PING, 0x00ff, 2, b"")).await?;
    connection.next("PONG").await?.is(kind::PONG, 2, b"")
}

pub(super) async fn checks_payloads(addr: String) -> Checked {
    let mut connection = Connection::open(&addr).await?;
    let valid = batch(1, &[reading("a-1", 1.0)]);
    let changed = |at: usize, byte: u8| {
        let mut payload = valid.clone();
        payload[at] = byte;
        payload
    };
    let malformed = [
        valid[..7].to_vec(),               // half a batch ID
        valid[..valid.len() - 1].to_vec(), // a byte is missing
        [&valid[..], b"?"].concat(),       // a byte too many
        changed(8, 0),                     // no station ID
        changed(8, 200),                   // a longer station ID than the payload
        changed(9, b'A'),                  // a character that is not allowed
        changed(13, 9),                    // more readings than the payload holds
        changed(13, 0),                    // a run without readings
    ];
    for payload in malformed {
        connection.ask(kind::RECORD, 1, &payload).await?.is_error(1, ErrorCode::BadPayload)?;
    }
    connection.ask(kind::PING, 2, b"?").await?.is_error(2, ErrorCode::BadPayload)?;
    connection.is_alive().await
}

pub(super) async fn checks_readings(addr: String) -> Checked {
    let mut connection = Connection::open(&addr).await?;
    let station = station();
    for (metric, low, high) in [
        (Metric::Temperature, -100.0, 70.0),
        (Metric::Humidity, 0.0, 100.0),
        (Metric::Pressure, 800.0, 1100.0),
        (Metric::Wind, 0.0, 120.0),
    ] {
        for value in [low - 0.5, high + 0.5, f64::NAN, f64::INFINITY] {
            let payload = batch(1, &[Reading { metric, ..reading(&station, value) }]);
            connection.ask(kind::RECORD, 1, &payload).await?.is_error(1, ErrorCode::InvalidReading)?;
        }
    }
    let late = batch(1, &[Reading { recorded_at: 253_402_300_800_000, ..reading(&station, 1.0) }]);
    connection.ask(kind::RECORD, 2, &late).await?.is_error(2, ErrorCode::InvalidReading)?;
    let mut metric = batch(1, &[reading("a-1", 1.0)]);
    metric[14] = 9;
    connection.ask(kind::RECORD, 3, &metric).await?.is_error(3, ErrorCode::InvalidReading)?;
    // The limits themselves are valid.
    connection.record(4, 1, &[reading(&station, -100.0), reading(&station, 70.0)]).await
}

pub(super) async fn records_all_or_nothing(addr: String) -> Checked {
    let (station, mut watch) = watched_station(&addr).await?;
    let new = super::station();
    let half = batch(2, &[reading(&station, 1.0), reading(&new, 1.0), reading(&station, 71.0)]);
    watch.ask(kind::RECORD, 3, &half).await?.is_error(3, ErrorCode::InvalidReading)?;
    watch.ask(kind::WATCH, 4, new.as_bytes()).await?.is_error(4, ErrorCode::UnknownStation)?;
    sees(&mut watch, 2, &[]).await
}

pub(super) async fn survives(addr: String) -> Checked {
    for bytes in [&b""[..], b"WS", &frame(kind::RECORD, 1, b"half a frame")[..20]] {
        let mut connection = Connection::open(&addr).await?;
        connection.write(bytes).await?;
    }
    drop(connect(&addr).await?);
    Connection::open(&addr).await?.is_alive().await
}
