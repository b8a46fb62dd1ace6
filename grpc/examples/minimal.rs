//! The whole idea of this chapter in one file.
//!
//! A *contract*, `protos/weather/v1/weather.proto`, lists the functions that a client can
//! call. From it, the build generates the messages, a trait for the server to implement,
//! and a client whose methods look like local functions. A call can also return a stream
//! of responses.
//!
//! ```sh
//! cargo run -p grpc --example minimal
//! ```

use std::sync::{Mutex, PoisonError};

use futures::stream::{self, BoxStream, StreamExt};
use grpc::proto::watch_response::Event;
use grpc::proto::weather_service_client::WeatherServiceClient;
use grpc::proto::weather_service_server::{WeatherService, WeatherServiceServer};
use grpc::proto::{
    Metric, MonitorRequest, MonitorResponse, Reading, RecordRequest, RecordResponse, RecordedReading,
    UploadRequest, UploadResponse, WatchRequest, WatchResponse,
};
use tokio::net::TcpListener;
use tonic::transport::server::{Server, TcpIncoming};
use tonic::{Request, Response, Result, Status, Streaming};

#[tokio::main]
async fn main() -> std::result::Result<(), Box<dyn std::error::Error>> {
    let listener = TcpListener::bind("127.0.0.1:0").await?; // Port 0 picks a free one.
    let url = format!("http://{}", listener.local_addr()?);
    let server = Server::builder().add_service(WeatherServiceServer::new(Weather::default()));
    tokio::spawn(server.serve_with_incoming(TcpIncoming::from(listener)));
    call(url).await
}

/// The server. It implements the trait that was generated from the contract.
#[derive(Default)]
struct Weather {
    readings: Mutex<Vec<Reading>>,
}

#[tonic::async_trait]
impl WeatherService for Weather {
    /// One request, one response.
    async fn record(&self, request: Request<RecordRequest>) -> Result<Response<RecordResponse>> {
        let readings = request.into_inner().readings;
        if readings.iter().any(|reading| reading.station.is_empty()) {
            return Err(Status::invalid_argument("a reading needs a station"));
        }
        let accepted = readings.len() as u64;
        self.readings.lock().unwrap_or_else(PoisonError::into_inner).extend(readings);
        Ok(Response::new(RecordResponse { accepted }))
    }

    type WatchStream = BoxStream<'static, Result<WatchResponse>>;

    /// One request, many responses.
    async fn watch(&self, _request: Request<WatchRequest>) -> Result<Response<Self::WatchStream>> {
        let readings = self.readings.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let responses = (1..).zip(readings).map(|(sequence, reading)| {
            let event = Event::Recorded(RecordedReading { sequence, reading: Some(reading) });
            Ok(WatchResponse { event: Some(event) })
        });
        Ok(Response::new(stream::iter(responses).boxed()))
    }

    async fn upload(&self, _: Request<Streaming<UploadRequest>>) -> Result<Response<UploadResponse>> {
        Err(Status::unimplemented("see the chapter's server"))
    }

    type MonitorStream = BoxStream<'static, Result<MonitorResponse>>;

    async fn monitor(&self, _: Request<Streaming<MonitorRequest>>) -> Result<Response<Self::MonitorStream>> {
        Err(Status::unimplemented("see the chapter's server"))
    }
}

/// The client. It calls the server's functions and prints what they return.
async fn call(url: String) -> std::result::Result<(), Box<dyn std::error::Error>> {
    let mut client = WeatherServiceClient::connect(url).await?;
    for station in ["oslo-1", ""] {
        let metric = Metric::Temperature.into();
        let reading =
            Reading { station: station.into(), metric, value: 21.5, recorded_at: 1_769_860_800_000 };
        println!("client calls Record with a reading of station {station:?}");
        match client.record(RecordRequest { readings: vec![reading] }).await {
            Ok(response) => println!("server returns: accepted {}", response.into_inner().accepted),
            Err(status) => println!("server returns: {:?}, {}", status.code(), status.message()),
        }
    }
    println!("client calls Watch");
    let mut responses = client.watch(WatchRequest::default()).await?.into_inner();
    while let Some(response) = responses.message().await? {
        if let Some(Event::Recorded(RecordedReading { sequence, reading: Some(reading) })) = response.event {
            println!("server sends:   reading {sequence}, {} {}", reading.station, reading.value);
        }
    }
    Ok(())
}
