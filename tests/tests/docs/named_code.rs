//! The text of a link, if it is code, names something in the file that the link leads to.

use std::sync::LazyLock;
use tests::{apply, test};

use regex::Regex;

use crate::links::destination;
use crate::repository::{REPOSITORY, none, read};

/// Checks that the code names the file itself, or something in its text.
fn names_something(code: &str, path: &str, text: &str) -> Result<(), String> {
    static NAME: LazyLock<Regex> =
        LazyLock::new(|| Regex::new(r"^(?:\w+::)*([A-Za-z_]\w*)(?:!|\(\))?$").unwrap());

    let extension = |path: &str| path.rsplit_once('.').map(|(_, extension)| extension.to_owned());
    if path == code || path.ends_with(&format!("/{code}")) {
        Ok(())
    } else if extension(code).is_some() && extension(code) == extension(path) {
        Err(format!("`{code}` leads to another file, {path}"))
    } else if let Some(name) = NAME.captures(code) {
        let mut words = text.split(|c: char| !c.is_alphanumeric() && c != '_');
        let found = words.any(|word| word == &name[1]);
        if found { Ok(()) } else { Err(format!("{path} has no word `{}`", &name[1])) }
    } else if text.contains(code) {
        Ok(())
    } else {
        Err(format!("{path} does not contain `{code}`"))
    }
}

#[apply(test!)]
async fn a_name_is_looked_for_as_a_word() {
    let path = "grpc/src/store.rs";
    let text = "/// GET /stations\nimpl Store { fn record(&self) { println!(\"a reading\"); } }";
    let good = [
        "record",
        "record()",
        "Store::record",
        "crate::Store::record()",
        "println!", // names
        "store.rs",
        "src/store.rs",
        "grpc/src/store.rs", // the file's own
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
async fn a_link_whose_text_is_code_names_something_in_its_file() {
    let mut violations = Vec::new();
    for document in &REPOSITORY.documents {
        for link in &document.links {
            let (Some(code), Some(path)) = (&link.code, destination(document, link)) else { continue };
            // A folder has many files, and a document many words. If the file is missing,
            // `every_relative_link_leads_to_a_file_or_heading` reports it.
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
