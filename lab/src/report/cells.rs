//! Formats the cells that several tables share.

use super::format::{NONE, grouped, micros};
use super::results::BASELINE;
use super::statistic::Spread;

pub(super) fn maybe(spread: Option<Spread>) -> String {
    spread.map_or(NONE.into(), |spread| micros(spread.median))
}

pub(super) fn range(spread: Option<Spread>, show: impl Fn(f64) -> String) -> String {
    spread.map_or(NONE.into(), |spread| format!("{}–{}", show(spread.low), show(spread.high)))
}

/// Formats how much more than the tokio echo's a protocol's time in nanoseconds is, in µs.
pub(super) fn added(id: &str, time: impl Fn(&str) -> Option<f64>) -> String {
    more(id, |id| Some(time(id)? / 1000.0))
}

/// Formats how much more than the tokio echo's a protocol's figure is.
pub(super) fn more(id: &str, figure: impl Fn(&str) -> Option<f64>) -> String {
    let both = figure(id).zip(figure(BASELINE)).filter(|_| id != BASELINE);
    match both.map(|(figure, baseline)| figure - baseline) {
        None => NONE.into(),
        Some(more) if more < 100.0 => format!("{:+.1}", (more * 10.0).round() / 10.0 + 0.0), // No "-0.0".
        Some(more) => format!("+{}", grouped(more)),
    }
}

/// Returns the text of a row's last column, which is empty if there is nothing to report.
pub(super) fn remark(spread: Option<Spread>, errors: u64) -> String {
    let noisy = spread.is_some_and(|spread| spread.is_noisy());
    let errors = (errors > 0).then(|| format!("{errors} errors"));
    [noisy.then(|| "noisy".to_owned()), errors].into_iter().flatten().collect::<Vec<_>>().join(", ")
}
