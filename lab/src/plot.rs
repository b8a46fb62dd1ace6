//! The results as plots: three kinds of drawing, written as SVG by hand. Series
//! differ by colour and by shape, so that they can be told apart in print.

use std::fmt::Write;

use crate::results::Results;
use crate::table::escaped;

/// Colours for light and for dark surroundings; print is light. Those of the
/// series are Okabe and Ito's, which colour-blind readers can tell apart.
pub const STYLE: &str = include_str!("plot.css");

const WIDTH: f64 = 860.0;
/// Left edge of the drawing, right of the names.
const LEFT: f64 = 170.0;
const ROW: f64 = 26.0;
/// Height of the legend.
const TOP: f64 = 34.0;
/// Height of ticks and the axis's label.
const BOTTOM: f64 = 46.0;
/// Room at the right for a number.
const RIGHT: f64 = 70.0;

/// A plot.
pub struct Plot {
    /// Its name as a file.
    pub id: &'static str,
    /// What it shows.
    pub title: String,
    height: f64,
    body: String,
}

impl Plot {
    /// An `svg` element that takes its colours from the page.
    pub fn inline(&self) -> String {
        self.element("")
    }

    /// A whole file, with the style and a background of its own.
    pub fn file(&self) -> String {
        self.element(&format!(
            "<style>{STYLE}</style>\n<rect class=\"paper\" width=\"100%\" height=\"100%\"/>\n"
        ))
    }

    fn element(&self, head: &str) -> String {
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {:.0}\" class=\"plot\" role=\"img\" \
             aria-label=\"{}\">\n{head}{}</svg>\n",
            self.height,
            escaped(&self.title),
            self.body
        )
    }
}

/// All plots that the results have rows for.
pub fn plots(results: &Results) -> Vec<Plot> {
    [latency(results), throughput(results), fixed_rate(results), bytes(results), cpu(results), batch(results)]
        .into_iter()
        .flatten()
        .collect()
}

fn latency(results: &Results) -> Option<Plot> {
    let rows = results.latency.rows.iter().map(|row| {
        let points = [row.p50, row.p90, row.p99, row.p999, Some(row.max)];
        let points = points.map(|spread| spread.map(|spread| spread.median / 1000.0));
        (results.name(&row.protocol), points.to_vec())
    });
    let legend = ["p50", "p90", "p99", "p99.9", "max"].map(String::from);
    let title = format!("Latency with one in flight; {}", results.latency.placement);
    dots("latency", title, "time in µs, logarithmic", &legend, &rows.collect::<Vec<_>>())
}

fn throughput(results: &Results) -> Option<Plot> {
    let all = &results.throughput.rows;
    let mut levels: Vec<u64> = all.iter().map(|row| row.in_flight).collect();
    levels.sort_unstable();
    levels.dedup();
    let mut protocols: Vec<&str> = all.iter().map(|row| row.protocol.as_str()).collect();
    protocols.dedup();
    let points =
        |protocol: &str| levels.iter().map(|&level| results.rate_of(protocol, level)).collect::<Vec<_>>();
    let rows: Vec<_> = protocols.iter().map(|protocol| (results.name(protocol), points(protocol))).collect();
    let legend: Vec<_> = levels.iter().map(|level| format!("{level} in flight")).collect();
    let title = format!("Throughput; {}", results.throughput.placement);
    dots("throughput", title, "requests per second, logarithmic", &legend, &rows)
}

fn fixed_rate(results: &Results) -> Option<Plot> {
    let point = |row: &crate::results::FixedRate| Some((row.offered as f64, row.p99?.median / 1000.0));
    let series = results.protocols.iter().map(|protocol| {
        let rows = results.fixed_rate.rows.iter().filter(|row| row.protocol == protocol.id);
        (protocol.name.as_str(), rows.filter_map(point).collect())
    });
    let title = format!("Latency against offered load, p99; {}", results.fixed_rate.placement);
    let axes =
        ["offered requests per second, logarithmic", "p99 in µs from the intended moment, logarithmic"];
    lines("fixed_rate", title, axes, &series.collect::<Vec<_>>())
}

fn batch(results: &Results) -> Option<Plot> {
    let point = |row: &crate::results::Batch| {
        Some((row.readings as f64, row.p50?.median / 1000.0 / row.readings as f64))
    };
    let series = results.protocols.iter().map(|protocol| {
        let rows = results.batch.rows.iter().filter(|row| row.protocol == protocol.id);
        (protocol.name.as_str(), rows.filter_map(point).collect())
    });
    let title = format!("Time per reading by batch; {}", results.batch.placement);
    let axes = ["readings in a batch, logarithmic", "p50 per reading in µs, logarithmic"];
    lines("batch", title, axes, &series.collect::<Vec<_>>())
}

fn bytes(results: &Results) -> Option<Plot> {
    let rows = results.bytes.iter().map(|row| {
        // An echo sends its payload twice.
        let payload = row.payload as f64;
        (results.name(&row.protocol), vec![payload, row.total() - payload])
    });
    let legend = ["payload", "overhead"].map(String::from);
    let title = "Bytes per request, one reading, both directions".to_owned();
    bars("bytes", title, "bytes of TCP payload", &legend, &rows.collect::<Vec<_>>())
}

fn cpu(results: &Results) -> Option<Plot> {
    let rows = results.latency.rows.iter().filter(|row| row.client_cpu.is_some()).map(|row| {
        let parts = [row.client_cpu, row.server_cpu, row.broker_cpu];
        (results.name(&row.protocol), parts.map(|part| part.map_or(0.0, |it| it.median / 1000.0)).to_vec())
    });
    let legend = ["client", "server", "broker"].map(String::from);
    let title = format!("CPU time per request; {}", results.latency.placement);
    bars("cpu", title, "CPU time in µs", &legend, &rows.collect::<Vec<_>>())
}

/// An axis from the drawing's one edge to the other.
struct Axis {
    low: f64,
    high: f64,
    logarithmic: bool,
    from: f64,
    to: f64,
}

impl Axis {
    /// Around the values, which are positive, out to a 1, 2 or 5 of a decade.
    fn logarithmic(values: impl Iterator<Item = f64> + Clone, from: f64, to: f64) -> Self {
        let low = values.clone().fold(f64::INFINITY, f64::min);
        let high = values.fold(0.0, f64::max);
        let ticks = ticks_of_decades(low / 5.0, high * 5.0);
        let below = ticks.iter().copied().filter(|&tick| tick <= low).fold(low, |_, tick| tick);
        let above = ticks
            .iter()
            .copied()
            .rfind(|&tick| tick < high)
            .map_or(high, |last| ticks.iter().copied().find(|&tick| tick > last).unwrap_or(high));
        Self { low: below, high: above.max(below * 2.0), logarithmic: true, from, to }
    }

    /// From 0 to a little beyond the highest.
    fn linear(highest: f64, from: f64, to: f64) -> Self {
        Self { low: 0.0, high: highest.max(1e-9) * 1.02, logarithmic: false, from, to }
    }

    fn at(&self, value: f64) -> f64 {
        let share = if self.logarithmic {
            (value / self.low).ln() / (self.high / self.low).ln()
        } else {
            (value - self.low) / (self.high - self.low)
        };
        self.from + share * (self.to - self.from)
    }

    /// Values with a line of the grid.
    fn ticks(&self) -> Vec<f64> {
        if self.logarithmic {
            return ticks_of_decades(self.low, self.high);
        }
        let step = 10_f64.powf((self.high / 5.0).log10().floor());
        let step = [1.0, 2.0, 5.0, 10.0].map(|by| by * step).into_iter().find(|step| self.high / step <= 6.0);
        let step = step.unwrap_or(self.high);
        (0..=6).map(|at| f64::from(at) * step).filter(|&tick| tick <= self.high).collect()
    }
}

/// 1, 2 and 5 of each decade within the bounds.
fn ticks_of_decades(low: f64, high: f64) -> Vec<f64> {
    let decades = low.log10().floor() as i32..=high.log10().ceil() as i32;
    let ticks = decades.flat_map(|decade| [1.0, 2.0, 5.0].map(|digit| digit * 10_f64.powi(decade)));
    // A little room for the rounding of powers.
    ticks.filter(|&tick| tick >= low * 0.999 && tick <= high * 1.001).collect()
}

fn number(value: f64) -> String {
    match value {
        value if value >= 1e6 => format!("{}M", trimmed(value / 1e6)),
        value if value >= 1e4 => format!("{}k", trimmed(value / 1e3)),
        value => trimmed(value),
    }
}

fn trimmed(value: f64) -> String {
    let digits = if value >= 100.0 {
        0
    } else if value >= 1.0 {
        1
    } else {
        2
    };
    let text = format!("{value:.digits$}");
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

/// Grid lines from top to bottom with their values, and the axis's label.
fn axis_below(body: &mut String, axis: &Axis, label: &str, top: f64, bottom: f64) {
    for tick in axis.ticks() {
        let x = axis.at(tick);
        let _ = writeln!(
            body,
            "<line class=\"grid\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{top:.1}\" y2=\"{bottom:.1}\"/>"
        );
        text(body, x, bottom + 16.0, "middle", "tick", &number(tick));
    }
    text(body, f64::midpoint(axis.from, axis.to), bottom + 36.0, "middle", "label", label);
}

fn text(body: &mut String, x: f64, y: f64, anchor: &str, class: &str, content: &str) {
    let content = escaped(content);
    let _ = writeln!(
        body,
        "<text class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{content}</text>"
    );
}

/// The sign of a series: its colour and shape, and its name as a tooltip.
fn mark(body: &mut String, series: usize, x: f64, y: f64, tooltip: &str) {
    let r = 5.0;
    let points: &[(f64, f64)] = match (series + series / 10) % 5 {
        0 => &[],
        1 => &[(-1.0, -1.0), (1.0, -1.0), (1.0, 1.0), (-1.0, 1.0)],
        2 => &[(0.0, -1.3), (1.3, 0.0), (0.0, 1.3), (-1.3, 0.0)],
        3 => &[(0.0, -1.2), (1.2, 1.0), (-1.2, 1.0)],
        _ => &[(0.0, 1.2), (1.2, -1.0), (-1.2, -1.0)],
    };
    let class = format!("mark s{}", series % 10);
    let title = format!("<title>{}</title>", escaped(tooltip));
    let _ = if points.is_empty() {
        writeln!(body, "<circle class=\"{class}\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"{r}\">{title}</circle>")
    } else {
        let corners: Vec<_> =
            points.iter().map(|(dx, dy)| format!("{:.1},{:.1}", x + dx * r, y + dy * r)).collect();
        writeln!(body, "<polygon class=\"{class}\" points=\"{}\">{title}</polygon>", corners.join(" "))
    };
}

fn legend_above(body: &mut String, legend: &[String], sign: impl Fn(&mut String, usize, f64, f64)) {
    let mut x = LEFT + 6.0;
    for (series, name) in legend.iter().enumerate() {
        sign(body, series, x, 14.0);
        text(body, x + 12.0, 18.0, "start", "tick", name);
        x += 34.0 + 7.0 * name.chars().count() as f64;
    }
}

/// A row for each protocol, with a mark for each series, on a logarithmic axis.
fn dots(
    id: &'static str,
    title: String,
    unit: &str,
    legend: &[String],
    rows: &[(&str, Vec<Option<f64>>)],
) -> Option<Plot> {
    let values = rows.iter().flat_map(|(_, points)| points).flatten().copied().filter(|&value| value > 0.0);
    values.clone().next()?;
    let axis = Axis::logarithmic(values, LEFT, WIDTH - 30.0);
    let mut body = String::new();
    let bottom = TOP + ROW * rows.len() as f64;
    axis_below(&mut body, &axis, unit, TOP, bottom);
    for (at, (name, points)) in rows.iter().enumerate() {
        let y = TOP + ROW * (at as f64 + 0.5);
        text(&mut body, LEFT - 10.0, y + 4.0, "end", "name", name);
        let shown: Vec<f64> = points.iter().flatten().copied().filter(|&value| value > 0.0).collect();
        let low = axis.at(shown.iter().copied().fold(f64::INFINITY, f64::min));
        let high = axis.at(shown.iter().copied().fold(0.0, f64::max));
        if !shown.is_empty() {
            let _ = writeln!(
                body,
                "<line class=\"span\" x1=\"{low:.1}\" x2=\"{high:.1}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>"
            );
        }
        // The first series last, to lie on top.
        for (series, value) in points.iter().enumerate().rev() {
            if let Some(value) = value.filter(|&value| value > 0.0) {
                mark(
                    &mut body,
                    series,
                    axis.at(value),
                    y,
                    &format!("{name}, {}: {}", legend[series], number(value)),
                );
            }
        }
    }
    legend_above(&mut body, legend, |body, series, x, y| mark(body, series, x, y, &legend[series]));
    Some(Plot { id, title, height: bottom + BOTTOM, body })
}

/// A bar for each protocol, of the series one after the other, from 0.
fn bars(
    id: &'static str,
    title: String,
    unit: &str,
    legend: &[String],
    rows: &[(&str, Vec<f64>)],
) -> Option<Plot> {
    let highest = rows.iter().map(|(_, parts)| parts.iter().sum()).reduce(f64::max)?;
    let axis = Axis::linear(highest, LEFT, WIDTH - RIGHT);
    let mut body = String::new();
    let bottom = TOP + ROW * rows.len() as f64;
    axis_below(&mut body, &axis, unit, TOP, bottom);
    for (at, (name, parts)) in rows.iter().enumerate() {
        let y = TOP + ROW * at as f64 + 4.0;
        text(&mut body, LEFT - 10.0, y + 13.0, "end", "name", name);
        let mut from = 0.0;
        for (series, part) in parts.iter().enumerate().filter(|(_, part)| **part > 0.0) {
            let (x, width) = (axis.at(from), axis.at(from + part) - axis.at(from));
            let tooltip = escaped(&format!("{name}, {}: {}", legend[series], number(*part)));
            let _ = writeln!(
                body,
                "<rect class=\"bar s{series}\" x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{:.1}\">\
                 <title>{tooltip}</title></rect>",
                ROW - 8.0
            );
            from += part;
        }
        text(&mut body, axis.at(from) + 6.0, y + 13.0, "start", "tick", &number(from));
    }
    let used = |series: usize| rows.iter().any(|(_, parts)| parts[series] > 0.0);
    let legend: Vec<String> =
        legend.iter().enumerate().filter(|(at, _)| used(*at)).map(|(_, it)| it.clone()).collect();
    legend_above(&mut body, &legend, |body, series, x, y| {
        let _ = writeln!(
            body,
            "<rect class=\"bar s{series}\" x=\"{:.1}\" y=\"{:.1}\" width=\"12\" height=\"10\"/>",
            x - 6.0,
            y - 5.0
        );
    });
    Some(Plot { id, title, height: bottom + BOTTOM, body })
}

/// A line for each protocol, both axes logarithmic, the names at the right.
fn lines(
    id: &'static str,
    title: String,
    [below, beside]: [&str; 2],
    series: &[(&str, Vec<(f64, f64)>)],
) -> Option<Plot> {
    const HEIGHT: f64 = 360.0;
    let points = series.iter().flat_map(|(_, points)| points).copied();
    points.clone().next()?;
    let x = Axis::logarithmic(points.clone().map(|(x, _)| x), 80.0, WIDTH - 190.0);
    let y = Axis::logarithmic(points.map(|(_, y)| y), 20.0 + HEIGHT, 20.0);
    let mut body = String::new();
    axis_below(&mut body, &x, below, 20.0, 20.0 + HEIGHT);
    for tick in y.ticks() {
        let at = y.at(tick);
        let _ = writeln!(
            body,
            "<line class=\"grid\" x1=\"{:.1}\" x2=\"{:.1}\" y1=\"{at:.1}\" y2=\"{at:.1}\"/>",
            x.from, x.to
        );
        text(&mut body, x.from - 8.0, at + 4.0, "end", "tick", &number(tick));
    }
    let middle = 20.0 + HEIGHT / 2.0;
    let _ = writeln!(
        body,
        "<text class=\"label\" text-anchor=\"middle\" transform=\"translate(20 {middle:.0}) rotate(-90)\">{}</text>",
        escaped(beside)
    );
    let mut legend_y = 32.0;
    for (at, (name, points)) in series.iter().enumerate().filter(|(_, (_, points))| !points.is_empty()) {
        let path: Vec<_> = points.iter().map(|&(a, b)| format!("{:.1},{:.1}", x.at(a), y.at(b))).collect();
        let _ = writeln!(body, "<polyline class=\"line s{}\" points=\"{}\"/>", at % 10, path.join(" "));
        for &(a, b) in points {
            mark(&mut body, at, x.at(a), y.at(b), &format!("{name}: {} at {}", number(b), number(a)));
        }
        mark(&mut body, at, x.to + 24.0, legend_y - 4.0, name);
        text(&mut body, x.to + 36.0, legend_y, "start", "tick", name);
        legend_y += 22.0;
    }
    Some(Plot { id, title, height: 20.0 + HEIGHT + BOTTOM, body })
}
