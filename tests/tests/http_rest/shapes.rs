//! JSON of the wrong shape or with invalid values, and the field that each error names.

use http_rest::Limits;
use tests::{apply, test};

use crate::raw::{JSON, Local, batch, request};

const PATCH: (&str, &str) = ("content-type", "application/merge-patch+json");
const ANY: (&str, &str) = ("if-match", "*");

/// Sends each body, and expects a 422 that points to its field, and no change.
async fn refused(method: &str, path: &str, cases: &[(&str, &str)]) {
    let server = Local::start(Limits::default()).await;
    let station = r#"{"id":"a","name":"A","latitude":1.5}"#;
    let before = request(server.addr, "POST", "/stations", &[JSON], station).await;
    let content_type = if method == "PATCH" { PATCH } else { JSON };
    for (body, pointer) in cases {
        let response = request(server.addr, method, path, &[content_type, ANY], body).await;
        let problem = response.problem();
        assert_eq!(
            (&problem["status"], &problem["errors"][0]["pointer"]),
            (&422.into(), &(*pointer).into()),
            "{method} {path} {body}: {problem}"
        );
        assert!(response.body.len() < 2000, "{method} {path}: {} bytes", response.body.len());
    }
    let after = request(server.addr, "GET", "/stations", &[], "").await;
    assert_eq!(after.json()["stations"], serde_json::json!([before.json()]), "nothing was changed");
    server.stop().await;
}

/// Returns a batch of one valid reading and one with these fields.
fn reading(fields: &str) -> String {
    format!(r#"{{"readings":[{{"station":"b","metric":"wind","value":1,"recorded_at":0}},{{{fields}}}]}}"#)
}

#[apply(test!)]
async fn an_error_points_to_the_malformed_field_of_a_batch() {
    let long = format!(r#"{{"readings":[{{"{}":1}}]}}"#, "x".repeat(1_000_000));
    let long_value = reading(&format!(r#""value":"{}""#, "é".repeat(1_000_000)));
    let cases = [
        (r#"[[["rim","wind",1,0]]]"#, "#"),
        (r#"[]"#, "#"),
        (r#""readings""#, "#"),
        ("null", "#"),
        (r#"{}"#, "#/readings"),
        (r#"{"readings":{}}"#, "#/readings"),
        (r#"{"readings":1}"#, "#/readings"),
        (r#"{"readings":[["rim","wind",1,0]]}"#, "#/readings/0"),
        (r#"{"readings":[[]]}"#, "#/readings/0"),
        (r#"{"readings":[null]}"#, "#/readings/0"),
        (r#"{"readings":[],"reading":[]}"#, "#/reading"),
        (r#"{"readings":[],"readings":[]}"#, "#/readings"),
        (&reading(r#""station":"b","metric":"wind","value":"hot","recorded_at":0"#), "#/readings/1/value"),
        (&reading(r#""station":"b","metric":"wind","value":1e400,"recorded_at":0"#), "#/readings/1/value"),
        (&reading(r#""station":"b","metric":"wind","value":-1e999,"recorded_at":0"#), "#/readings/1/value"),
        (&reading(r#""station":"b","metric":"wind","value":null,"recorded_at":0"#), "#/readings/1/value"),
        (&reading(r#""station":"b","metric":"wind","value":[1],"recorded_at":0"#), "#/readings/1/value"),
        (&reading(r#""station":7,"metric":"wind","value":1,"recorded_at":0"#), "#/readings/1/station"),
        (&reading(r#""station":"b","metric":{},"value":1,"recorded_at":0"#), "#/readings/1/metric"),
        (
            &reading(r#""station":"b","metric":"wind","value":1,"recorded_at":1.5"#),
            "#/readings/1/recorded_at",
        ),
        (
            &reading(r#""station":"b","metric":"wind","value":1,"recorded_at":1e400"#),
            "#/readings/1/recorded_at",
        ),
        (
            &reading(r#""station":"b","metric":"wind","value":1,"recorded_at":1e30"#),
            "#/readings/1/recorded_at",
        ),
        (
            &reading(r#""station":"b","metric":"wind","value":1,"recorded_at":"0""#),
            "#/readings/1/recorded_at",
        ),
        (
            &reading(r#""station":"b","metric":"wind","value":1,"recorded_at":18446744073709551615"#),
            "#/readings/1/recorded_at",
        ),
        (&reading(r#""station":"b","metric":"wind","recorded_at":0"#), "#/readings/1/value"),
        (&reading(""), "#/readings/1/station"),
        (&reading(r#""value":1,"value":2"#), "#/readings/1/value"),
        (&reading(r#""Value":1"#), "#/readings/1/Value"),
        (&reading(r#""a/b~c é\u001b":1"#), "#/readings/1/a~1b~0c%20%C3%A9%1B"),
        (&long, &format!("#/readings/0/{}", "x".repeat(40))),
        (&long_value, "#/readings/1/value"),
    ];
    refused("POST", "/readings", &cases).await;
}

#[apply(test!)]
async fn an_error_points_to_the_malformed_field_of_a_station() {
    let cases = [
        (r#"["oslo-9","Oslo",59.9,10.7]"#, "#"),
        (r#"[{"id":"a","name":"A"}]"#, "#"),
        ("7", "#"),
        (r#"{"id":"a"}"#, "#/name"),
        (r#"{"name":"A"}"#, "#/id"),
        (r#"{"id":"a","name":"A","latitude":"north"}"#, "#/latitude"),
        (r#"{"id":"a","name":"A","longitude":1e400}"#, "#/longitude"),
        (r#"{"id":"a","name":["A"]}"#, "#/name"),
        (r#"{"id":null,"name":"A"}"#, "#/id"),
        (r#"{"id":"a","name":"A","altitude":1}"#, "#/altitude"),
        (r#"{"id":"a","name":"A","name":"B"}"#, "#/name"),
    ];
    refused("POST", "/stations", &cases).await;
    refused("PUT", "/stations/a", &cases).await;
    let cases = [
        (r#"["a","B"]"#, "#"),
        (r#"[]"#, "#"),
        ("null", "#"),
        (r#""B""#, "#"),
        (r#"{"name":null}"#, "#/name"),
        (r#"{"name":["B"]}"#, "#/name"),
        (r#"{"latitude":[1]}"#, "#/latitude"),
        (r#"{"latitude":{"degrees":1}}"#, "#/latitude"),
        (r#"{"longitude":"east"}"#, "#/longitude"),
        (r#"{"longitude":1e400}"#, "#/longitude"),
        (r#"{"altitude":1}"#, "#/altitude"),
        (r#"{"id":null}"#, "#/id"),
    ];
    refused("PATCH", "/stations/a", &cases).await;
}

#[apply(test!)]
async fn a_value_out_of_range_is_refused() {
    let long = "x".repeat(101);
    let long = format!(r#"{{"id":"a","name":"{long}"}}"#);
    let cases = [
        (r#"{"id":"","name":"A"}"#, "#/id"),
        (r#"{"id":"A","name":"A"}"#, "#/id"),
        (r#"{"id":"a_b","name":"A"}"#, "#/id"),
        (r#"{"id":"aaaaaaaaaabbbbbbbbbbccccccccccddd","name":"A"}"#, "#/id"),
        (r#"{"id":"a","name":""}"#, "#/name"),
        (&long, "#/name"),
        (r#"{"id":"a","name":"A","latitude":90.5}"#, "#/latitude"),
        (r#"{"id":"a","name":"A","latitude":-90.5}"#, "#/latitude"),
        (r#"{"id":"a","name":"A","longitude":180.5}"#, "#/longitude"),
        (r#"{"id":"a","name":"A","longitude":-180.5}"#, "#/longitude"),
    ];
    refused("POST", "/stations", &cases).await;
    refused("PUT", "/stations/a", &cases).await;
    refused("PUT", "/stations/a", &[(r#"{"id":"b","name":"A"}"#, "#/id")]).await;
    let cases = [
        (r#"{"readings":[]}"#, "#/readings"),
        (&batch("b", 10_001), "#/readings"),
        (&batch("aaaaaaaaaabbbbbbbbbbccccccccccddd", 1), "#/readings/0/station"),
        (&batch("b", 1).replace("wind", "Wind"), "#/readings/0/metric"),
        (&batch("b", 1).replace("\"value\":0", "\"value\":-0.1"), "#/readings/0/value"),
        (&batch("b", 1).replace("\"value\":0", "\"value\":120.1"), "#/readings/0/value"),
        (&batch("b", 1).replace("_at\":0", "_at\":-1"), "#/readings/0/recorded_at"),
        (&batch("b", 1).replace("_at\":0", "_at\":253402300800000"), "#/readings/0/recorded_at"),
    ];
    refused("POST", "/readings", &cases).await;
}

#[apply(test!)]
async fn a_name_that_people_could_misread_is_refused() {
    let server = Local::start(Limits::default()).await;
    for (name, accepted) in [
        ("Oslo, Blindern (2)", true),
        ("São Paulo", true),
        ("दिल्ली", true),
        ("กรุงเทพฯ", true),
        ("東京 タワー", true),
        ("", false),
        (" Oslo", false),
        ("Os  lo", false),
        ("\u{3164}", false),
        ("\\u001b[2J", false),
        ("a\\u0007\\r", false),
        ("a\u{202e}b", false),
        ("a\u{9b}b", false),
        ("\u{41e}slo", false), // a Cyrillic first letter
        ("𝐎slo", false),
    ] {
        let post = format!(r#"{{"id":"n","name":"{name}"}}"#);
        let response = request(server.addr, "POST", "/stations", &[JSON], &post).await;
        if accepted {
            assert_eq!(response.status, 201, "{name}: {response:?}");
            let gone = request(server.addr, "DELETE", "/stations/n", &[ANY], "").await;
            assert_eq!(gone.status, 204);
            continue;
        }
        assert_eq!(
            (response.status, &response.problem()["errors"][0]["pointer"]),
            (422, &"#/name".into()),
            "{name}"
        );
        request(server.addr, "POST", "/stations", &[JSON], r#"{"id":"m","name":"M"}"#).await;
        let put = format!(r#"{{"id":"m","name":"{name}"}}"#);
        let patch = format!(r#"{{"name":"{name}"}}"#);
        for (method, media_type, body) in [("PUT", JSON, put), ("PATCH", PATCH, patch)] {
            let response = request(server.addr, method, "/stations/m", &[media_type, ANY], &body).await;
            let problem = response.problem();
            assert_eq!(
                (response.status, &problem["errors"][0]["pointer"]),
                (422, &"#/name".into()),
                "{name}"
            );
        }
    }
    server.stop().await;
}

#[apply(test!)]
async fn an_integer_may_have_a_decimal_point_or_an_exponent() {
    let server = Local::start(Limits::default()).await;
    for (written, read) in [("1.0", 1_u64), ("1e3", 1000), ("253402300799999.0", 253_402_300_799_999)] {
        let body = format!(
            r#"{{"readings":[{{"station":"a","metric":"wind","value":1,"recorded_at":{written}}}]}}"#
        );
        assert_eq!(request(server.addr, "POST", "/readings", &[JSON], &body).await.status, 200, "{written}");
        let latest = request(server.addr, "GET", "/readings?station=a&limit=1", &[], "").await;
        assert_eq!(latest.json()["readings"][0]["recorded_at"], read, "{written}");
    }
    server.stop().await;
}

#[apply(test!)]
async fn an_unknown_parameter_is_refused_everywhere() {
    let server = Local::start(Limits::default()).await;
    request(server.addr, "POST", "/stations", &[JSON], r#"{"id":"a","name":"A"}"#).await;
    for (method, path) in [
        ("GET", "/stations?limits=1"),
        ("GET", "/readings?station=a&Metric=wind"),
        ("GET", "/readings/live?stations=a"),
        ("GET", "/stations/a?x"),
        ("PUT", "/stations/a?if-match=*"),
        ("PATCH", "/stations/a?x=1"),
        ("DELETE", "/stations/a?force=true"),
        ("POST", "/stations?x=1"),
        ("POST", "/readings?station=a"),
    ] {
        let headers = [JSON, ANY];
        assert_eq!(
            request(server.addr, method, path, &headers, "{}").await.problem()["status"],
            400,
            "{path}"
        );
    }
    for path in ["/readings/live?station=NO", "/readings/live?station=", "/readings/live?station=a%20b"] {
        assert_eq!(request(server.addr, "GET", path, &[], "").await.problem()["status"], 400, "{path}");
    }
    assert_eq!(request(server.addr, "GET", "/stations/a?", &[], "").await.status, 200);
    server.stop().await;
}
