//! The beginning of a server for the gRPC chapter: it accepts every batch, and keeps nothing.
//!
//! cargo build --bin starter-grpc
//! cargo run --bin check -- grpc --server 'target/debug/starter-grpc {addr}'
use futures::stream::BoxStream;
use grpc::proto::weather_service_server::{WeatherService, WeatherServiceServer};
use grpc::proto::{MonitorRequest, MonitorResponse, RecordRequest, RecordResponse, UploadRequest};
use grpc::proto::{UploadResponse, WatchRequest, WatchResponse};
use tonic::transport::Server;
use tonic::{Request, Response, Result, Status, Streaming};

struct Weather;

#[tonic::async_trait]
impl WeatherService for Weather {
    type WatchStream = BoxStream<'static, Result<WatchResponse>>;
    type MonitorStream = BoxStream<'static, Result<MonitorResponse>>;

    async fn record(&self, request: Request<RecordRequest>) -> Result<Response<RecordResponse>> {
        let accepted = request.into_inner().readings.len() as u64;
        Ok(Response::new(RecordResponse { accepted }))
    }

    async fn watch(&self, _: Request<WatchRequest>) -> Result<Response<Self::WatchStream>> {
        Err(Status::unimplemented("yours to write"))
    }

    async fn upload(&self, _: Request<Streaming<UploadRequest>>) -> Result<Response<UploadResponse>> {
        Err(Status::unimplemented("yours to write"))
    }

    async fn monitor(&self, _: Request<Streaming<MonitorRequest>>) -> Result<Response<Self::MonitorStream>> {
        Err(Status::unimplemented("yours to write"))
    }
}

#[tokio::main]
async fn main() -> std::result::Result<(), Box<dyn std::error::Error>> {
    let addr = std::env::args().nth(1).ok_or("an address is missing")?.parse()?;
    Ok(Server::builder().add_service(WeatherServiceServer::new(Weather)).serve(addr).await?)
}
