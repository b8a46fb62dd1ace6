//! The README's tested exercises: each test passes once the reader has solved its exercise.

use std::collections::HashSet;
use std::path::Path;

use tests::exercises::root;
use tests::practice::{Dialog, assert_predicted, python};
use tests::recorder::Recorder;
use tests::{apply, test};

use http_rest::Limits;
use lab::wire::decode::Format;

use crate::raw::{JSON, Local, Response, request};

const ANY_VERSION: (&str, &str) = ("if-none-match", "*");

/// RFC 9110, section 12: the client lists the types that it accepts, and the server chooses one.
#[apply(test!)]
#[exercise]
async fn exercise_readings_are_sent_as_csv_on_request() {
    let server = Local::start(Limits::default()).await;
    let recorder = Recorder::start(Format::HttpRest, &server.addr.to_string());
    let addr = recorder.addr().parse().unwrap();
    let batch = r#"{"readings":[
        {"station":"oslo-1","metric":"temperature","value":-3.5,"recorded_at":1767225600000},
        {"station":"oslo-1","metric":"wind","value":7.2,"recorded_at":1767225601000}]}"#;
    assert_eq!(request(addr, "POST", "/readings", &[JSON], batch).await.status, 200);
    let get = async |path: &'static str, accept: Option<&'static str>| {
        let headers: Vec<_> = accept.map(|value| ("accept", value)).into_iter().collect();
        request(addr, "GET", path, &headers, "").await
    };
    let essence = |response: &Response| {
        response.header("content-type").unwrap_or_default().split(';').next().unwrap_or_default().to_owned()
    };

    let csv = get("/readings?station=oslo-1", Some("text/csv")).await;
    assert_eq!(
        (csv.status, essence(&csv).as_str()),
        (200, "text/csv"),
        "still missing: GET /readings ignores Accept: text/csv"
    );
    let lines: Vec<_> = csv.body.lines().collect();
    assert_eq!(
        lines,
        [
            "station,metric,value,recorded_at",
            "oslo-1,wind,7.2,1767225601000",
            "oslo-1,temperature,-3.5,1767225600000"
        ],
        "a line of names, then a line for each reading, latest recorded first"
    );
    let page = get("/readings?station=oslo-1&limit=1", Some("text/csv")).await;
    assert!(page.header("link").is_some(), "a CSV page needs the Link to the next page, too: {page:?}");

    for (accept, expected) in [
        (None, "application/json"),
        (Some("*/*"), "application/json"),
        (Some("application/*"), "application/json"),
        (Some("image/png, application/json"), "application/json"),
        (Some("text/*"), "text/csv"),
        (Some("TEXT/CSV; q=1.0"), "text/csv"),
        (Some("text/csv;q=0.5, application/json"), "application/json"),
        (Some("application/json;q=0.5, text/csv"), "text/csv"),
        (Some("*/*;q=0.1, text/csv"), "text/csv"),
        // The most specific range that matches a type applies to it (RFC 9110, section 12.5.1).
        (Some("text/csv;q=0.1, */*"), "application/json"),
        (Some("*/*, application/json;q=0"), "text/csv"),
    ] {
        let response = get("/readings?station=oslo-1", accept).await;
        assert_eq!((response.status, essence(&response).as_str()), (200, expected), "Accept: {accept:?}");
        let vary = response.header("vary").unwrap_or_default().to_lowercase();
        assert!(
            vary.contains("accept"),
            "still missing: Vary, which tells caches that the response depends on Accept"
        );
    }
    for accept in ["image/png", "text/html, image/*;q=0.8", "text/csv;q=0, application/json;q=0"] {
        let response = get("/readings?station=oslo-1", Some(accept)).await;
        assert_eq!(
            response.status, 406,
            "still missing: 406 for Accept: {accept}, which allows neither JSON nor CSV"
        );
        response.problem();
    }
    let unknown = get("/readings?station=nowhere", Some("text/csv")).await;
    assert_eq!(unknown.status, 404);
    unknown.problem(); // An error is sent as a problem, whatever the client accepts.

    let description = get("/openapi.json", None).await.json();
    let responses = &description["paths"]["/readings"]["get"]["responses"];
    assert!(responses["200"]["content"]["text/csv"].is_object(), "still missing in /openapi.json: text/csv");
    assert!(responses["406"].is_object(), "still missing in /openapi.json: 406");
    server.stop().await;
}

/// RFC 9110, section 13.1.2: `If-None-Match: *` is true if the resource does not exist yet.
#[apply(test!)]
#[exercise]
async fn exercise_a_put_creates_a_station_that_does_not_exist() {
    let server = Local::start(Limits::default()).await;
    let recorder = Recorder::start(Format::HttpRest, &server.addr.to_string());
    let addr = recorder.addr().parse().unwrap();
    let named =
        |id: &str, name: &str| format!(r#"{{"id":"{id}","name":"{name}","latitude":null,"longitude":null}}"#);
    let put = async |id: &str, condition: &[(&str, &str)], body: String| {
        let headers = [&[JSON], condition].concat();
        request(addr, "PUT", &format!("/stations/{id}"), &headers, &body).await
    };

    let created = put("oslo-1", &[ANY_VERSION], named("oslo-1", "Oslo")).await;
    assert_eq!(
        created.status, 201,
        "still missing: PUT with If-None-Match: * creates a new station: {created:?}"
    );
    assert_eq!(created.header("location"), Some("/stations/oslo-1"));
    let read = request(addr, "GET", "/stations/oslo-1", &[], "").await;
    assert_eq!(read.json()["name"], "Oslo");
    assert_eq!(created.header("etag"), read.header("etag"), "the ETag of the 201 is the new station's");

    let again = put("oslo-1", &[ANY_VERSION], named("oslo-1", "Second")).await;
    assert_eq!(again.status, 412, "a second PUT must not overwrite the first: {again:?}");
    again.problem();
    let read = request(addr, "GET", "/stations/oslo-1", &[], "").await;
    assert_eq!(read.json()["name"], "Oslo", "a 412 changes nothing");

    let other = put("oslo-2", &[ANY_VERSION], named("oslo-3", "Elsewhere")).await;
    assert_eq!(other.status, 422, "the body and the path name different stations: {other:?}");
    assert_eq!(other.problem()["errors"][0]["pointer"], "#/id");
    let nameless = put("oslo-2", &[ANY_VERSION], named("oslo-2", "")).await;
    assert_eq!(nameless.status, 422, "PUT refuses the same bodies as POST: {nameless:?}");
    for id in ["oslo-2", "oslo-3"] {
        let left = request(addr, "GET", &format!("/stations/{id}"), &[], "").await;
        assert_eq!(left.status, 404, "a 422 creates nothing");
    }

    // The rest works as before.
    let tag = read.header("etag").unwrap();
    assert_eq!(put("nowhere", &[], named("nowhere", "x")).await.status, 404);
    assert_eq!(put("nowhere", &[("if-match", "*")], named("nowhere", "x")).await.status, 404);
    assert_eq!(put("oslo-1", &[], named("oslo-1", "x")).await.status, 428);
    assert_eq!(put("oslo-1", &[("if-match", tag)], named("oslo-1", "Oslo, Blindern")).await.status, 200);
    assert_eq!(request(addr, "GET", "/stations/oslo-1", &[ANY_VERSION], "").await.status, 304);

    // If many try at once, one creates the station, and all others get 412.
    let names: Vec<String> = (0..32).map(|n| format!("writer {n}")).collect();
    let responses =
        futures::future::join_all(names.iter().map(|name| put("race", &[ANY_VERSION], named("race", name))))
            .await;
    let winners: Vec<_> =
        names.iter().zip(&responses).filter(|(_, response)| response.status == 201).collect();
    assert_eq!(winners.len(), 1, "exactly one of {} creates the station", responses.len());
    let statuses: HashSet<u16> = responses.iter().map(|response| response.status).collect();
    assert_eq!(statuses, HashSet::from([201, 412]));
    let race = request(addr, "GET", "/stations/race", &[], "").await;
    assert_eq!(
        race.json()["name"],
        winners[0].0.as_str(),
        "the station must have the name from the request that got 201"
    );

    let description = request(addr, "GET", "/openapi.json", &[], "").await.json();
    let put = &description["paths"]["/stations/{id}"]["put"];
    assert!(put["responses"]["201"].is_object(), "still missing in /openapi.json: 201 of PUT");
    let required = put["parameters"].as_array().unwrap().iter().find(|p| p["name"] == "If-Match").unwrap();
    assert_ne!(required["required"], true, "in /openapi.json, PUT no longer requires If-Match");
    server.stop().await;
}

#[apply(test!)]
#[exercise]
#[needs(python())]
async fn exercise_a_new_name_does_not_undo_the_change_of_somebody_else() {
    let server = Local::start(Limits::default()).await;
    let station = r#"{"id":"oslo-1","name":"?","latitude":null,"longitude":null}"#;
    let created = request(server.addr, "POST", "/stations", &[JSON], station).await;
    let etag = created.header("etag").unwrap().to_owned();
    let recorder = Recorder::start(Format::HttpRest, &server.addr.to_string());
    let script = root().join("tests/exercises/http_rest/rename.py");
    let args = [script.to_str().unwrap(), &recorder.addr(), "oslo-1", "Oslo"];
    let mut program = Dialog::start(Path::new("python3"), &args);
    assert_eq!(program.line().await, "? becomes Oslo. Press Enter to save it.");
    // Somebody else is faster.
    let merge = ("content-type", "application/merge-patch+json");
    let headers = [merge, ("if-match", etag.as_str())];
    let change = r#"{"latitude":59.9}"#;
    assert_eq!(request(server.addr, "PATCH", "/stations/oslo-1", &headers, change).await.status, 200);
    program.send("").await;
    program.line().await;
    let station = request(server.addr, "GET", "/stations/oslo-1", &[], "").await.json();
    let expected = serde_json::json!(
        { "id": "oslo-1", "name": "Oslo", "latitude": 59.9, "longitude": null }
    );
    let wanted = "the station after both changes";
    assert!(station == expected, "{wanted}\n  got:    {station}\n  wanted: {expected}");
    server.stop().await;
}

#[apply(test!)]
#[exercise]
async fn exercise_the_responses_to_repeated_requests_are_predicted() {
    let server = Local::start(Limits::default()).await;
    let [one, two] = [1, 2].map(|value| {
        format!(r#"{{"readings":[{{"station":"rim","metric":"wind","value":{value},"recorded_at":0}}]}}"#)
    });
    let mut happened = Vec::new();
    let spaced = format!(" {one}");
    for (key, body) in
        [(None, &one), (Some("k1"), &one), (Some("k1"), &one), (Some("k1"), &two), (Some("k1"), &spaced)]
    {
        let headers: Vec<_> = [JSON].into_iter().chain(key.map(|key| ("idempotency-key", key))).collect();
        happened.push(request(server.addr, "POST", "/readings", &headers, body).await.status.to_string());
    }
    let page = request(server.addr, "GET", "/readings?station=rim", &[], "").await.json();
    happened.push(page["readings"].as_array().unwrap().len().to_string());
    assert_predicted("http_rest/repeated_requests.txt", &happened);
    server.stop().await;
}
