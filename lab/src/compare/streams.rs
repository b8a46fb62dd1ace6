//! Measures streams that stay open.

use std::time::{Duration, Instant};

use anyhow::Context;

use super::rounds::{Comparison, Row};
use crate::protocols::{STREAMS, Streamed};
use crate::report::sections::Stream;
use crate::report::statistic::Spread;
use crate::run::meter::Cpu;
use crate::run::placement::Placement;

/// The figures of one round: messages per second, the median time until an acknowledgement in
/// nanoseconds, and the CPU time for all messages.
type Sent = (f64, f64, Cpu);

impl Comparison<'_> {
    /// Sends the plan's number of messages over each kind of stream.
    pub(super) fn streams(&mut self, placement: Placement) -> Vec<Stream> {
        let selected = |way: &&Streamed| self.protocols.iter().any(|one| one.id == way.selected_by);
        let protocols: Vec<_> = STREAMS.iter().filter(selected).map(|way| &way.protocol).collect();
        let levels: Vec<u64> = self.plan.messages.into_iter().collect();
        let way_of = |id: &str| STREAMS.iter().find(|way| way.protocol.id == id);
        let levels = (self.plan.rounds, levels.as_slice());
        let rows = self.rounds_of(&protocols, "streams", placement, levels, async |target, messages| {
            let way = way_of(target.protocol.id).context("there is no such stream")?;
            let mut before = None;
            let begin = || before = Some((target.meter.read(), Instant::now()));
            let times = way.send(&target.address(), usize::try_from(messages)?, begin).await?;
            let (cpu, started) = before.context("nothing was sent")?;
            let per_second = messages as f64 / started.elapsed().as_secs_f64();
            let times: Vec<_> = times.into_iter().map(|time| time.as_nanos() as f64).collect();
            Ok(Some((per_second, Spread::of(&times).median, target.meter.read().since(cpu))))
        });
        let stream = |row: Row<Sent>| {
            let way = way_of(&row.protocol)?;
            let cpu = |time: fn(&Cpu) -> Option<Duration>| {
                row.spread_if_all(|(.., cpu)| Some(time(cpu)?.as_nanos() as f64 / row.level as f64))
            };
            Some(Stream {
                protocol: row.protocol.clone(),
                name: way.protocol.name.into(),
                acknowledged: way.acknowledged.into(),
                messages: row.level,
                per_second: row.spread(|(rate, ..)| *rate),
                p50: row.spread(|(_, time, _)| *time),
                client_cpu: cpu(|cpu| cpu.client),
                server_cpu: cpu(|cpu| cpu.server),
            })
        };
        rows.into_iter().filter_map(stream).collect()
    }
}
