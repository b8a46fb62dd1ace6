//! The services, found by name: the weather service, whose four calls each have a file of
//! their own, and those that every gRPC server should have.

use std::convert::Infallible;
use std::future::ready;
use std::sync::Arc;
use std::time::Duration;

use futures::stream::BoxStream;
use hyper::body::Bytes;
use tonic::body::Body;
use tonic::codec::CompressionEncoding::Gzip;
use tonic::codegen::{BoxFuture, Service, http};
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::interceptor::InterceptedService;
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

/// Name of the weather service, as in the path of a call.
pub(super) const NAME: &str = weather_service_server::SERVICE_NAME;

/// The services of a server.
pub(super) struct Services {
    weather: WeatherServiceServer<Weather>,
    /// The token that calls of the weather service need, if any.
    token: Option<String>,
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
        token: Option<String>,
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
        Ok(Self { weather, token, health, reflection })
    }

    /// Passes a call on to the service that its path names, such as
    /// `/weather.v1.WeatherService/Record`.
    ///
    /// tonic's `Routes` does the same with a router for any kind of path. It would add 8%
    /// to the instructions that the server executes for a `Record`.
    pub(super) fn call<B>(&self, mut request: http::Request<B>) -> BoxFuture<http::Response<Body>, Infallible>
    where
        B: hyper::body::Body<Data = Bytes, Error = Status> + Send + 'static,
    {
        let path = request.uri().path();
        match path.split('/').nth(1).unwrap_or_default() {
            NAME => match &self.token {
                None => self.weather.clone().call(request),
                // An interceptor runs before the handler. It sees the metadata, but not the
                // message.
                Some(token) => {
                    let check = |request| check_token(request, token);
                    let response = InterceptedService::new(self.weather.clone(), check).call(request);
                    Box::pin(async { Ok(response.await?.map(Body::new)) })
                }
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
        record::record(&self.store, request.get_ref()).map(Response::new)
    }

    async fn watch(&self, request: Request<WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        watch::watch(&self.store, request.get_ref()).map(Response::new)
    }

    async fn upload(
        &self,
        mut request: Request<Streaming<UploadRequest>>,
    ) -> Result<Response<UploadResponse>, Status> {
        upload::upload(&self.store, request.get_mut(), self.upload_idle_timeout).await.map(Response::new)
    }

    async fn monitor(
        &self,
        request: Request<Streaming<MonitorRequest>>,
    ) -> Result<Response<Self::MonitorStream>, Status> {
        Ok(Response::new(monitor::monitor(self.store.clone(), request.into_inner())))
    }
}

fn check_token(request: Request<()>, expected: &str) -> Result<Request<()>, Status> {
    let mut values = request.metadata().get_all("authorization").iter();
    match (values.next().and_then(bearer_token), values.next()) {
        (Some(given), None) if is_same(given, expected.as_bytes()) => Ok(request),
        _ => Err(Status::unauthenticated(
            "send the metadata \"authorization: Bearer TOKEN\" exactly once, with the server's token",
        )),
    }
}

/// Returns the token in `Bearer TOKEN`. The case of the scheme does not matter, and one
/// or more spaces follow it (RFC 9110, section 11.4; RFC 6750, section 2.1).
fn bearer_token(authorization: &MetadataValue<Ascii>) -> Option<&[u8]> {
    let (scheme, rest) = authorization.as_encoded_bytes().split_at_checked("Bearer".len())?;
    let token = rest.trim_ascii_start();
    let spaces = &rest[..rest.len() - token.len()];
    let is_bearer = scheme.eq_ignore_ascii_case(b"Bearer") && !spaces.is_empty();
    (is_bearer && spaces.iter().all(|byte| *byte == b' ')).then_some(token)
}

/// Compares in a time that does not depend on how many bytes match.
fn is_same(given: &[u8], expected: &[u8]) -> bool {
    given.len() == expected.len() && given.iter().zip(expected).fold(0, |sum, (a, b)| sum | (a ^ b)) == 0
}
