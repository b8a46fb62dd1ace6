//! Checks that a link whose text is code leads to a file that has this code.

use std::sync::LazyLock;
use tests::{apply, test};

use regex::Regex;

use crate::links::destination;
use crate::repository::{REPOSITORY, none, read};

/// Checks that the code is the name of the file or of something in it.
fn names_something(code: &str, path: &str, text: &str) -> Result<(), String> {
    static NAME: LazyLock<Regex> =
        LazyLock::new(|| Regex::new(r"^(?:\w+::)*([A-Za-z_]\w*)(?:!|\(\))?$").unwrap());

    let extension = |path: &str| path.rsplit_once('.').map(|(_, extension)| extension.to_owned());
    if path == code || path.ends_with(&format!("/{code}")) {
        Ok(())
    } else if extension(code).is_some() && extension(code) == extension(path) {
        Err(format!("`{code}` links to another file, {path}"))
    } else if let Some(name) = NAME.captures(code) {
        let mut words = text.split(|c: char| !c.is_alphanumeric() && c != '_');
        let found = words.any(|word| word == &name[1]);
        if found { Ok(()) } else { Err(format!("{path} does not contain the name `{}`", &name[1])) }
    } else if text.contains(code) {
        Ok(())
    } else {
        Err(format!("{path} does not contain `{code}`"))
    }
}

#[apply(test!)]
async fn names_match_whole_words_only() {
    let path = "grpc/src/store.rs";
    let text = "/// GET /stations\nimpl Store { fn record(&self) { println!(\"a reading\"); } }";
    let good = [
        "record",
        "record()",
        "Store::record",
        "crate::Store::record()",
        "println!", // names in the text
        "store.rs",
        "src/store.rs",
        "grpc/src/store.rs", // names of the file
        "GET /stations",
        "fn record(&self)", // code
    ];
    for code in good {
        assert_eq!(names_something(code, path, text), Ok(()), "{code}");
    }
    let bad = [
        "recor",
        "Record",
        "Store::reco",
        "read",
        "tore.rs",
        "src/record.rs",
        "PUT /stations",
        "fn record()",
    ];
    for code in bad {
        assert!(names_something(code, path, text).is_err(), "{code}");
    }
}

#[apply(test!)]
async fn a_link_whose_text_is_code_leads_to_a_file_that_has_it() {
    let mut violations = Vec::new();
    for document in &REPOSITORY.documents {
        for link in &document.links {
            let (Some(code), Some(path)) = (&link.code, destination(document, link)) else { continue };
            // Folders and documents are skipped, because they would contain almost any name. If a
            // file is missing, `every_relative_link_leads_to_a_file_or_heading` reports it.
            if !REPOSITORY.files.contains(&path) || path.ends_with(".md") {
                continue;
            }
            if let Err(reason) = names_something(code, &path, &read(&path)) {
                violations.push(format!("{}:{}: {reason}", document.path, link.line));
            }
        }
    }
    none(&violations);
}
