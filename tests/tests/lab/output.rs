//! Checks how results are shown: as tables, in documents, and as a page.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use lab::report::format::utc;
use lab::report::predictions::{self, PREDICTIONS};
use lab::report::results::Results;
use lab::report::{comparison, diff, docs, table, tables};
use lab::run::placement::Placement;
use regex::Regex;
use serde_json::Value;
use tests::{apply, test};

/// Returns the results of a run with long names, large figures, and errors.
fn sample() -> Results {
    serde_json::from_str(include_str!("sample.json")).unwrap()
}

/// Returns the results that the documents show.
fn kept() -> Results {
    Results::parse(&fs::read_to_string(repository().join(docs::KEPT)).unwrap()).unwrap()
}

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

#[apply(test!)]
async fn tables_fit_the_terminal() {
    let mut noisy = kept();
    noisy.throughput.placement = Placement::Same;
    noisy.throughput.rows.iter_mut().for_each(|row| row.per_second.high *= 1.3);
    noisy.latency.rows.iter_mut().filter_map(|row| row.p50.as_mut()).for_each(|p50| p50.high *= 1.3);
    assert_eq!(tables::tables(&sample()).len(), 20);
    for table in tables::tables(&sample()).into_iter().chain(tables::tables(&noisy)) {
        let shown = table.terminal();
        // The narrowest column has words, not a letter in each line.
        let letters = shown.lines().filter(|line| line.trim().chars().count() == 1).count();
        assert_eq!(letters, 0, "a column is squeezed in\n{shown}");
        for line in shown.lines() {
            assert!(line.chars().count() <= usize::from(table::WIDTH), "too wide: {line}\nin\n{shown}");
        }
    }
    let shown: String = tables::tables(&sample()).iter().map(table::Table::terminal).collect();
    for expected in [
        "noisy",
        "7 errors",
        "saturated",
        "unsent",
        "missing",
        "not yet processed",
        "(+26.4, ×4.3)",
        "very low",
        "–",
        "apt-get",
    ] {
        assert!(shown.contains(expected), "{expected:?} is not in\n{shown}");
    }
}

#[apply(test!)]
async fn the_report_escapes_all_text() {
    let page = comparison::html(&sample());
    assert!(page.contains("&lt;refused&gt;") && !page.contains("<refused>"));
}

/// Assumes that a character is 6.5 pixels wide and 12 pixels high.
#[apply(test!)]
async fn labels_in_plots_do_not_overlap() {
    let text = Regex::new(r#"<text class="([\w ]+)" x="([\d.]+)" y="([\d.]+)">([^<]+)<"#).unwrap();
    for (name, svg) in docs::images(&sample()).into_iter().chain(docs::images(&kept())) {
        let texts = text.captures_iter(&svg).map(|found| {
            let (_, [class, x, y, content]) = found.extract();
            let (x, width) = (x.parse::<f64>().unwrap(), 6.5 * content.chars().count() as f64);
            let left = match class {
                "legend" => x,
                "tick" | "label" => x - width / 2.0,
                _ => x - width,
            };
            (content, left, left + width, y.parse::<f64>().unwrap())
        });
        let texts: Vec<_> = texts.collect();
        assert!(texts.len() > 10, "{name}: {texts:?}");
        for (at, one) in texts.iter().enumerate() {
            assert!(one.1 >= 0.0 && one.2 <= 860.0, "{name}: {one:?} is outside");
            let over = |other: &&(_, f64, f64, f64)| {
                one.1 < other.2 && other.1 < one.2 && (one.3 - other.3).abs() < 12.0
            };
            assert_eq!(texts[..at].iter().find(over), None, "{name}: {one:?} overlaps it");
        }
    }
}

#[apply(test!)]
async fn times_are_shown_in_utc() {
    assert_eq!(utc(0), "1970-01-01 00:00 UTC");
    assert_eq!(utc(951_782_400), "2000-02-29 00:00 UTC");
    assert_eq!(utc(951_868_800), "2000-03-01 00:00 UTC");
    assert_eq!(utc(1_767_225_599), "2025-12-31 23:59 UTC");
    assert_eq!(utc(1_767_225_600), "2026-01-01 00:00 UTC");
}

/// Collects the names of all fields in `value`.
fn fields(value: &Value, into: &mut BTreeSet<String>) {
    match value {
        Value::Object(object) => {
            into.extend(object.keys().cloned());
            object.values().for_each(|value| fields(value, into));
        }
        Value::Array(values) => values.iter().for_each(|value| fields(value, into)),
        _ => {}
    }
}

#[apply(test!)]
async fn every_field_of_the_results_is_documented() {
    let mut all = BTreeSet::new();
    fields(&serde_json::to_value(sample()).unwrap(), &mut all);
    assert!(all.len() > 50, "{all:?}");
    let readme = fs::read_to_string(repository().join("lab/README.md")).unwrap();
    let missing: Vec<_> = all.iter().filter(|field| !readme.contains(&format!("`{field}`"))).collect();
    assert!(missing.is_empty(), "not in lab/README.md: {missing:?}");
}

#[apply(test!)]
async fn the_document_lists_every_prediction_word_for_word() {
    let document = fs::read_to_string(repository().join("docs/performance_comparison.md")).unwrap();
    let links = Regex::new(r"\[([^\]]*)\]\([^)]*\)").unwrap();
    // Links become plain text, and wrapped lines become one.
    let text = links.replace_all(&document, "$1").split_whitespace().collect::<Vec<_>>().join(" ");
    for (at, prediction) in PREDICTIONS.iter().enumerate() {
        let listed = format!(" {}. {} ", at + 1, prediction.claim);
        assert!(text.contains(&listed), "not in docs/performance_comparison.md: {listed}");
    }
}

/// The expected values are computed by hand from the sample. It lacks gRPC, WebSocket, and Redis.
#[apply(test!)]
async fn the_figures_decide_the_predictions() {
    let mut answered = sample();
    answered.answers = vec![Some(false), Some(true), None, Some(false)];
    let table = predictions::table(&answered);
    let said: Vec<_> = table.rows.iter().map(|row| row[4].as_str()).take(5).collect();
    assert_eq!(said, ["no: wrong", "yes", "–", "no: right", "–"]);
    assert!(table.note.ends_with("You were right about 1 of 2."), "{}", table.note);
    let decided = predictions::table(&sample()).rows;
    let outcome: Vec<_> = decided.iter().map(|row| (row[2].as_str(), row[3].as_str())).collect();
    let lacking = ("–", "–");
    let expected = [
        ("×1.2", "yes"), // 9.4 µs / 8.0 µs
        lacking,
        lacking,
        ("×0.2", "no"),  // 404.6 bytes / 1,670 bytes
        ("×20.0", "no"), // 1,418,504 per second / 70,923 per second
        lacking,
        ("×12.0", "no"), // 412.345 µs / 34.4 µs
        ("×4.5", "no"),  // 154.4 µs / 34.52 µs
        lacking,
    ];
    assert_eq!(outcome, expected);
}

/// TCP's row is computed by hand. The tokio echo's latency is 8 µs, its CPU time 7.2 µs, and its
/// rate 1,666,731 requests per second.
#[apply(test!)]
async fn costs_are_compared_with_the_echos() {
    let table = tables::costs(&sample());
    let row = table.rows.iter().find(|row| row[0] == "TCP").unwrap();
    assert_eq!(row[..8], ["TCP", "9.40", "+1.4", "1.2", "8.46", "+1.3", "1.2", "1.42M"]);
    assert_eq!(row[8..14], ["0.9", "70", "56.4", "+8.4", "2 + 1", "10.3"]);
    // In the sample, every client is saturated, and no server is.
    assert!(
        table.note.contains("the limit of the client, not of the server, for tokio TCP echo, "),
        "{}",
        table.note
    );
}

/// A reader of a printed plot tells the protocols apart by their shapes alone.
#[apply(test!)]
async fn every_protocol_has_its_own_shape() {
    let shape = Regex::new(r#"<path class="mark s\d" d="([^"]+)""#).unwrap();
    let (_, svg) = docs::images(&kept()).into_iter().find(|(name, _)| name.contains("batch")).unwrap();
    let shapes: BTreeSet<_> = shape.captures_iter(&svg).map(|found| found[1].to_owned()).collect();
    assert_eq!(shapes.len(), kept().protocols.len());
}

/// In the kept run, gRPC unary and HTTP/REST change places between 10 and 100 readings.
#[apply(test!)]
async fn places_that_change_with_the_batch_size_are_marked() {
    let tables = tables::tables(&kept());
    let order = tables.iter().find(|table| table.title.starts_with("The order")).unwrap();
    assert!(!order.rows[0][1].contains('*'), "{:?}", order.rows[0]);
    assert!(order.rows[1..].iter().any(|row| row[1].contains('*')), "{:?}", order.rows);
}

#[apply(test!)]
async fn times_over_a_network_are_compared_at_the_same_delay() {
    let table = tables::tables(&sample()).into_iter().find(|table| table.title.starts_with("Over a network"));
    let row = table.unwrap().rows.into_iter().find(|row| row[0] == "TCP").unwrap();
    assert_eq!(row[1..9], ["20.0", "60.3", "+20.1", "20.1", "+0.0", "20.6", "+0.1", "3,183"]);
}

#[apply(test!)]
async fn the_table_of_streams_says_what_is_acknowledged_when() {
    let tables = tables::tables(&sample());
    let table = tables.iter().find(|table| table.title.starts_with("Many messages")).unwrap();
    let expected = ["gRPC Upload", "400k", "392k–412k", "25,000", "2.00", "–"];
    assert_eq!(table.rows[1][..6], expected);
    assert!(table.note.ends_with("gRPC Upload: The server answers once, after the last message."));
}

#[apply(test!)]
async fn the_cost_of_idle_connections_has_its_range() {
    let tables = tables::tables(&sample());
    let table = tables.iter().find(|table| table.title.starts_with("Idle connections")).unwrap();
    let expected = ["TCP", "5,000", "9.40", "120k", "118k", "6.00", "+0.05", "-0.10 to +0.20"];
    assert_eq!(table.rows[0][..8], expected);
}

/// Each answer to the chooser's questions leads to a single protocol.
#[apply(test!)]
async fn the_chooser_ends_with_one_protocol() {
    let page = comparison::html(&sample());
    let rows = Regex::new(r#"data-if="([^"]+)""#).unwrap();
    let rows: Vec<BTreeSet<_>> =
        rows.captures_iter(&page).map(|row| row.extract::<1>().1[0].split(' ').collect()).collect();
    assert_eq!(rows.len(), 8);
    let questions = Regex::new(r#"<input type="radio" name="(\w+)" value="(\w+)">"#).unwrap();
    let mut answers: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for found in questions.captures_iter(&page) {
        answers.entry(found[1].to_owned()).or_default().push(format!("{}={}", &found[1], &found[2]));
    }
    assert_eq!(answers.len(), 6);
    let mut all = vec![BTreeSet::new()];
    for choices in answers.values() {
        let with =
            |given: BTreeSet<String>| choices.iter().map(move |answer| &given | &[answer.clone()].into());
        all = all.into_iter().flat_map(with).collect();
    }
    for given in all {
        let given: BTreeSet<_> = given.iter().map(String::as_str).collect();
        assert_eq!(rows.iter().filter(|row| row.is_subset(&given)).count(), 1, "{given:?}");
    }
}

#[apply(test!)]
async fn the_diff_lists_what_changed_beyond_its_range() {
    let mut changed = sample();
    let (same, compared) = diff::diff(&sample(), &changed).unwrap();
    assert!(same.rows.is_empty() && compared > 50, "{compared}");
    let tcp = changed.latency.rows.iter_mut().find(|row| row.protocol == "tcp_socket").unwrap();
    tcp.p50 = tcp.p50.map(|p50| p50.scaled(2.0));
    changed.round_trips[0].request += 1;
    let (table, all) = diff::diff(&sample(), &changed).unwrap();
    let rows: Vec<_> =
        table.rows.iter().map(|row| [&row[0], &row[1], &row[2], &row[7]].map(|cell| &cell[..])).collect();
    let expected =
        [["latency", "tcp socket", "p50, µs", "2.00"], ["round trips", "tokio echo", "request", "2.00"]];
    assert_eq!(rows, expected);
    assert_eq!(all, compared);
    // Layout 1, without the later sections.
    assert!(diff::diff(&kept(), &changed).unwrap().1 < compared);
}

/// A run with layout 2 fills the document's later section, and its other one doesn't repeat it.
#[apply(test!)]
async fn a_full_run_fills_the_later_section_of_the_document() {
    let of = |wanted| docs::DOCUMENTS.into_iter().filter(move |(_, topic, _)| *topic == wanted);
    let sections: String = of("sections").map(|(.., render)| render(&sample())).collect();
    let measured: String = of("measured").map(|(.., render)| render(&sample())).collect();
    let titles = [
        "Round trips",
        "Over a network",
        "One reading to many",
        "Many messages over one",
        "Idle connections",
    ];
    for title in titles {
        assert!(sections.contains(&format!("### {title}")), "{title} is not in\n{sections}");
        assert!(!measured.contains(&format!("### {title}")), "{title} is also in\n{measured}");
    }
}

/// In the sample, a connection sends 100 bytes without TLS, and the server resumes a session.
#[apply(test!)]
async fn the_costs_of_tls_are_shown_beside_those_without() {
    let tables = |results: &Results| {
        let tls =
            tables::tables(results).into_iter().filter(|table| table.title.starts_with("What TLS adds"));
        tls.map(|table| table.rows[0].join(" ").trim_end().to_owned()).collect::<Vec<_>>()
    };
    let expected =
        ["TCP 80.5 452 271 600 1 1,280 808 1,880 7.50", "TCP 8.46 +1.5 300 +41.0 1.1 +44"].map(str::to_owned);
    assert_eq!(tables(&sample()), expected);
    let mut not_resumed = sample();
    not_resumed.encryption[2].set_up_bytes = 1370.0;
    assert_eq!(tables(&not_resumed)[0], "TCP 80.5 452 600 1 1,280 1,880 7.50");
}

/// In the sample, TCP adds 1.4 µs of latency and 1.26 µs of CPU time to the echo.
#[apply(test!)]
async fn the_summary_shows_what_a_protocol_adds_to_the_echo() {
    let table = tables::summary(&sample(), ["protocol", "latency", "more", "CPU time", "more"]);
    let row = |name| table.rows.iter().find(|row| row[0] == name).map(|row| row[1..].join(" "));
    assert_eq!(row("TCP").unwrap(), "9.40 +1.4 8.46 +1.3");
    assert_eq!(row("tokio TCP echo").unwrap(), "8.00 – 7.20 –");
    assert_eq!(row("blocking TCP echo"), None, "only the echo that is the baseline should have a row");
}

#[apply(test!)]
async fn documents_and_plots_agree_with_the_kept_results() {
    let read = |name: &str| fs::read_to_string(repository().join(name)).unwrap();
    let results = kept();
    for (name, topic, render) in docs::DOCUMENTS {
        let document = read(name);
        let rendered = docs::replaced(&document, topic, &render(&results)).unwrap();
        assert!(rendered == document, "{name} differs; run: cargo run -- --write-docs");
        // Rendering again replaces everything between the markers.
        let other = docs::replaced(&document, topic, &render(&sample())).unwrap();
        assert!(other != document && docs::replaced(&other, topic, &render(&results)).unwrap() == document);
    }
    for (name, svg) in docs::images(&results) {
        assert!(read(&name) == svg, "{name} differs; run: cargo run -- --write-docs");
    }
    assert!(docs::replaced("no markers", "measured", "").is_err());
}
