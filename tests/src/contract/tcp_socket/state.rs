//! The stages about what a server has to remember: batches and watches.

use super::*;

/// Checks that a watch sees each of `values` once, and nothing else.
pub(super) async fn sees(watch: &mut Connection, id: u32, values: &[f64]) -> Checked {
    watch.write(&frame(kind::CANCEL, id, b"")).await?;
    let mut seen = Vec::new();
    loop {
        let received = watch.next("READING with END").await?;
        if received.flags == FLAG_END {
            break;
        }
        seen.extend(received.values(id)?);
    }
    same("readings recorded:", format!("{seen:?}"), format!("{values:?}"))
}

/// Records a first reading of a new station, and watches it from then on.
pub(super) async fn watched_station(addr: &str) -> Checked<(String, Connection)> {
    let station = station();
    let mut watch = Connection::open(addr).await?;
    watch.record(1, 1, &[reading(&station, 0.0)]).await?;
    watch.watch(2, &station).await?;
    Ok((station, watch))
}

pub(super) async fn records_once(addr: String) -> Checked {
    let (station, mut watch) = watched_station(&addr).await?;
    let mut connection = Connection::open(&addr).await?;
    for id in 1..=3 {
        connection.record(id, 1, &[reading(&station, 1.0)]).await?;
    }
    // The server compares only the ID.
    let other = batch(1, &[reading(&station, 2.0), reading(&station, 3.0)]);
    connection.ask(kind::RECORD, 4, &other).await?.is(kind::RECORDED, 4, &1_u32.to_be_bytes())?;
    connection.record(5, 2, &[reading(&station, 4.0)]).await?;
    sees(&mut watch, 2, &[1.0, 4.0]).await
}

pub(super) async fn remembers_a_client(addr: String) -> Checked {
    let client_id = random_id().unwrap_or_default();
    let mut first = Connection::open_as(&addr, client_id).await?;
    same("WELCOME to a new client: remembered", u16::from(first.welcome.remembered), 0)?;
    first.record(1, 1, &[reading(&station(), 1.0)]).await?;
    let second = Connection::open_as(&addr, client_id).await?;
    same("WELCOME to a client that comes back: remembered", u16::from(second.welcome.remembered), 1)
}

pub(super) async fn records_once_in_all(addr: String) -> Checked {
    let (station, mut watch) = watched_station(&addr).await?;
    let client_id = random_id().unwrap_or_default();
    for _ in 0..2 {
        let mut connection = Connection::open_as(&addr, client_id).await?;
        connection.record(1, 1, &[reading(&station, 1.0)]).await?;
    }
    let mut stranger = Connection::open(&addr).await?;
    stranger.record(1, 1, &[reading(&station, 2.0)]).await?;
    sees(&mut watch, 2, &[1.0, 2.0]).await
}

pub(super) async fn accepts_a_correction(addr: String) -> Checked {
    let mut connection = Connection::open(&addr).await?;
    let station = station();
    let wrong = batch(1, &[reading(&station, 99.0)]);
    connection.ask(kind::RECORD, 1, &wrong).await?.is_error(1, ErrorCode::InvalidReading)?;
    connection.record(2, 1, &[reading(&station, 9.0), reading(&station, 9.5)]).await
}

pub(super) async fn refuses_batch_ids(addr: String) -> Checked {
    let one = [reading(&station(), 1.0)];
    let (first, jump) = (1 << 63, 1 << 32);
    for (before, refused, accepted) in [
        (None, 0, 1),
        (None, u64::MAX, 1),
        (None, first + 1, first),
        (Some(1), 0, 2),
        (Some(1), first, 2),
        (Some(1), jump + 2, jump + 1),
        (Some(first), first + jump + 1, first + jump),
    ] {
        let mut connection = Connection::open(&addr).await?;
        if let Some(before) = before {
            connection.record(1, before, &one).await?;
        }
        let response = connection.ask(kind::RECORD, 2, &batch(refused, &one)).await?;
        response.is_error(2, ErrorCode::BadBatchId)?;
        // The refused ID was not remembered, so the next valid batch is recorded.
        connection.record(3, accepted, &one).await?;
    }
    Ok(())
}

pub(super) async fn knows_its_range(addr: String) -> Checked {
    let (station, mut watch) = watched_station(&addr).await?;
    let mut connection = Connection::open(&addr).await?;
    let kept = u64::from(connection.welcome.window);
    // Now batch 1 is the oldest in the kept range, and batch 2 has not been recorded.
    for (id, batch_id, value) in [(1, 1, 1.0), (2, kept, 2.0), (3, 1, 3.0), (4, 2, 4.0), (5, kept + 1, 5.0)] {
        connection.record(id, batch_id, &[reading(&station, value)]).await?;
    }
    let again = batch(1, &[reading(&station, 6.0)]);
    connection.ask(kind::RECORD, 6, &again).await?.is_error(6, ErrorCode::UnknownOutcome)?;
    connection.record(7, 2, &[reading(&station, 7.0)]).await?;
    // After a jump far ahead, the range holds no earlier batch.
    connection.record(8, kept + 1 + (1 << 32), &[reading(&station, 8.0)]).await?;
    let response = connection.ask(kind::RECORD, 9, &batch(kept + 1, &[reading(&station, 9.0)])).await?;
    response.is_error(9, ErrorCode::UnknownOutcome)?;
    sees(&mut watch, 2, &[1.0, 2.0, 4.0, 5.0, 8.0]).await
}

pub(super) async fn watches(addr: String) -> Checked {
    let (station, mut watch) = watched_station(&addr).await?;
    watch.watch(3, &station).await?;
    let mut other = Connection::open(&addr).await?;
    other.record(1, 1, &[reading(&station, 1.0), reading(&station, 2.0)]).await?;
    other.record(2, 2, &[reading(&station, 3.0)]).await?;
    sees_without_response(&mut watch, &[2, 3], &[1.0, 2.0, 3.0]).await
}

/// Checks that each of these watches gets these values, in any number of frames.
async fn sees_without_response(watch: &mut Connection, ids: &[u32], values: &[f64]) -> Checked {
    let mut seen: BTreeMap<u32, Vec<f64>> = ids.iter().map(|id| (*id, Vec::new())).collect();
    while seen.values().any(|seen| seen.len() < values.len()) {
        let received = watch.next(&format!("READING frames with {values:?}, not only {seen:?}")).await?;
        let Some(of_watch) = seen.get_mut(&received.id) else {
            return wrong(format!("READING of one of the watches {ids:?}"), received);
        };
        of_watch.extend(received.values(received.id)?);
    }
    for (id, seen) in seen {
        same(&format!("watch #{id} sees"), format!("{seen:?}"), format!("{values:?}"))?;
    }
    Ok(())
}

pub(super) async fn watches_one_station(addr: String) -> Checked {
    let (station, mut watch) = watched_station(&addr).await?;
    let mut other = Connection::open(&addr).await?;
    let readings = [reading(&super::station(), 1.0), reading(&station, 2.0), reading(&super::station(), 3.0)];
    other.record(1, 1, &readings).await?;
    sees(&mut watch, 2, &[2.0]).await
}

pub(super) async fn cancels(addr: String) -> Checked {
    let (station, mut watch) = watched_station(&addr).await?;
    watch.ask(kind::CANCEL, 2, b"").await?.is_flagged(kind::READING, FLAG_END, 2, &[0; 8])?;
    watch.record(3, 2, &[reading(&station, 1.0)]).await?;
    watch.is_alive().await?;
    watch.watch(2, &station).await // The ID is free again.
}

pub(super) async fn cancels_nothing(addr: String) -> Checked {
    let mut connection = Connection::open(&addr).await?;
    connection.write(&frame(kind::CANCEL, 9, b"")).await?;
    connection.is_alive().await
}

pub(super) async fn ends_watches(addr: String) -> Checked {
    // A client that ends its direction of the stream without a GOODBYE gets the same.
    for polite in [true, false] {
        let (station, mut watch) = watched_station(&addr).await?;
        watch.watch(3, &station).await?;
        if polite {
            watch.write(&frame(kind::GOODBYE, 0, b"")).await?;
        } else {
            let _ = watch.stream.shutdown().await;
        }
        let mut ended = Vec::new();
        for _ in 0..2 {
            let received = watch.next("READING with END for each of two watches").await?;
            received.is_flagged(kind::READING, FLAG_END, received.id, &[0; 8])?;
            ended.push(received.id);
        }
        ended.sort_unstable();
        same("READING with END for watches", format!("{ended:?}"), "[2, 3]".to_owned())?;
        watch.next("GOODBYE").await?.is(kind::GOODBYE, 0, b"")?;
        watch.is_at_the_end().await?;
    }
    Ok(())
}

pub(super) async fn refuses_a_watch(addr: String) -> Checked {
    let mut connection = Connection::open(&addr).await?;
    let unknown = station();
    connection.ask(kind::WATCH, 1, unknown.as_bytes()).await?.is_error(1, ErrorCode::UnknownStation)?;
    for malformed in [&b""[..], b"Oslo", &[b'a'; 33]] {
        connection.ask(kind::WATCH, 1, malformed).await?.is_error(1, ErrorCode::BadPayload)?;
    }
    connection.is_alive().await
}

pub(super) async fn guards_watch_ids(addr: String) -> Checked {
    let good = batch(1, &[reading("a-1", 1.0)]);
    // The ID is checked before the rest of the frame.
    for (kind, flags, payload) in [
        (kind::RECORD, 0, &good[..]),
        (kind::RECORD, 0x8000, &good),
        (kind::RECORD, 0, b"nonsense"),
        (kind::WATCH, 0, b"check-nowhere"),
        (kind::PING, 0x0100, b""),
        (kind::PING, 0, b"x"),
        (kind::READING, FLAG_END, b""),
        (0x0077, 0xff00, b""),
    ] {
        let (_station, mut watch) = watched_station(&addr).await?;
        watch.write(&flagged(kind, flags, 2, payload)).await?;
        watch.is_closed_with(ErrorCode::BadRequestId).await?;
    }
    Ok(())
}

pub(super) async fn ends_a_malformed_cancel(addr: String) -> Checked {
    use ErrorCode::{BadPayload, UnknownFlag};
    for (flags, payload, expected) in
        [(0, &b"x"[..], BadPayload), (0x8000, b"", UnknownFlag), (FLAG_END, b"", UnknownFlag)]
    {
        let (station, mut watch) = watched_station(&addr).await?;
        let cancel = flagged(kind::CANCEL, flags, 2, payload);
        watch.write(&cancel).await?;
        watch.next("ERROR").await?.is_error(2, expected)?;
        // The watch is over: it gets no more readings, and its ID is free.
        Connection::open(&addr).await?.record(1, 1, &[reading(&station, 1.0)]).await?;
        watch.ask(kind::PING, 2, b"").await?.is(kind::PONG, 2, b"")?;
        watch.write(&cancel).await?; // No response comes without such a watch.
        watch.is_alive().await?;
    }
    Ok(())
}
