//! The chooser in `report.html`: six questions lead to a protocol, with the figures of this run.
//! Without JavaScript, it is a table of all answers.

use maud::{Markup, html};

use super::format::{NONE, digits, grouped, micros};
use super::page::figure;
use super::results::Results;

/// Shows the rows that fit the answers so far.
pub(super) const SCRIPT: &str = include_str!("chooser.js");

/// A question: its name in the conditions, its text, and its answers with their names.
type Question = (&'static str, &'static str, &'static [(&'static str, &'static str)]);

const YES_OR_NO: &[(&str, &str)] = &[("yes", "yes"), ("no", "no")];

/// The questions of `docs/use_cases.md` that decide, in its order.
const QUESTIONS: [Question; 6] = [
    ("away", "May the receiver be away when you send?", YES_OR_NO),
    ("waits", "Is somebody waiting for the result?", YES_OR_NO),
    ("outside", "Does a browser or a third party call?", YES_OR_NO),
    (
        "sends",
        "Who sends on its own initiative?",
        &[("both", "both sides"), ("server", "only the server"), ("nobody", "nobody: request, response")],
    ),
    ("contract", "Do you need streams, or many calls with a fixed contract?", YES_OR_NO),
    ("scarce", "Are bytes or CPU time so scarce that you will maintain a protocol?", YES_OR_NO),
];

/// A choice: the answers that lead to it, what to use, and the row of the tables with its figures.
const CHOICES: [(&str, &str, &str); 8] = [
    ("away=yes", "message queue", "rabbitmq_publish"),
    ("away=no waits=no", "message queue", "rabbitmq_publish"),
    ("away=no waits=yes outside=yes sends=both", "WebSocket", "websocket"),
    ("away=no waits=yes outside=yes sends=server", "HTTP with server-sent events", "http_rest"),
    ("away=no waits=yes outside=yes sends=nobody", "HTTP/REST", "http_rest"),
    ("away=no waits=yes outside=no contract=yes", "gRPC", "grpc_unary"),
    ("away=no waits=yes outside=no contract=no scarce=yes", "your own protocol over TCP", "tcp_socket"),
    ("away=no waits=yes outside=no contract=no scarce=no", "HTTP/REST", "http_rest"),
];

/// Returns the questions and the table.
pub(super) fn chooser(results: &Results) -> Markup {
    let columns = ["use", "latency µs", "CPU µs", "requests/s", "bytes", "kB/connection", "because"];
    let table = html! {
        table {
            thead { tr { @for column in columns { th { (column) } } } }
            tbody {
                @for (conditions, choice, id) in CHOICES {
                    tr data-if=(conditions) {
                        td { (choice) }
                        @for cell in cells(results, id) { td { (cell) } }
                        td.sentence { (because(conditions)) }
                    }
                }
            }
        }
    };
    html! {
        section.chooser {
            @for (name, question, answers) in QUESTIONS {
                fieldset name=(name) hidden {
                    legend { (question) }
                    @for (value, answer) in answers {
                        label { input type="radio" name=(name) value=(value); (answer) }
                    }
                }
            }
            (figure("Which protocol?", &table, "The figures are for one small request on this machine (for the queue, RabbitMQ publish). If \
                two candidates are left, choose the one you know best."))
        }
    }
}

fn cells(results: &Results, id: &str) -> [String; 5] {
    let rates = results.throughput.rows.iter().filter(|row| row.protocol == id);
    let rate = rates.map(|row| row.per_second.median).reduce(f64::max);
    let memory = results.memory.iter().find(|row| row.protocol == id).map(|row| row.per_connection);
    let memory = memory.filter(|bytes| *bytes > 0.0);
    let show = |figure: Option<f64>, format: fn(f64) -> String| figure.map_or(NONE.into(), format);
    [
        show(results.latency_of(id), micros),
        show(results.cpu_of(id), micros),
        show(rate, grouped),
        show(results.bytes_of(id, 1), grouped),
        show(memory, |bytes| digits(bytes / 1000.0)),
    ]
}

/// Returns the questions and answers that lead to a choice. The answers to the first two
/// questions are left out where more follow, since all those choices share them.
fn because(conditions: &str) -> String {
    let conditions = conditions.replace("away=no ", "").replace("waits=yes ", "");
    let answered = conditions.split(' ').filter_map(|condition| {
        let (name, value) = condition.split_once('=')?;
        let (_, question, answers) = QUESTIONS.iter().find(|question| question.0 == name)?;
        Some(format!("{question} {}.", answers.iter().find(|answer| answer.0 == value)?.1))
    });
    answered.collect::<Vec<_>>().join(" ")
}
