//! The kept run of `faults --cluster`.

use std::fs;

use lab::faults::cluster::{fault, report};
use tests::{apply, test};

#[apply(test!)]
async fn the_document_shows_the_kept_run_which_kept_its_promises() {
    let read = |path: &str| fs::read_to_string(format!("{}/../{path}", env!("CARGO_MANIFEST_DIR"))).unwrap();
    let (document, kept) = (read(report::DOCUMENT), read(report::KEPT));
    let kept: report::Results = serde_json::from_str(&kept).unwrap();
    assert_eq!(report::render(&document, &kept).unwrap(), document);
    for fault in &fault::ALL {
        let mut outcomes = kept.outcomes.iter().filter(|outcome| outcome.fault == fault.id).peekable();
        assert!(outcomes.peek().is_some(), "{} was not measured", fault.name);
        let must_keep = fault.kind == message_queue::brokers::Kind::RabbitMq || fault.replicas > 0;
        assert!(!must_keep || outcomes.all(|outcome| outcome.lost == 0), "{} lost jobs", fault.name);
    }
}
