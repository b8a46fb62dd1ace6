//! The contract of the HTTP chapter, in stages. The README's section "The interface" and
//! `/openapi.json` say what a server must do.

use std::time::Duration;

use lab::wire::decode::Format;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::{Case, Checked, Contract, Stage, same, wrong};

/// Time within which a server has to respond.
const SOON: Duration = Duration::from_secs(10);

const JSON: (&str, &str) = ("content-type", "application/json");

pub(super) fn contract() -> Contract {
    let stages = vec![
        Stage {
            name: "stations",
            cases: vec![
                Case::new("GET /stations lists the stations", lists_stations),
                Case::new("POST /stations creates a station (RFC 9110, section 9.3.3)", creates_a_station),
                Case::new("GET /stations/{id} returns a station with its ETag", returns_a_station),
                Case::new("GET of an unknown station gets 404", knows_its_stations),
            ],
        },
        Stage {
            name: "errors",
            cases: vec![
                Case::new("an error is a problem (RFC 9457)", sends_problems),
                Case::new("a second station with the same ID gets 409", refuses_a_second_station),
                Case::new("a body that is not JSON gets 400, another media type 415", refuses_bodies),
                Case::new("an invalid field gets 422 and is named", names_invalid_fields),
                Case::new(
                    "an unknown method gets 405 with Allow (RFC 9110, section 15.5.6)",
                    refuses_methods,
                ),
            ],
        },
        Stage {
            name: "readings",
            cases: vec![
                Case::new("POST /readings records a batch, GET returns it, the latest first", records),
                Case::new("an invalid reading gets 422, and nothing is recorded", records_all_or_nothing),
                Case::new("GET /readings needs a station that exists", needs_a_station),
            ],
        },
        Stage {
            name: "conditions",
            cases: vec![
                Case::new("If-None-Match with the ETag gets 304 (RFC 9110, section 13.1.2)", saves_a_body),
                Case::new("PUT without If-Match gets 428 (RFC 6585, section 3)", requires_a_condition),
                Case::new("PUT with an old ETag gets 412 (RFC 9110, section 13.1.1)", prevents_a_lost_update),
                Case::new("PATCH changes only the fields in the body (RFC 7396)", patches),
                Case::new("DELETE removes the station", deletes),
            ],
        },
        Stage {
            name: "repetition",
            cases: vec![
                Case::new("a POST with an Idempotency-Key is executed once", executes_once),
                Case::new("the same key with another body gets 422", compares_bodies),
            ],
        },
        Stage {
            name: "pages",
            cases: vec![Case::new("Link leads from page to page (RFC 8288)", links_pages)],
        },
    ];
    Contract { chapter: "http_rest", format: Format::HttpRest, document: "http_rest/README.md", stages }
}

/// A response.
struct Response {
    status: u16,
    headers: Vec<(String, String)>,
    body: String,
}

impl Response {
    fn is(&self, status: u16) -> Checked {
        same("status", self.status, status)
    }

    fn header(&self, name: &str) -> Checked<&str> {
        let found = self.headers.iter().find(|(field, _)| field == name);
        found.map_or_else(|| wrong(format!("a header {name}"), "none"), |(_, value)| Ok(value.as_str()))
    }

    fn json(&self) -> Checked<Value> {
        serde_json::from_str(&self.body)
            .or_else(|error| wrong("a body of JSON", format!("{error}: {}", self.body)))
    }

    /// Checks that it is a problem with this status, and returns it.
    fn problem(&self, status: u16) -> Checked<Value> {
        self.is(status)?;
        same("content-type", self.header("content-type")?, "application/problem+json")?;
        let problem = self.json()?;
        same("status in the problem", &problem["status"], &json!(status))?;
        Ok(problem)
    }
}

/// Sends a request on a connection of its own.
async fn send(addr: &str, request: &str, headers: &[(&str, &str)], body: &str) -> Checked<Response> {
    let headers: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let length = body.len();
    let text = format!(
        "{request} HTTP/1.1\r\nhost: {addr}\r\nconnection: close\r\ncontent-length: {length}\r\n{headers}\r\n{body}"
    );
    let exchange = async {
        let mut stream = TcpStream::connect(addr).await?;
        stream.write_all(text.as_bytes()).await?;
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).await.map(|_| bytes)
    };
    let bytes = match timeout(SOON, exchange).await {
        Ok(Ok(bytes)) => bytes,
        Ok(Err(error)) => return wrong("a response", error),
        Err(_) => return wrong("a response, then the end of the stream", format!("neither within {SOON:?}")),
    };
    let text = String::from_utf8_lossy(&bytes);
    let Some((head, body)) = text.split_once("\r\n\r\n") else {
        return wrong("a response", "no whole header");
    };
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or_default();
    let fields = head.lines().skip(1).filter_map(|line| line.split_once(':'));
    let headers = fields.map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned())).collect();
    Ok(Response { status, headers, body: body.to_owned() })
}

async fn get(addr: &str, path: &str) -> Checked<Response> {
    send(addr, &format!("GET {path}"), &[], "").await
}

async fn post(addr: &str, path: &str, body: &Value) -> Checked<Response> {
    send(addr, &format!("POST {path}"), &[JSON], &body.to_string()).await
}

/// A station that only one case uses.
fn station() -> Value {
    let id = format!("check-{:08x}", fastrand::u32(..));
    json!({"id": id, "name": "Oslo", "latitude": 59.94, "longitude": null})
}

/// Creates a station. Returns it with its path and its ETag.
async fn created(addr: &str) -> Checked<(Value, String, String)> {
    let station = station();
    let response = post(addr, "/stations", &station).await?;
    response.is(201)?;
    let path = format!("/stations/{}", station["id"].as_str().unwrap_or_default());
    let tag = response.header("etag")?.to_owned();
    Ok((station, path, tag))
}

fn reading(station: &str, value: f64, recorded_at: u64) -> Value {
    json!({"station": station, "metric": "wind", "value": value, "recorded_at": recorded_at})
}

async fn lists_stations(addr: String) -> Checked {
    let response = get(&addr, "/stations").await?;
    response.is(200)?;
    same("content-type", response.header("content-type")?, "application/json")?;
    let body = response.json()?;
    if body["stations"].is_array() { Ok(()) } else { wrong("a list \"stations\"", body) }
}

async fn creates_a_station(addr: String) -> Checked {
    let station = station();
    let response = post(&addr, "/stations", &station).await?;
    response.is(201)?;
    let path = format!("/stations/{}", station["id"].as_str().unwrap_or_default());
    same("location", response.header("location")?, path.as_str())?;
    same("body", &response.json()?, &station)
}

async fn returns_a_station(addr: String) -> Checked {
    let (station, path, tag) = created(&addr).await?;
    let response = get(&addr, &path).await?;
    response.is(200)?;
    same("etag", response.header("etag")?, tag.as_str())?;
    same("body", &response.json()?, &station)
}

async fn knows_its_stations(addr: String) -> Checked {
    get(&addr, "/stations/check-nowhere").await?.is(404)
}

async fn sends_problems(addr: String) -> Checked {
    for path in ["/stations/check-nowhere", "/nothing-here"] {
        get(&addr, path).await?.problem(404)?;
    }
    Ok(())
}

async fn refuses_a_second_station(addr: String) -> Checked {
    let (station, ..) = created(&addr).await?;
    post(&addr, "/stations", &station).await?.problem(409).map(drop)
}

async fn refuses_bodies(addr: String) -> Checked {
    send(&addr, "POST /stations", &[JSON], "{").await?.problem(400)?;
    let text = [("content-type", "text/plain")];
    send(&addr, "POST /stations", &text, &station().to_string()).await?.problem(415).map(drop)
}

async fn names_invalid_fields(addr: String) -> Checked {
    let mut invalid = station();
    invalid["latitude"] = json!(91);
    let problem = post(&addr, "/stations", &invalid).await?.problem(422)?;
    same("pointer of the first error", &problem["errors"][0]["pointer"], &json!("#/latitude"))
}

async fn refuses_methods(addr: String) -> Checked {
    let response = send(&addr, "DELETE /stations", &[], "").await?;
    response.problem(405)?;
    let allowed = response.header("allow")?;
    if allowed.contains("GET") && allowed.contains("POST") {
        Ok(())
    } else {
        wrong("Allow: GET and POST", allowed)
    }
}

async fn records(addr: String) -> Checked {
    let (station, ..) = created(&addr).await?;
    let id = station["id"].as_str().unwrap_or_default();
    let batch = json!({"readings": [reading(id, 1.5, 1000), reading(id, 2.5, 2000)]});
    let response = post(&addr, "/readings", &batch).await?;
    response.is(200)?;
    same("body", &response.json()?, &json!({"accepted": 2}))?;
    let response = get(&addr, &format!("/readings?station={id}")).await?;
    response.is(200)?;
    same("body", &response.json()?, &json!({"readings": [reading(id, 2.5, 2000), reading(id, 1.5, 1000)]}))
}

async fn records_all_or_nothing(addr: String) -> Checked {
    let (station, ..) = created(&addr).await?;
    let id = station["id"].as_str().unwrap_or_default();
    let batch = json!({"readings": [reading(id, 1.5, 1000), reading(id, 121.0, 2000)]});
    let problem = post(&addr, "/readings", &batch).await?.problem(422)?;
    same("pointer of the first error", &problem["errors"][0]["pointer"], &json!("#/readings/1/value"))?;
    let response = get(&addr, &format!("/readings?station={id}")).await?;
    same("body", &response.json()?, &json!({"readings": []}))
}

async fn needs_a_station(addr: String) -> Checked {
    get(&addr, "/readings").await?.problem(400)?;
    get(&addr, "/readings?station=check-nowhere").await?.problem(404).map(drop)
}

async fn saves_a_body(addr: String) -> Checked {
    let (_, path, tag) = created(&addr).await?;
    let response = send(&addr, &format!("GET {path}"), &[("if-none-match", &tag)], "").await?;
    response.is(304)?;
    same("body", response.body.as_str(), "")?;
    send(&addr, &format!("GET {path}"), &[("if-none-match", "\"other\"")], "").await?.is(200)
}

async fn requires_a_condition(addr: String) -> Checked {
    let (station, path, _) = created(&addr).await?;
    send(&addr, &format!("PUT {path}"), &[JSON], &station.to_string()).await?.problem(428).map(drop)
}

async fn prevents_a_lost_update(addr: String) -> Checked {
    let (mut station, path, old) = created(&addr).await?;
    station["name"] = json!("Oslo, Blindern");
    let put = format!("PUT {path}");
    let response = send(&addr, &put, &[JSON, ("if-match", &old)], &station.to_string()).await?;
    response.is(200)?;
    if response.header("etag")? == old {
        return wrong("another ETag after the change", old);
    }
    station["name"] = json!("lost");
    send(&addr, &put, &[JSON, ("if-match", &old)], &station.to_string()).await?.problem(412)?;
    same("name", &get(&addr, &path).await?.json()?["name"], &json!("Oslo, Blindern"))
}

async fn patches(addr: String) -> Checked {
    let (mut station, path, tag) = created(&addr).await?;
    let headers = [("content-type", "application/merge-patch+json"), ("if-match", &tag)];
    send(&addr, &format!("PATCH {path}"), &headers, "{\"longitude\":10.72}").await?.is(200)?;
    station["longitude"] = json!(10.72);
    same("body", &get(&addr, &path).await?.json()?, &station)
}

async fn deletes(addr: String) -> Checked {
    let (_, path, tag) = created(&addr).await?;
    send(&addr, &format!("DELETE {path}"), &[("if-match", &tag)], "").await?.is(204)?;
    get(&addr, &path).await?.is(404)
}

async fn executes_once(addr: String) -> Checked {
    let (station, ..) = created(&addr).await?;
    let id = station["id"].as_str().unwrap_or_default();
    let batch = json!({"readings": [reading(id, 1.5, 1000)]});
    for _ in 0..3 {
        let response =
            send(&addr, "POST /readings", &[JSON, ("idempotency-key", id)], &batch.to_string()).await?;
        response.is(200)?;
        same("body", &response.json()?, &json!({"accepted": 1}))?;
    }
    same("body", &get(&addr, &format!("/readings?station={id}")).await?.json()?, &batch)
}

async fn compares_bodies(addr: String) -> Checked {
    let (station, ..) = created(&addr).await?;
    let id = station["id"].as_str().unwrap_or_default();
    let body = |value| json!({"readings": [reading(id, value, 1000)]}).to_string();
    send(&addr, "POST /readings", &[JSON, ("idempotency-key", id)], &body(1.5)).await?.is(200)?;
    send(&addr, "POST /readings", &[JSON, ("idempotency-key", id)], &body(2.5)).await?.problem(422).map(drop)
}

async fn links_pages(addr: String) -> Checked {
    let (station, ..) = created(&addr).await?;
    let id = station["id"].as_str().unwrap_or_default();
    let batch: Vec<_> = (0..5).map(|at| reading(id, 1.0, at)).collect();
    post(&addr, "/readings", &json!({"readings": batch})).await?.is(200)?;
    let mut path = format!("/readings?station={id}&limit=2");
    let mut pages = Vec::new();
    loop {
        let response = get(&addr, &path).await?;
        response.is(200)?;
        let readings = response.json()?["readings"].as_array().cloned().unwrap_or_default();
        pages.push(readings.iter().filter_map(|reading| reading["recorded_at"].as_u64()).collect::<Vec<_>>());
        let Ok(link) = response.header("link") else { break };
        let target = link.strip_prefix('<').and_then(|link| link.split_once(">; rel=\"next\""));
        let Some((next, _)) = target else { return wrong("Link: <…>; rel=\"next\"", link) };
        next.clone_into(&mut path);
        if pages.len() > 3 {
            break;
        }
    }
    same("times on the pages", format!("{pages:?}"), "[[4, 3], [2, 1], [0]]".to_owned())?;
    get(&addr, &format!("/readings?station={id}&limit=0")).await?.problem(400).map(drop)
}
