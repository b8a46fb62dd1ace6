//! The services, found by name: the weather service, whose four calls each have a file of
//! their own, and those that every gRPC server should have.

use std::convert::Infallible;
use std::future::ready;
use std::sync::Arc;
use std::time::Duration;

use futures::stream::BoxStream;
use hyper::body::Bytes;
use tcp_socket::base::principals::{Caller, Denied, Operation};
use tonic::body::Body;
use tonic::codec::CompressionEncoding::Gzip;
use tonic::codegen::{BoxFuture, Service, http};
use tonic::{Request, Response, Status, Streaming};
use tonic_health::pb::health_server::{self, HealthServer};
use tonic_health::server::HealthReporter;
use tonic_reflection::pb::v1::server_reflection_server::{self as reflection_v1, ServerReflectionServer};
use tonic_reflection::pb::v1alpha::server_reflection_server as reflection_v1alpha;

use super::services::{HealthWithUnknown, Reflection};
use super::store::Store;
use super::{monitor, record, services, upload, watch};
use crate::limits::Limits;
use crate::protocol::proto::weather_service_server::{self, WeatherService, WeatherServiceServer};
use crate::protocol::proto::{
    MonitorRequest, MonitorResponse, RecordRequest, RecordResponse, UploadRequest, UploadResponse,
    WatchRequest, WatchResponse,
};
use crate::protocol::status::refused;

/// Name of the weather service, as in the path of a call.
pub(super) const NAME: &str = weather_service_server::SERVICE_NAME;

/// The services of a server.
pub(super) struct Services {
    weather: WeatherServiceServer<Weather>,
    health: HealthServer<HealthWithUnknown>,
    reflection: ServerReflectionServer<Reflection>,
}

impl Services {
    /// Returns the services, with an empty store.
    ///
    /// # Errors
    /// If a descriptor is malformed.
    pub(super) fn new(
        limits: &Limits,
        gzip: bool,
        health: HealthReporter,
    ) -> Result<Self, tonic_reflection::server::Error> {
        let weather = Weather { store: Arc::default(), upload_idle_timeout: limits.upload_idle_timeout };
        let mut weather = WeatherServiceServer::new(weather).max_decoding_message_size(limits.max_message);
        if gzip {
            weather = weather.accept_compressed(Gzip).send_compressed(Gzip);
        }
        let health = services::health(health, limits.max_message);
        let reflection = services::reflection(limits.max_message)?;
        Ok(Self { weather, health, reflection })
    }

    /// Passes a call on to the service that its path names, such as
    /// `/weather.v1.WeatherService/Record`.
    ///
    /// tonic's `Routes` does the same with a router for any kind of path. It would add 8%
    /// to the instructions that the server executes for a `Record`.
    pub(super) fn call<B>(
        &self,
        mut request: http::Request<B>,
        caller: &Caller,
    ) -> BoxFuture<http::Response<Body>, Infallible>
    where
        B: hyper::body::Body<Data = Bytes, Error = Status> + Send + 'static,
    {
        let path = request.uri().path();
        match path.split('/').nth(1).unwrap_or_default() {
            NAME if !caller.is_checked() => self.weather.clone().call(request),
            NAME => match check_caller(caller, &request) {
                Ok(caller) => {
                    request.extensions_mut().insert(caller);
                    self.weather.clone().call(request)
                }
                Err(denied) => Box::pin(ready(Ok(refused(&denied).into_http()))),
            },
            health_server::SERVICE_NAME => self.health.clone().call(request),
            reflection_v1::SERVICE_NAME => self.reflection.clone().call(request),
            // The earlier name of the service, which Postman, grpcui, and Evans use. The
            // messages are the same.
            reflection_v1alpha::SERVICE_NAME => {
                let path = path.replace(reflection_v1alpha::SERVICE_NAME, reflection_v1::SERVICE_NAME);
                *request.uri_mut() = path.parse().unwrap_or_default();
                self.reflection.clone().call(request)
            }
            _ => Box::pin(ready(Ok(Status::unimplemented("this server has no such service").into_http()))),
        }
    }
}

struct Weather {
    store: Arc<Store>,
    upload_idle_timeout: Duration,
}

#[tonic::async_trait]
impl WeatherService for Weather {
    type WatchStream = BoxStream<'static, Result<WatchResponse, Status>>;
    type MonitorStream = BoxStream<'static, Result<MonitorResponse, Status>>;

    async fn record(&self, request: Request<RecordRequest>) -> Result<Response<RecordResponse>, Status> {
        record::record(&self.store, &caller(&request), request.get_ref()).map(Response::new)
    }

    async fn watch(&self, request: Request<WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        watch::watch(&self.store, request.get_ref()).map(Response::new)
    }

    async fn upload(
        &self,
        mut request: Request<Streaming<UploadRequest>>,
    ) -> Result<Response<UploadResponse>, Status> {
        let caller = caller(&request);
        let upload = upload::upload(&self.store, &caller, request.get_mut(), self.upload_idle_timeout);
        upload.await.map(Response::new)
    }

    async fn monitor(
        &self,
        request: Request<Streaming<MonitorRequest>>,
    ) -> Result<Response<Self::MonitorStream>, Status> {
        Ok(Response::new(monitor::monitor(self.store.clone(), request.into_inner())))
    }
}

/// Checks that the caller may make this call, before its messages are read. Returns what it may
/// record then.
fn check_caller<B>(caller: &Caller, request: &http::Request<B>) -> Result<Caller, Denied> {
    let tokens = request.headers().get_all(http::header::AUTHORIZATION).iter();
    let caller = caller.with_authorization(tokens.map(http::HeaderValue::as_bytes))?;
    let method = request.uri().path().rsplit('/').next();
    caller.may(match method {
        Some("Record" | "Upload") => Operation::RecordOwn, // Their handlers check whose readings they are.
        Some("Watch" | "Monitor") => Operation::Subscribe,
        _ => Operation::Manage, // A new method is not open to everybody by mistake.
    })?;
    Ok(caller)
}

/// Returns the caller of a request, which [`Services::call`] has noted if callers are checked.
fn caller<T>(request: &Request<T>) -> Caller {
    request.extensions().get().cloned().unwrap_or_default()
}
