//! The page of a run: `faults.html`. Each experiment has a timeline, which opens to show what passed
//! around the fault.

use maud::{Markup, html};

use super::client::Told;
use super::results::{Dot, Experiment, Results};
use super::tables;
use crate::report::page::page;
use crate::report::tables::conditions;

/// Width and height of a timeline, in pixels.
const SIZE: (f64, f64) = (640.0, 34.0);

/// The colors of the dots: CSS classes that all pages share, with their meanings.
const COLORS: [(&str, &str); 5] = [
    ("s2", "done and kept"),
    ("s4", "unknown"),
    ("s7", "not done"),
    ("s1", "lost, doubled, or altered, as the promise allows"),
    ("s8", "against the promise"),
];

/// Returns the whole page.
pub(super) fn html(results: &Results) -> String {
    let content = html! {
        p {
            "A dot is a request at the moment when the client began it; its line is the time until the client said "
            "something about it. Where the background is shaded, something was broken. Open a timeline to see what "
            "passed between client and server around the fault."
        }
        p.legend { @for (class, meaning) in COLORS { span class=(class) { (meaning) } } }
        h2 { "Conditions" }
        table.conditions {
            @for (name, value) in conditions(&results.conditions) { tr { th { (name) } td { (value) } } }
        }
        @let surprises = results.surprises();
        @if !surprises.is_empty() {
            h2 { "Surprises" }
            ul { @for surprise in surprises { li { (surprise) } } }
        }
        @for experiments in results.experiments.chunk_by(|one, next| one.fault == next.fault && one.in_flight == next.in_flight) {
            h2 {
                (experiments[0].fault_name())
                @if experiments[0].in_flight > 1 { ", " (experiments[0].in_flight) " calls in flight" }
            }
            @for experiment in experiments { (timeline(experiment)) }
        }
        @for table in tables::tables(results) { (table.html()) }
    };
    page("What happens when it breaks", include_str!("page.css"), "", &content)
}

/// Returns an experiment: its timeline, which opens to show the exchange.
fn timeline(experiment: &Experiment) -> Markup {
    let (width, height) = SIZE;
    let first = experiment.dots.iter().map(|dot| dot.at_ms).fold(0.0, f64::min);
    let last = experiment.dots.iter().map(|dot| dot.at_ms + dot.took_ms).fold(1.0, f64::max);
    let x = |at: f64| (at - first) / (last - first) * width;
    let place = |at: f64| format!("{:.1}", x(at));
    let marks = [
        (Some(0.0), "the fault"),
        (experiment.knew_ms, "the client knew"),
        (experiment.again_ms, "it worked again"),
        (experiment.noticed_ms, "the server noticed"),
    ];
    let broken = experiment.mended_ms.unwrap_or(0.0).min(last);
    html! {
        details.experiment {
            summary {
                b { (experiment.row_name()) } " " span.outcome { (tables::outcome(experiment)) }
                svg viewBox={ "0 0 " (width) " " (height) } role="img" aria-label=(experiment) {
                    rect.broken x=(place(0.0)) y="0" width={ (format!("{:.1}", (x(broken) - x(0.0)).max(1.5))) } height=(height) {}
                    @for (at, what) in marks {
                        @if let Some(at) = at {
                            line.mark x1=(place(at)) x2=(place(at)) y1="0" y2=(height) {
                                title { (what) ", " (format!("{at:.1} ms")) }
                            }
                        }
                    }
                    @for dot in &experiment.dots {
                        g class=(color(dot)) {
                            line.call x1=(place(dot.at_ms)) x2=(place(dot.at_ms + dot.took_ms)) y1="17" y2="17" {}
                            circle.dot cx=(place(dot.at_ms)) cy="17" r=(if color(dot) == "s2" { 2 } else { 4 }) {
                                title { (describe(dot)) }
                            }
                        }
                    }
                }
                span.times {
                    "from " (format!("{:.1} s before to {:.1} s after", -first / 1000.0, last / 1000.0)) " the fault"
                }
            }
            pre { (experiment.exchange) }
        }
    }
}

fn color(dot: &Dot) -> &'static str {
    match dot.told {
        _ if dot.lie => "s8",
        Told::Unknown => "s4",
        Told::NotDone => "s7",
        Told::Done if dot.executed == 1 && !dot.altered => "s2",
        Told::Done => "s1",
    }
}

fn describe(dot: &Dot) -> String {
    let told = match dot.told {
        Told::Done => "done",
        Told::NotDone => "not done",
        Told::Unknown => "nobody knows",
    };
    let times = match dot.executed {
        _ if dot.altered => "it is there, but altered".to_owned(),
        0 => "it is not there".to_owned(),
        1 => "it is there once".to_owned(),
        executed => format!("it is there {executed} times"),
    };
    format!("at {:.1} ms, after {:.1} ms: \"{told}\"; {times}", dot.at_ms, dot.took_ms)
}
