//! Compares what a client said with what was executed.

use std::collections::HashMap;

use super::breakage::{Breakage, What};
use super::client::{Request, Told};
use super::results::{Counts, Dot, Experiment};
use super::row::{Keeps, Row};
use crate::wire::fault::Kind;

/// Maximum number of ordinary requests that a timeline shows, and maximum number of others.
const MAX_DOTS: usize = 100;

/// Time beyond which a call or a pause is noticeable, in microseconds. Without a fault, a call
/// usually takes less than five milliseconds, and calls begin five milliseconds apart.
const NOTICEABLE: u64 = 25_000;

/// Counts one experiment. `truth` holds a line for each execution, and `lives` says how many lines
/// `truth` had each time the server lost its memory. The last argument says when something broke, and
/// when it was mended.
pub fn count(
    row: &Row,
    breakage: &Breakage,
    in_flight: u64,
    log: &[Request],
    truth: &[String],
    lives: &[usize],
    (struck, mended): (u64, Option<u64>),
) -> Experiment {
    let mut counts = Counts { requests: log.len() as u64, ..Counts::default() };
    let executed = executed(row, log, truth, lives);
    let mut altered = executed.altered;
    let mut dots = Vec::new();
    for request in log {
        let (ever, now) = executed.of(request.number);
        let is_altered = ever == 0 && altered > 0 && request.told != Told::NotDone;
        if is_altered {
            altered -= 1;
            counts.altered += 1;
        }
        let exists = ever > 0 || is_altered;
        let doubled = now > 1;
        counts.doubled += u64::from(doubled);
        let may_double =
            !row.recognizes && (row.repeats || matches!(breakage.what, What::Connection(Kind::Repeat)));
        let mut lie = (doubled && !may_double) || (is_altered && row.checks);
        match request.told {
            Told::Done if !exists => {
                let allowed = row.keeps == Keeps::Perhaps;
                counts.lost += u64::from(allowed);
                lie |= !allowed;
            }
            Told::Done if now == 0 && ever > 0 => counts.lost += 1,
            Told::Done => counts.kept += u64::from(!is_altered),
            Told::Unknown => {
                counts.unknown += 1;
                counts.unknown_executed += u64::from(exists);
            }
            Told::NotDone => {
                counts.not_done += 1;
                lie |= exists;
            }
        }
        counts.lies += u64::from(lie);
        dots.push(Dot {
            at_ms: milliseconds(request.started, struck),
            took_ms: (request.ended.saturating_sub(request.started)) as f64 / 1000.0,
            told: request.told,
            executed: now.max(usize::from(is_altered)),
            altered: is_altered,
            lie,
        });
    }
    // A request may have been executed twice: as it was sent, and from a damaged copy.
    counts.altered += altered as u64;
    counts.lies += if row.checks { altered as u64 } else { 0 };
    let dots = thinned(dots);
    let (knew, again) = times(log, struck);
    let knew = knew.filter(|_| breakage.what != What::ClientKilled);
    let recovered =
        log.iter().any(|request| request.told == Told::Done && request.started > mended.unwrap_or(struck));
    Experiment {
        row: row.id.into(),
        fault: breakage.id.into(),
        in_flight,
        counts,
        knew_ms: knew,
        again_ms: again,
        recovered,
        noticed_ms: None,
        mended_ms: mended.map(|mended| milliseconds(mended, struck)),
        dots,
        errors: Vec::new(),
        exchange: String::new(),
    }
}

/// Leaves out some of the ordinary requests if there are too many.
fn thinned(dots: Vec<Dot>) -> Vec<Dot> {
    let is_ordinary = |dot: &Dot| {
        dot.told == Told::Done
            && dot.executed == 1
            && !dot.altered
            && dot.took_ms * 1000.0 < NOTICEABLE as f64
    };
    let ordinary = dots.iter().filter(|dot| is_ordinary(dot)).count();
    let (each, rest) =
        (ordinary.div_ceil(MAX_DOTS).max(1), (dots.len() - ordinary).div_ceil(MAX_DOTS).max(1));
    let (mut seen, mut others) = (0, 0);
    let keep = |dot: &Dot| {
        let (count, each) = if is_ordinary(dot) { (&mut seen, each) } else { (&mut others, rest) };
        *count += 1;
        *count % each == 0
    };
    dots.into_iter().filter(keep).collect()
}

/// What was executed.
struct Executed {
    /// How often each request was executed: in all, and since the server last lost its memory.
    counts: HashMap<u64, (usize, usize)>,
    /// Number of lines that belong to no request.
    altered: usize,
}

impl Executed {
    fn of(&self, number: u64) -> (usize, usize) {
        self.counts.get(&number).copied().unwrap_or_default()
    }
}

/// Returns whether everything that the client called done was executed.
pub(super) fn all_done_are_there(row: &Row, log: &[Request], truth: &[String]) -> bool {
    let executed = executed(row, log, truth, &[]);
    let done = log.iter().filter(|request| request.told == Told::Done);
    done.filter(|request| executed.of(request.number).0 == 0).count() <= executed.altered
}

fn executed(row: &Row, log: &[Request], truth: &[String], lives: &[usize]) -> Executed {
    // The line of a chat message ends with its text, after the room, the name, and the message ID.
    let lines: HashMap<String, u64> =
        log.iter().map(|request| ((row.line)(request.number), request.number)).collect();
    let mut executed = Executed { counts: HashMap::new(), altered: 0 };
    let forgets = row.keeps == Keeps::WhileItRuns;
    let last = if forgets { lives.last().copied().unwrap_or(0) } else { 0 };
    for (at, line) in truth.iter().enumerate() {
        let text = line.rsplit_once(' ').map_or(&line[..], |(_, text)| text);
        match lines.get(line).or_else(|| lines.get(text)) {
            Some(number) => {
                let (ever, now) = executed.counts.entry(*number).or_default();
                *ever += 1;
                *now += usize::from(at >= last);
            }
            None => executed.altered += 1,
        }
    }
    executed
}

/// Returns the time after which the client knew that something was wrong, and the time after which it
/// worked again.
///
/// The client knew when a call first failed after the fault. If none failed, the client dealt with
/// the fault on its own, and this is the end of the longest call. The client worked again at the end of
/// the longest time without a success. A time is missing if no call failed or took noticeably long, or
/// if there was no noticeably long time without a success.
fn times(log: &[Request], struck: u64) -> (Option<f64>, Option<f64>) {
    let after = || log.iter().filter(|request| request.ended >= struck);
    let since = |at: u64| milliseconds(at, struck);
    let failed = after().filter(|request| request.told != Told::Done).map(|request| request.ended).min();
    let longest = after().max_by_key(|request| request.ended.saturating_sub(request.started));
    let longest = longest.filter(|request| request.ended.saturating_sub(request.started) > NOTICEABLE);
    let knew = failed.or(longest.map(|request| request.ended)).map(since);
    let mut successes: Vec<_> =
        after().filter(|request| request.told == Told::Done).map(|request| request.ended).collect();
    successes.sort_unstable();
    let starts = std::iter::once(struck).chain(successes.iter().copied());
    let gap = starts.zip(&successes).max_by_key(|(start, end)| *end - start);
    (knew, gap.filter(|(start, end)| *end - start > NOTICEABLE).map(|(_, end)| since(*end)))
}

fn milliseconds(at: u64, struck: u64) -> f64 {
    (at as f64 - struck as f64) / 1000.0
}
