//! The stages about clients that ask for too much or break the rules.

use super::*;

pub(super) async fn limits_payloads(addr: String) -> Checked {
    let most = Connection::open(&addr).await?.welcome.max_payload;
    for length in [most.saturating_add(1), u32::MAX] {
        let mut header = frame(kind::RECORD, 7, b"");
        header[8..12].copy_from_slice(&length.to_be_bytes());
        closes_after(&addr, &header, ErrorCode::FrameTooLarge).await?;
    }
    Ok(())
}

/// Checks that the server closes a connection after this frame, but first answers the one before it.
async fn closes_after(addr: &str, bad: &[u8], code: ErrorCode) -> Checked {
    let mut connection = Connection::open(addr).await?;
    // A lot of input after the frame stays unread, and must not destroy the error.
    let bytes = [&frame(kind::PING, 1, b""), bad, &vec![0; 4 * 1024 * 1024]].concat();
    connection.write(&bytes).await?;
    connection.next("PONG").await?.is(kind::PONG, 1, b"")?;
    connection.is_closed_with(code).await
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

pub(super) async fn limits_stations(addr: String) -> Checked {
    let mut connection = Connection::open(&addr).await?;
    let many: Vec<_> = (0..1001).map(|number| reading(&format!("full-{number}"), 1.0)).collect();
    connection.ask(kind::RECORD, 1, &batch(1, &many)).await?.is_error(1, ErrorCode::StoreFull)?;
    connection.ask(kind::WATCH, 2, b"full-0").await?.is_error(2, ErrorCode::UnknownStation)
}

pub(super) async fn limits_the_handshake(addr: String) -> Checked {
    let hello = Hello { lowest: 1, highest: 1, client_id: [3; 16] }.encode();
    let mut streams = Vec::new();
    for bytes in [&b""[..], &hello[..4], &hello[..23]] {
        let mut stream = connect(&addr).await?;
        write(&mut stream, bytes).await?;
        streams.push(stream);
    }
    for stream in streams {
        refused(stream, ErrorCode::HandshakeTimeout, LATE).await?;
    }
    Ok(())
}

pub(super) async fn checks_checksums(addr: String) -> Checked {
    // One flipped bit in the header, in the checksum, and in the payload.
    for at in [3, 13, 20] {
        let mut flipped = frame(kind::RECORD, 7, &batch(1, &[reading(&station(), 1.0)]));
        flipped[at] ^= 0x10;
        closes_after(&addr, &flipped, ErrorCode::BadChecksum).await?;
    }
    Ok(())
}

pub(super) async fn checks_request_ids(addr: String) -> Checked {
    for (kind, flags) in [(kind::RECORD, 0), (kind::CANCEL, 0), (kind::PING, 0x8000), (0x0077, 0x8000)] {
        closes_after(&addr, &flagged(kind, flags, 0, b""), ErrorCode::BadRequestId).await?;
    }
    Ok(())
}

pub(super) async fn checks_goodbyes(addr: String) -> Checked {
    for (flags, id, payload) in [
        (0, 0, &b"x"[..]),
        (0, 1, b""),
        (0, 2, b""), // the ID of the open watch
        (0, u32::MAX, b"bye"),
        (0x8000, 0, b""),
        (FLAG_END, 0, b""),
    ] {
        let (_station, mut connection) = watched_station(&addr).await?;
        connection.write(&flagged(kind::GOODBYE, flags, id, payload)).await?;
        // The error ends everything: no END of the watch before it, and no GOODBYE after it.
        connection.is_closed_with(ErrorCode::BadGoodbye).await?;
    }
    let mut connection = Connection::open(&addr).await?;
    connection.write(&flagged(kind::GOODBYE, 0x00ff, 0, b"")).await?; // Not critical, so ignored.
    connection.next("GOODBYE").await?.is(kind::GOODBYE, 0, b"")
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
        Vec::new(),
        valid[..7].to_vec(),               // half a batch ID
        valid[..valid.len() - 1].to_vec(), // a byte is missing
        [&valid[..], b"?"].concat(),       // a byte too many
        changed(8, 0),                     // no station ID
        changed(8, 200),                   // a longer station ID than the payload
        changed(9, b'A'),                  // a character that is not allowed
        changed(9, 0xff),                  // a byte that is not ASCII
        batch(1, &[reading(&"a".repeat(33), 1.0)]),
        changed(13, 0)[..14].to_vec(), // a run without readings, with nothing after it
        changed(13, 9),                // more readings than the payload holds
        changed(13, 0),                // a run without readings
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

pub(super) async fn reports_the_first_fault(addr: String) -> Checked {
    let mut connection = Connection::open(&addr).await?;
    let station = station();
    connection.record(1, 1, &[reading(&station, 1.0)]).await?;
    let join = |id, runs: &[&[u8]]| [&u64::to_be_bytes(id)[..], &runs.concat()].concat();
    let run = |readings: &[_]| batch(2, readings).split_off(8);
    let (good, hot) = (run(&[reading(&station, 1.0)]), run(&[reading(&station, 71.0)]));
    let bad_station = run(&[reading("Oslo", 1.0)]);
    let many = run(&vec![reading(&station, 1.0); 10_000]);
    use ErrorCode::{BadBatchId, BadPayload, InvalidReading};
    for (payload, expected) in [
        (join(2, &[&hot, &bad_station]), InvalidReading), // a value, before the form of a later run
        (join(2, &[&bad_station, &hot]), BadPayload),     // the form of an earlier run
        (join(2, &[&hot[..hot.len() - 1]]), BadPayload),  // the form of a run, before its own values
        (join(2, &[&many, &hot]), InvalidReading),
        (join(2, &[&many, &good, b"\x06"]), BadPayload), // the form, after too many readings
        (join(0, &[]), InvalidReading),                  // no run, and batch ID 0
        (join(0, &[&bad_station]), BadPayload),
        (join(1, &[&hot]), InvalidReading), // a value, and a batch ID that was recorded
        (join(0, &[&good]), BadBatchId),
    ] {
        connection.ask(kind::RECORD, 9, &payload).await?.is_error(9, expected)?;
    }
    let two_runs = join(2, &[&good, &good]);
    connection.ask(kind::RECORD, 9, &two_runs).await?.is(kind::RECORDED, 9, &2_u32.to_be_bytes())
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
