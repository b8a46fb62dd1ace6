//! The whole idea of this chapter in one file.
//!
//! A client sends a *method* (`POST`) for a *resource* (`/readings`), and the server
//! responds with a *status code* and a body, here in JSON.
//!
//! ```sh
//! cargo run -p http_rest --example minimal
//! ```

use std::sync::{Arc, Mutex, PoisonError};

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::{Deserialize, Serialize};
use tcp_socket::base::tls::trust_nobody;
use tokio::net::TcpListener;

#[derive(Clone, Serialize, Deserialize)]
struct Reading {
    station: String,
    temperature: f64,
}

/// The readings that the server keeps, shared by all requests.
type Store = Arc<Mutex<Vec<Reading>>>;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let listener = TcpListener::bind("127.0.0.1:0").await?; // Port 0: any free port.
    let url = format!("http://{}", listener.local_addr()?);
    tokio::spawn(async { axum::serve(listener, routes()).await });
    call(&url).await?;
    Ok(())
}

/// The server: says which function responds to which method and path.
fn routes() -> Router {
    Router::new()
        .route("/readings", post(record))
        .route("/readings/{station}", get(newest))
        .with_state(Store::default())
}

/// Responds to `POST /readings`. axum has already parsed the body. If it is JSON but not a
/// reading, axum responds with 422 and doesn't call this function.
async fn record(State(store): State<Store>, Json(reading): Json<Reading>) -> (StatusCode, Json<Reading>) {
    store.lock().unwrap_or_else(PoisonError::into_inner).push(reading.clone());
    (StatusCode::CREATED, Json(reading))
}

/// Responds to `GET /readings/oslo-1` with the newest reading of that station.
async fn newest(
    State(store): State<Store>,
    Path(station): Path<String>,
) -> Result<Json<Reading>, (StatusCode, String)> {
    let store = store.lock().unwrap_or_else(PoisonError::into_inner);
    let newest = store.iter().rev().find(|reading| reading.station == station);
    newest.cloned().map(Json).ok_or((StatusCode::NOT_FOUND, format!("no readings from {station}")))
}

/// The client: sends four requests and prints what comes back.
async fn call(url: &str) -> Result<(), reqwest::Error> {
    // For addresses with https, reqwest wants to know which servers to trust. This one is plain.
    let client = reqwest::Client::builder().tls_backend_preconfigured(trust_nobody()).build()?;
    let readings = format!("{url}/readings");
    let reading = Reading { station: "oslo-1".to_owned(), temperature: 21.5 };

    show("POST /readings", client.post(&readings).json(&reading).send().await?).await?;
    show("GET /readings/oslo-1", client.get(format!("{readings}/oslo-1")).send().await?).await?;
    show("GET /readings/rome-7", client.get(format!("{readings}/rome-7")).send().await?).await?;
    show("POST /readings", client.post(&readings).json("not a reading").send().await?).await
}

async fn show(request: &str, response: reqwest::Response) -> Result<(), reqwest::Error> {
    println!("client sends:     {request}");
    println!("server responds:  {}, {}", response.status(), response.text().await?);
    Ok(())
}
