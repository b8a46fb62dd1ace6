//! Draws plots as SVG. Series differ in color and in shape, so that readers can also tell them
//! apart in print.

use maud::{Markup, PreEscaped, html};

use super::format::trimmed;

const WIDTH: f64 = 860.0;
/// Left edge of the rows, to the right of their names.
const LEFT: f64 = 180.0;
/// Height of a row.
const ROW: f64 = 26.0;
/// Height of the legend.
const TOP: f64 = 34.0;
/// Height of the ticks and the axis's label.
const BOTTOM: f64 = 46.0;

/// A plot.
pub struct Plot {
    /// Its file name, without the extension.
    pub id: &'static str,
    /// Its title.
    pub title: String,
    /// A note on how to read it, which may be empty.
    pub note: &'static str,
    pub(super) drawing: Drawing,
}

/// The elements of a plot, and their total height.
pub(super) struct Drawing {
    height: f64,
    elements: Markup,
}

impl Plot {
    /// Returns an `svg` element that takes its style from the page.
    pub fn inline(&self) -> Markup {
        self.svg(&html! {})
    }

    /// Returns a complete file, with its own style and background, and one element per line.
    pub fn file(&self) -> String {
        let svg = self.svg(&html! {
            style { (PreEscaped(include_str!("plot.css"))) }
            rect.paper width="100%" height="100%" {}
        });
        let lines = svg.into_string().replace("><", ">\n<");
        lines.replace(">\n</", "></").replace(">\n<title", "><title") + "\n"
    }

    fn svg(&self, head: &Markup) -> Markup {
        let Drawing { height, elements } = &self.drawing;
        html! {
            svg.plot xmlns="http://www.w3.org/2000/svg" viewBox={ "0 0 " (WIDTH) " " (height) }
                role="img" aria-label=(self.title) { (head) (elements) }
        }
    }
}

/// An axis from its first tick to its last.
struct Axis {
    ticks: Vec<f64>,
    logarithmic: bool,
    from: f64,
    to: f64,
}

/// Returns 1, 2, and 5 times each power of ten, in rising order.
fn round_numbers() -> impl Iterator<Item = f64> {
    (-6..=15).flat_map(|decade| [1.0, 2.0, 5.0].map(|digit| digit * 10_f64.powi(decade)))
}

impl Axis {
    /// Returns an axis for positive values, from pixel `from` to pixel `to`, or `None` if there are
    /// no values.
    fn logarithmic(values: impl Iterator<Item = f64> + Clone, from: f64, to: f64) -> Option<Self> {
        let (low, high) = (values.clone().reduce(f64::min)?, values.reduce(f64::max)?);
        let below = round_numbers().take_while(|&tick| tick <= low).last()?;
        let above = round_numbers().find(|&tick| tick >= high && tick > below)?;
        let ticks = round_numbers().filter(|tick| (below..=above).contains(tick)).collect();
        Some(Self { ticks, logarithmic: true, from, to })
    }

    /// Returns an axis from 0 to `highest` with at most six steps.
    fn linear(highest: f64, from: f64, to: f64) -> Option<Self> {
        let step = round_numbers().find(|step| highest / step <= 6.0)?;
        let steps = (highest / step).ceil().max(1.0) as u32;
        Some(Self {
            ticks: (0..=steps).map(|at| f64::from(at) * step).collect(),
            logarithmic: false,
            from,
            to,
        })
    }

    /// Returns the position of a value, in pixels.
    fn at(&self, value: f64) -> f64 {
        let scale = |value: f64| if self.logarithmic { value.ln() } else { value };
        let (low, high) = (scale(self.ticks[0]), scale(self.ticks[self.ticks.len() - 1]));
        rounded(self.from + (scale(value) - low) / (high - low) * (self.to - self.from))
    }
}

/// Rounds to a tenth of a pixel.
fn rounded(pixels: f64) -> f64 {
    (pixels * 10.0).round() / 10.0
}

/// Draws the grid lines from top to bottom, their values, and the axis's label.
fn axis_below(axis: &Axis, label: &str, top: f64, bottom: f64) -> Markup {
    html! {
        @for &tick in &axis.ticks {
            line.grid x1=(axis.at(tick)) x2=(axis.at(tick)) y1=(top) y2=(bottom) {}
            text.tick x=(axis.at(tick)) y=(bottom + 12.0) { (trimmed(tick)) }
        }
        text.label x=(f64::midpoint(axis.from, axis.to)) y=(bottom + 32.0) { (label) }
    }
}

/// One shape for each protocol, all centered on (0, 0): a circle, a square, a diamond, four
/// triangles, a cross, an x, an hourglass, and a bow tie.
const SHAPES: [&str; 11] = [
    "M-5 0a5 5 0 0 0 10 0a5 5 0 0 0-10 0z",
    "M-5-5H5V5H-5z",
    "M0-6.5 6.5 0 0 6.5-6.5 0z",
    "M0-6 6 5H-6z",
    "M0 6 6-5H-6z",
    "M6 0-5 6V-6z",
    "M-6 0 5 6V-6z",
    "M-2-6H2V-2H6V2H2V6H-2V2H-6V-2H-2z",
    "M-3-6 0-3 3-6 6-3 3 0 6 3 3 6 0 3-3 6-6 3-3 0-6-3z",
    "M-6-6H6L-6 6H6z",
    "M-6-6V6L6-6V6z",
];

/// Draws a mark in the color and shape of its series.
fn mark(series: usize, x: f64, y: f64, tooltip: &str) -> Markup {
    let shape = SHAPES[series % SHAPES.len()];
    html! {
        path class={ "mark s" (series % 10) } d=(shape) transform={ "translate(" (x) " " (y) ")" } {
            title { (tooltip) }
        }
    }
}

/// A protocol's name and the values of its series. Only positive values are drawn.
type Row<'a> = (&'a str, Vec<f64>);

/// Draws a row for each protocol, with a legend above and the axis below. `sign` draws the symbol
/// of a series in the legend, and `draw` the values of a row.
fn draw_rows(
    (axis, unit): (&Axis, &str),
    legend: &[&str],
    rows: &[Row<'_>],
    sign: impl Fn(usize, f64) -> Markup,
    draw: impl Fn(&Row<'_>, f64) -> Markup,
) -> Drawing {
    let used = |series: usize| rows.iter().any(|(_, values)| values[series] > 0.0);
    let names = legend.iter().enumerate().filter(|(series, _)| used(*series));
    let signs = names.scan(LEFT + 6.0, |next, (series, name)| {
        let x = std::mem::replace(next, *next + 34.0 + 7.0 * name.chars().count() as f64);
        Some((series, name, x))
    });
    let bottom = TOP + ROW * rows.len() as f64;
    let elements = html! {
        @for (series, name, x) in signs {
            (sign(series, x))
            text.legend x=(x + 12.0) y="14" { (name) }
        }
        (axis_below(axis, unit, TOP, bottom))
        @for (at, row) in rows.iter().enumerate() {
            @let y = TOP + ROW * (at as f64 + 0.5);
            text.name x=(LEFT - 10.0) y=(y) { (row.0) }
            (draw(row, y))
        }
    };
    Drawing { height: bottom + BOTTOM, elements }
}

/// Draws a mark for each value, on a logarithmic axis.
pub(super) fn dots(unit: &str, legend: &[&str], rows: &[Row<'_>]) -> Option<Drawing> {
    let positive = |row: &Row<'_>| row.1.clone().into_iter().filter(|&value| value > 0.0);
    let values: Vec<f64> = rows.iter().flat_map(positive).collect();
    let axis = Axis::logarithmic(values.into_iter(), LEFT, WIDTH - 30.0)?;
    let sign = |series: usize, x: f64| mark(series, x, 14.0, legend[series]);
    let draw = |row: &Row<'_>, y: f64| {
        html! {
            polyline.span points={ @for value in positive(row) { (axis.at(value)) "," (y) " " } } {}
            // The first series is drawn last, so that it is on top.
            @for (series, &value) in row.1.iter().enumerate().rev().filter(|(_, value)| **value > 0.0) {
                (mark(series, axis.at(value), y, &format!("{}, {}: {}", row.0, legend[series], trimmed(value))))
            }
        }
    };
    Some(draw_rows((&axis, unit), legend, rows, sign, draw))
}

/// Draws the values of a row as one stacked bar, from 0.
pub(super) fn bars(unit: &str, legend: &[&str], rows: &[Row<'_>]) -> Option<Drawing> {
    let highest = rows.iter().map(|(_, parts)| parts.iter().sum()).reduce(f64::max)?;
    let axis = Axis::linear(highest, LEFT, WIDTH - 70.0)?; // Leaves space for the total on the right.
    let bar = |series: usize, x: f64, y: f64, width: f64, height: f64, tooltip: &str| {
        html! {
            rect class={ "bar s" (series) } x=(x) y=(y - height / 2.0) width=(rounded(width)) height=(height) {
                title { (tooltip) }
            }
        }
    };
    let sign = |series: usize, x: f64| bar(series, x - 6.0, 14.0, 12.0, 10.0, legend[series]);
    let draw = |(name, parts): &Row<'_>, y: f64| {
        let total = parts.iter().sum();
        html! {
            @for (series, &part) in parts.iter().enumerate().filter(|(_, part)| **part > 0.0) {
                @let from = axis.at(parts[..series].iter().sum());
                @let tooltip = format!("{name}, {}: {}", legend[series], trimmed(part));
                (bar(series, from, y, axis.at(part) - LEFT, ROW - 8.0, &tooltip))
            }
            text.legend x=(axis.at(total) + 6.0) y=(y) { (trimmed(total)) }
        }
    };
    Some(draw_rows((&axis, unit), legend, rows, sign, draw))
}

/// A protocol's name and the points of its line.
type Line<'a> = (&'a str, Vec<(f64, f64)>);

/// Draws a line for each protocol on two logarithmic axes, with the names on the right.
pub(super) fn lines([below, beside]: [&str; 2], lines: &[Line<'_>]) -> Option<Drawing> {
    let (top, bottom) = (20.0, 380.0);
    let points = lines.iter().flat_map(|(_, points)| points.iter().copied());
    let x = Axis::logarithmic(points.clone().map(|(x, _)| x), 80.0, WIDTH - 206.0)?;
    let y = Axis::logarithmic(points.map(|(_, y)| y), bottom, top)?;
    let drawn = lines.iter().enumerate().filter(|(_, (_, points))| !points.is_empty());
    let elements = html! {
        (axis_below(&x, below, top, bottom))
        @for &tick in &y.ticks {
            line.grid x1=(x.from) x2=(x.to) y1=(y.at(tick)) y2=(y.at(tick)) {}
            text.tick.beside x=(x.from - 8.0) y=(y.at(tick)) { (trimmed(tick)) }
        }
        text.label transform={ "translate(16 " (f64::midpoint(top, bottom)) ") rotate(-90)" } { (beside) }
        @for (at, (series, (name, points))) in drawn.enumerate() {
            polyline class={ "line s" (series % 10) }
                points={ @for &(a, b) in points { (x.at(a)) "," (y.at(b)) " " } } {}
            @for &(a, b) in points {
                (mark(series, x.at(a), y.at(b), &format!("{name}: {} at {}", trimmed(b), trimmed(a))))
            }
            @let middle = top + 8.0 + 22.0 * at as f64;
            (mark(series, x.to + 24.0, middle, name))
            text.legend x=(x.to + 36.0) y=(middle) { (name) }
        }
    };
    Some(Drawing { height: bottom + BOTTOM, elements })
}
