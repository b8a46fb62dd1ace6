//! `/stations`, by raw requests and through the client.

use http_rest::Limits;
use http_rest::Station;
use http_rest::client::Error;
use http_rest::limits::MAX_STATIONS;
use tests::{apply, test};

use crate::raw::{Headers, JSON, Local, request};

const PATCH: (&str, &str) = ("content-type", "application/merge-patch+json");

fn station(id: &str, name: &str) -> Station {
    Station { id: id.to_owned(), name: name.to_owned(), latitude: Some(1.0), longitude: None }
}

#[apply(test!)]
async fn a_station_is_created_read_replaced_patched_and_deleted() {
    let server = Local::start(Limits::default()).await;
    let at = server.addr;
    let oslo = r#"{"id":"oslo","name":"Oslo","latitude":59.9}"#;
    let created = request(at, "POST", "/stations", &[JSON], oslo).await;
    assert_eq!(created.status, 201);
    assert_eq!(created.header("location"), Some("/stations/oslo"));
    assert_eq!(created.json()["longitude"], serde_json::Value::Null);
    let first = created.header("etag").unwrap().to_owned();
    assert!(first.starts_with('"') && first.ends_with('"'), "a strong tag: {first}");
    assert_eq!(request(at, "POST", "/stations", &[JSON], oslo).await.problem()["status"], 409);

    let read = request(at, "GET", "/stations/oslo", &[], "").await;
    assert_eq!((read.status, read.header("etag"), &read.body), (200, Some(&*first), &created.body));

    let replaced = request(
        at,
        "PUT",
        "/stations/oslo",
        &[JSON, ("if-match", &first)],
        r#"{"id":"oslo","name":"Big Oslo"}"#,
    )
    .await;
    assert_eq!(replaced.status, 200);
    assert_eq!(replaced.json()["latitude"], serde_json::Value::Null, "PUT replaces the whole station");
    let second = replaced.header("etag").unwrap().to_owned();
    assert_ne!(first, second);

    let patched =
        request(at, "PATCH", "/stations/oslo", &[PATCH, ("if-match", &second)], r#"{"longitude":10.7}"#)
            .await;
    assert_eq!((patched.status, &patched.json()["name"]), (200, &"Big Oslo".into()));

    let gone =
        request(at, "DELETE", "/stations/oslo", &[("if-match", patched.header("etag").unwrap())], "").await;
    assert_eq!((gone.status, gone.body.as_str()), (204, ""));
    assert_eq!(request(at, "GET", "/stations/oslo", &[], "").await.problem()["status"], 404);

    let again = request(at, "POST", "/stations", &[JSON], oslo).await;
    assert_ne!(again.header("etag"), Some(&*first), "a station that is created again gets a new tag");
    server.stop().await;
}

#[apply(test!)]
async fn an_unchanged_station_is_not_sent_again() {
    let server = Local::start(Limits::default()).await;
    let client = server.client();
    let created = client.create_station(&station("a", "A")).await.unwrap();
    assert_eq!(client.station_if_changed("a", &created.etag).await.unwrap(), None);
    let etag = created.etag.as_str();
    for (sent, status) in [
        (etag.to_owned(), 304),
        (format!("W/{etag}"), 304), // weak comparison
        (format!("\"x\", {etag}"), 304),
        ("*".to_owned(), 304),
        ("\"x\"".to_owned(), 200),
    ] {
        let response = request(server.addr, "GET", "/stations/a", &[("if-none-match", &sent)], "").await;
        assert_eq!((response.status, response.header("etag")), (status, Some(etag)), "{sent}");
        assert_eq!(response.body.is_empty(), status == 304);
    }
    let changed = client.replace_station(&station("a", "B"), etag).await.unwrap();
    assert_eq!(client.station_if_changed("a", etag).await.unwrap(), Some(changed));
    server.stop().await;
}

#[apply(test!)]
async fn the_first_check_that_fails_decides_the_status() {
    let server = Local::start(Limits::default()).await;
    let at = server.addr;
    let etag = server.client().create_station(&station("a", "A")).await.unwrap().etag;
    let (stale, current) = (("if-match", "\"stale\""), ("if-match", etag.as_str()));
    let weak = format!("W/{etag}");
    // Each request has the fault that decides its status, and as many later faults as possible.
    let cases: [(&str, &str, Headers<'_>, &str, u16); 18] = [
        ("PUT", "/nowhere?x=1", vec![JSON, JSON], "", 400),
        ("PUT", "/nowhere?x=1", vec![], "", 404),
        ("PUT", "/stations/b", vec![], "", 404),
        ("PUT", "/stations/NOT-AN-ID", vec![], "", 404),
        ("POST", "/stations/b?x=1", vec![], "", 405),
        ("POST", "/stations/a", vec![], "", 405),
        ("PUT", "/stations/b?x=1", vec![], "", 400),
        ("PUT", "/stations/NOT-AN-ID?x=1", vec![], "", 400),
        ("PUT", "/stations/a", vec![], "", 415),
        ("PATCH", "/stations/a", vec![JSON], "", 415),
        ("PUT", "/stations/a", vec![("if-match", "malformed")], "", 415),
        ("PUT", "/stations/a", vec![JSON, ("if-match", "malformed")], "", 400),
        ("PUT", "/stations/a", vec![JSON], "", 428),
        ("DELETE", "/stations/a", vec![], "", 428),
        ("PUT", "/stations/a", vec![JSON, stale], "", 412),
        ("PUT", "/stations/a", vec![JSON, ("if-match", &weak)], "", 412),
        ("PUT", "/stations/a", vec![JSON, current], "{", 400),
        ("PUT", "/stations/a", vec![JSON, current], r#"{"id":"b","name":"other id"}"#, 422),
    ];
    for (method, path, headers, body, status) in cases {
        let response = request(at, method, path, &headers, body).await;
        assert_eq!(response.problem()["status"], status, "{method} {path} {headers:?}");
    }
    assert_eq!(server.client().station("a").await.unwrap().etag, etag, "nothing was changed");
    server.stop().await;
}

#[apply(test!)]
async fn a_merge_patch_changes_only_what_it_names() {
    let server = Local::start(Limits::default()).await;
    let mut etag = server.client().create_station(&station("a", "A")).await.unwrap().etag;
    for (patch, status, latitude) in [
        (r#"{}"#, 200, Some(1.0)),
        (r#"{"latitude":2.5}"#, 200, Some(2.5)),
        (r#"{"name":null}"#, 422, Some(2.5)), // required
        (r#"{"name":{"deep":1}}"#, 422, Some(2.5)),
        (r#"{"unknown":1}"#, 422, Some(2.5)),
        (r#"{"unknown":null}"#, 200, Some(2.5)), // removing an absent member changes nothing
        (r#"{"id":"b"}"#, 422, Some(2.5)),
        (r#"{"latitude":91}"#, 422, Some(2.5)),
        (r#"["not an object"]"#, 422, Some(2.5)),
        (r#"{"latitude":null}"#, 200, None),
    ] {
        let response =
            request(server.addr, "PATCH", "/stations/a", &[PATCH, ("if-match", &etag)], patch).await;
        assert_eq!(response.status, status, "{patch}: {response:?}");
        let now = server.client().station("a").await.unwrap();
        assert_eq!(now.value.latitude, latitude, "{patch}");
        etag = now.etag;
    }
    server.stop().await;
}

#[apply(test!)]
async fn stations_are_listed_page_by_page() {
    let server = Local::start(Limits::default()).await;
    let client = server.client();
    for id in ["c", "a", "e", "b", "d"] {
        client.create_station(&station(id, "any")).await.unwrap();
    }
    let mut page = client.stations(2).await.unwrap();
    let mut seen = Vec::new();
    loop {
        assert!(page.items.len() <= 2);
        seen.extend(page.items.iter().map(|station| station.id.clone()));
        // Creating a station whose ID is before the cursor moves no entry to another page.
        client.create_station(&station(&format!("a{}", seen.len()), "new")).await.unwrap();
        let Some(next) = page.next else { break };
        page = client.more_stations(&next).await.unwrap();
    }
    assert_eq!(seen.concat(), "abcde");
    let whole = request(server.addr, "GET", "/stations?limit=500", &[], "").await;
    assert_eq!(whole.header("link"), None, "the last page has no link");
    let count = whole.json()["stations"].as_array().unwrap().len();
    for (limit, has_next) in [(count - 1, true), (count, false)] {
        let page = request(server.addr, "GET", &format!("/stations?limit={limit}"), &[], "").await;
        assert_eq!(page.header("link").is_some(), has_next, "{limit} of {count}");
    }
    for query in ["limit=0", "limit=501", "limit=x", "cursor=NO", "unknown=1", "limit=1&limit=2"] {
        let response = request(server.addr, "GET", &format!("/stations?{query}"), &[], "").await;
        assert_eq!(response.problem()["status"], 400, "{query}");
    }
    server.stop().await;
}

#[apply(test!)]
#[alone]
async fn two_writers_lose_no_update() {
    const TRIES_EACH: u32 = 5_000;
    let server = Local::start(Limits::default()).await;
    server.client().create_station(&station("counter", "0")).await.unwrap();
    let writer = |client: http_rest::Client| async move {
        let (mut written, mut refused) = (0u32, 0u32);
        for _ in 0..TRIES_EACH {
            let read = client.station("counter").await.unwrap();
            let next = read.value.name.parse::<u32>().unwrap() + 1;
            match client.replace_station(&station("counter", &next.to_string()), &read.etag).await {
                Ok(_) => written += 1,
                Err(Error::Problem(problem)) if problem.status == 412 => refused += 1,
                Err(other) => panic!("{other}"),
            }
        }
        (written, refused)
    };
    let writers = [tokio::spawn(writer(server.client())), tokio::spawn(writer(server.client()))];
    let (mut written, mut refused) = (0, 0);
    for outcome in writers {
        let (w, r) = outcome.await.unwrap();
        written += w;
        refused += r;
    }
    assert_eq!(written + refused, 2 * TRIES_EACH);
    assert!(refused > 0, "the writers never collided, so nothing was tested");
    assert_eq!(server.client().station("counter").await.unwrap().value.name, written.to_string());
    server.stop().await;
}

#[apply(test!)]
async fn a_request_for_too_many_stations_creates_none() {
    let server = Local::start(Limits::default()).await;
    let reading = |i: usize| format!(r#"{{"station":"s{i}","metric":"wind","value":1,"recorded_at":0}}"#);
    let readings: Vec<String> = (1..MAX_STATIONS).map(reading).collect();
    let body = format!(r#"{{"readings":[{}]}}"#, readings.join(","));
    assert_eq!(request(server.addr, "POST", "/readings", &[JSON], &body).await.status, 200);
    // There is room for one more. A batch that needs two is refused and creates none.
    let two = format!(r#"{{"readings":[{},{}]}}"#, reading(5_000), reading(6_000));
    assert_eq!(request(server.addr, "POST", "/readings", &[JSON], &two).await.problem()["status"], 507);
    assert_eq!(request(server.addr, "GET", "/stations/s5000", &[], "").await.status, 404);
    server.client().create_station(&station("last", "Last")).await.unwrap();
    let error = server.client().create_station(&station("one-more", "No")).await.unwrap_err();
    assert_eq!(error.status(), Some(507));
    server.stop().await;
    // A batch may take all places.
    let server = Local::start(Limits::default()).await;
    let body = format!(r#"{{"readings":[{},{}]}}"#, readings.join(","), reading(5_000));
    assert_eq!(request(server.addr, "POST", "/readings", &[JSON], &body).await.status, 200);
    server.stop().await;
}

#[apply(test!)]
async fn an_id_cannot_change_the_path() {
    let server = Local::start(Limits::default()).await;
    for id in ["../healthz", "a/../../healthz", "..\\healthz", "?limit=1", "#", "a b", "é"] {
        let error = server.client().station(id).await.unwrap_err();
        let Error::Problem(problem) = error else { panic!("{id}: {error}") };
        assert_eq!(
            (problem.status, problem.detail.as_str()),
            (404, "a station ID has 1 to 32 characters: a-z, 0-9, and -"),
            "{id}"
        );
    }
    server.stop().await;
}
