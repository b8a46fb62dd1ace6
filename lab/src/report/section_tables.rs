//! Shows the sections about networks, subscribers, streams, and many connections as tables.

use std::collections::BTreeSet;

use super::cells::{maybe, more, range, remark};
use super::format::{NONE, digits, grouped, micros, short};
use super::results::{Named, Results};
use super::sections::{Delayed, Delivered};
use super::statistic::Spread;
use super::table::Table;

pub(super) fn round_trips(results: &Results) -> Table {
    let mut table = Table::new(
        "Round trips".into(),
        "How often a client has to wait for bytes to go to the other end and back: once per connection, with TCP's \
         handshake, and for each request. Through a broker, both hops count. Counted with a proxy that delays bytes: \
         the shortest time divided by the delay.",
        &["protocol", "per set-up", "per request"],
    );
    for row in &results.round_trips {
        let name = results.name(&row.protocol).into();
        table.rows.push(vec![name, row.set_up.to_string(), row.request.to_string()]);
    }
    table
}

/// Ranks the protocols at each batch size.
pub(super) fn order(results: &Results) -> Table {
    let mut table = Table::new(
        "The order of the protocols by batch size".into(),
        "From the lowest to the highest p50 per batch. *: in another place than at the previous size.",
        &["readings", "order"],
    );
    let sizes: BTreeSet<u64> = results.batch.rows.iter().map(|row| row.readings).collect();
    let mut before: Vec<&str> = Vec::new();
    for size in sizes {
        let time = |one: &Named| results.batch_of(&one.id, size).unwrap_or(f64::INFINITY);
        let mut ranked: Vec<_> = results.protocols.iter().filter(|one| time(one).is_finite()).collect();
        ranked.sort_by(|one, other| time(one).total_cmp(&time(other)));
        let names: Vec<_> = ranked.iter().map(|one| one.name.as_str()).collect();
        let moved = |at: usize| before.get(at).is_some_and(|name| *name != names[at]);
        let mark = |(at, name): (usize, &&str)| name.to_string() + if moved(at) { "*" } else { "" };
        let marked: Vec<_> = names.iter().enumerate().map(mark).collect();
        table.rows.push(vec![grouped(size as f64), marked.join(", ")]);
        before = names;
    }
    table
}

pub(super) fn network(results: &Results) -> Table {
    let mut title = "Over a network, times in ms".to_owned();
    if let Some(bits) = results.network.iter().find_map(|row| row.bandwidth) {
        title += &format!(", {} Mbit/s", digits(bits as f64 / 1e6));
    }
    let mut table = Table::new(
        title + "; " + &results.throughput.placement.to_string(),
        "A proxy delays each byte by half of the delay in each direction. It delays bytes, not packets, so nothing is \
         lost, and TCP itself notices no delay. set-up: time until the first reply. 1 reading, 100: one request with \
         this many readings. added: how much more that takes than with the tokio echo. rate/s: requests per second \
         with 64 in flight.",
        &["protocol", "delay", "set-up", "added", "1 reading", "added", "100", "added", "rate/s", ""],
    );
    let mut rows: Vec<_> = results.network.iter().collect();
    rows.sort_by_key(|row| row.delay);
    for row in rows {
        let same =
            |id: &str| results.network.iter().find(|other| other.protocol == id && other.delay == row.delay);
        let mut cells = vec![results.name(&row.protocol).into(), digits(row.delay as f64 / 1e6)];
        for figure in [|row: &Delayed| row.set_up, |row: &Delayed| row.one, |row: &Delayed| row.batch] {
            cells.push(digits(figure(row).median / 1e6));
            cells.push(more(&row.protocol, |id| Some(figure(same(id)?).median / 1e6)));
        }
        cells.push(row.per_second.map_or(NONE.into(), |rate| short(rate.median)));
        cells.push(remark([row.one, row.batch].into_iter().find(Spread::is_noisy), 0));
        table.rows.push(cells);
    }
    table
}

pub(super) fn fan_out(results: &Results) -> Table {
    let mut table = Table::new(
        format!("One reading to many subscribers, times in µs; {}", results.throughput.placement),
        "Time from publishing until the first, the median, and the last subscriber has the reading. All subscribers \
         share one core, so with many of them, these times are the client's limit. CPU: of the server or broker, for \
         each delivery; with few subscribers, it is mostly the cost of publishing. added and ×: compared with a \
         bare broadcast, which writes a prepared frame to each socket. kB: memory of the server or broker for each \
         subscriber.",
        &["protocol", "subscribers", "first", "median", "last", "CPU", "added", "×", "kB", ""],
    );
    for row in &results.fan_out {
        let same = |other: &&Delivered| other.protocol == "broadcast" && other.subscribers >= row.subscribers;
        let floor = results.fan_out.iter().find(same).and_then(|floor| floor.cpu);
        let both = row.cpu.zip(floor).filter(|_| row.protocol != "broadcast");
        let both = both.map(|(cpu, floor)| (cpu.median, floor.median));
        table.rows.push(vec![
            row.name.clone(),
            grouped(row.subscribers as f64),
            micros(row.first.median),
            micros(row.median.median),
            micros(row.last.median),
            row.cpu.map_or(NONE.into(), |cpu| micros(cpu.median)),
            both.map_or(NONE.into(), |(cpu, floor)| format!("{:+.2}", (cpu - floor) / 1000.0)),
            both.map_or(NONE.into(), |(cpu, floor)| format!("{:.1}", cpu / floor)),
            // With a few subscribers, other changes of the memory are larger.
            if row.memory > 0.0 && row.subscribers >= 100 {
                digits(row.memory / 1000.0)
            } else {
                NONE.into()
            },
            remark(row.cpu, 0),
        ]);
    }
    table
}

pub(super) fn streams(results: &Results) -> Table {
    let mut table = Table::new(
        format!(
            "Many messages over one connection, times in µs per message; {}",
            results.throughput.placement
        ),
        "messages/s: until all are acknowledged. until acknowledged: median from sending a message to its \
         acknowledgement. Where each message has one, at most 64 wait for theirs.",
        &["protocol", "messages/s", "range", "until acknowledged", "client CPU", "server CPU", ""],
    );
    for row in &results.streams {
        table.note += &format!(" {}: {}", row.name, row.acknowledged);
        table.rows.push(vec![
            row.name.clone(),
            short(row.per_second.median),
            range(Some(row.per_second), short),
            micros(row.p50.median),
            maybe(row.client_cpu),
            maybe(row.server_cpu),
            remark(Some(row.per_second), 0),
        ]);
    }
    table
}

pub(super) fn idle(results: &Results) -> Table {
    let mut table = Table::new(
        format!("Idle connections beside 16 that work; {}", results.throughput.placement),
        "without, with: requests per second of the 16, without and with the idle connections, measured right after each \
         other. kB: memory of the server or broker for each idle connection, without the kernel's buffers. CPU: of the \
         server or broker per request without the idle ones, in µs. added: how much more it is with them, with its range.",
        &["protocol", "idle", "kB", "without", "with", "CPU", "added", "range", ""],
    );
    let signed = |nanoseconds: f64| format!("{:+.2}", nanoseconds / 1000.0);
    for row in &results.idle {
        table.rows.push(vec![
            results.name(&row.protocol).into(),
            grouped(row.connections as f64),
            digits(row.memory / 1000.0),
            short(row.without.median),
            short(row.with.median),
            maybe(row.cpu),
            row.added_cpu.map_or(NONE.into(), |added| signed(added.median)),
            row.added_cpu
                .map_or(NONE.into(), |added| format!("{} to {}", signed(added.low), signed(added.high))),
            remark([row.without, row.with].into_iter().find(Spread::is_noisy), 0),
        ]);
    }
    table
}
