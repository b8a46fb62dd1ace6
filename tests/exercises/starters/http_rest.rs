//! The beginning of a server for the HTTP chapter: it creates stations and returns them.
//!
//! cargo build --bin starter-http_rest
//! cargo run --bin check -- http_rest --server 'target/debug/starter-http_rest {addr}'
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::IntoResponse;
use axum::routing::get;
use axum::{Json, Router};
use serde_json::{Value, json};

type Stations = Arc<Mutex<BTreeMap<String, Value>>>;

async fn list(State(stations): State<Stations>) -> Json<Value> {
    let stations = stations.lock().expect("no panic");
    Json(json!({ "stations": stations.values().collect::<Vec<_>>() }))
}

async fn create(State(stations): State<Stations>, Json(station): Json<Value>) -> impl IntoResponse {
    let id = station["id"].as_str().unwrap_or_default().to_owned();
    let location = format!("/stations/{id}");
    stations.lock().expect("no panic").insert(id, station.clone());
    (StatusCode::CREATED, [("location", location), ("etag", "\"1\"".to_owned())], Json(station))
}

async fn one(State(stations): State<Stations>, Path(id): Path<String>) -> impl IntoResponse {
    match stations.lock().expect("no panic").get(&id) {
        Some(station) => ([("etag", "\"1\"")], Json(station.clone())).into_response(),
        None => StatusCode::NOT_FOUND.into_response(),
    }
}

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let addr = std::env::args().nth(1).expect("an address");
    let stations = Router::new().route("/stations", get(list).post(create)).route("/stations/{id}", get(one));
    let listener = tokio::net::TcpListener::bind(addr).await?;
    axum::serve(listener, stations.with_state(Stations::default())).await
}
