//! HTTP's words for it: `Authorization`, `WWW-Authenticate`, 401, and 403.

use reqwest::{Client, Response};
use tests::{apply, test};

use crate::chapters::{Chapter, Mode, token};

fn header<'a>(response: &'a Response, name: &str) -> &'a str {
    response.headers().get(name).map_or("", |value| value.to_str().unwrap())
}

#[apply(test!)]
async fn the_scheme_may_have_any_case_and_other_headers_are_refused() {
    let server = Chapter::Http.start(Mode::Checked).await;
    let (http, token) = (Client::new(), token("reader"));
    let get = |values: Vec<String>| {
        let mut request = http.get(format!("{}/stations", server.url));
        for value in values {
            request = request.header("authorization", value);
        }
        async { request.send().await.unwrap() }
    };
    for value in ["Bearer {}", "bearer {}", "BEARER   {}"] {
        assert_eq!(get(vec![value.replace("{}", &token)]).await.status(), 200, "{value}");
    }
    for value in [
        "{}",
        "Bearer",
        "Bearer ",
        "Bearer\t{}",
        "Basic {}",
        "Bearer {}x",
        "Bearer x{}",
        "Bearer {}, Bearer {}",
    ] {
        let response = get(vec![value.replace("{}", &token)]).await;
        assert_eq!(response.status(), 401, "{value}");
        assert_eq!(
            (header(&response, "www-authenticate"), header(&response, "connection")),
            ("Bearer", "close")
        );
    }
    let right = format!("Bearer {token}");
    assert_eq!(get(vec![right.clone(), right]).await.status(), 401, "twice");
    assert_eq!(get(vec![]).await.status(), 401);
    server.stop().await;
}

#[apply(test!)]
async fn some_resources_need_no_token_and_no_new_one_is_open_by_mistake() {
    let server = Chapter::Http.start(Mode::Checked).await;
    let http = Client::new();
    let status = async |method: &str, path: &str| {
        let method = method.parse().unwrap();
        http.request(method, format!("{}{path}", server.url)).send().await.unwrap().status().as_u16()
    };
    assert_eq!((status("GET", "/healthz").await, status("HEAD", "/openapi.json").await), (200, 200));
    for (method, path) in
        [("GET", "/none"), ("POST", "/healthz"), ("OPTIONS", "/stations"), ("GET", "/stations/")]
    {
        assert_eq!(status(method, path).await, 401, "{method} {path}");
    }
    let reader =
        http.post(format!("{}/anything", server.url)).bearer_auth(token("reader")).send().await.unwrap();
    assert_eq!(reader.status(), 403);
    let problem: serde_json::Value = reader.json().await.unwrap();
    assert_eq!(problem["detail"], "reader is a reader and may not create, change, or delete stations");
    server.stop().await;
}

#[apply(test!)]
async fn one_foreign_reading_in_a_batch_is_enough_for_a_403_and_nothing_is_recorded() {
    let server = Chapter::Http.start(Mode::Checked).await;
    let http = Client::new();
    let post = |stations: [&str; 2], who: &str, key: &str| {
        let readings = stations.map(|station| {
            serde_json::json!({"station": station, "metric": "wind", "value": 1.0, "recorded_at": 1})
        });
        let request =
            http.post(format!("{}/readings", server.url)).json(&serde_json::json!({"readings": readings}));
        let request = request.bearer_auth(token(who)).header("idempotency-key", key);
        async { request.send().await.unwrap().status().as_u16() }
    };
    assert_eq!(post(["oslo-1", "rome-7"], "oslo-1", "k").await, 403);
    let station = http
        .get(format!("{}/stations/oslo-1", server.url))
        .bearer_auth(token("reader"))
        .send()
        .await
        .unwrap();
    assert_eq!(station.status(), 404);
    // Another caller's key gives nobody a response that it could not have got itself.
    assert_eq!(post(["oslo-1", "rome-7"], "operator", "k").await, 200);
    assert_eq!(post(["oslo-1", "rome-7"], "oslo-1", "k").await, 403);
    server.stop().await;
}

#[apply(test!)]
async fn openapi_names_the_security_schemes() {
    for (mode, requirements) in [(Mode::Open, 3), (Mode::Checked, 2)] {
        let server = Chapter::Http.start(mode).await;
        let url = format!("{}/openapi.json", server.url);
        let openapi: serde_json::Value = Client::new().get(url).send().await.unwrap().json().await.unwrap();
        let schemes = &openapi["components"]["securitySchemes"];
        assert_eq!(schemes["token"], serde_json::json!({"type": "http", "scheme": "bearer"}));
        assert_eq!(schemes["certificate"]["type"], "mutualTLS");
        assert_eq!(openapi["security"].as_array().unwrap().len(), requirements);
        server.stop().await;
    }
}
