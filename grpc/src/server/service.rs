//! The weather service: the four kinds of call, each in its own file, behind a token if
//! there is one.

use std::sync::Arc;
use std::time::Duration;

use futures::stream::BoxStream;
use tonic::codec::CompressionEncoding::Gzip;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::server::NamedService;
use tonic::service::Routes;
use tonic::service::interceptor::InterceptedService;
use tonic::{Request, Response, Status, Streaming};

use super::store::Store;
use super::{monitor, record, upload, watch};
use crate::limits::Limits;
use crate::protocol::proto::weather_service_server::{WeatherService, WeatherServiceServer};
use crate::protocol::proto::{
    MonitorRequest, MonitorResponse, RecordRequest, RecordResponse, UploadRequest, UploadResponse,
    WatchRequest, WatchResponse,
};

/// The service's name, as in the path of a call.
pub(super) const NAME: &str = WeatherServiceServer::<Weather>::NAME;

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

/// Returns the weather service with an empty store. If there is a `token`, calls need it.
pub(super) fn weather(limits: &Limits, token: Option<String>, gzip: bool) -> Routes {
    let weather = Weather { store: Arc::default(), upload_idle_timeout: limits.upload_idle_timeout };
    let mut service = WeatherServiceServer::new(weather).max_decoding_message_size(limits.max_message);
    if gzip {
        service = service.accept_compressed(Gzip).send_compressed(Gzip);
    }
    match token {
        None => Routes::new(service),
        Some(expected) => {
            // An interceptor runs before the handler. It sees the metadata, but not the
            // message.
            let check = move |request: Request<()>| {
                let mut values = request.metadata().get_all("authorization").iter();
                match (values.next().and_then(bearer_token), values.next()) {
                    (Some(given), None) if is_same(given, expected.as_bytes()) => Ok(request),
                    _ => Err(Status::unauthenticated(
                        "send the metadata \"authorization: Bearer TOKEN\" exactly once, \
                         with the server's token",
                    )),
                }
            };
            Routes::new(InterceptedService::new(service, check))
        }
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

/// Compares in a time that does not depend on how many bytes are right.
fn is_same(given: &[u8], expected: &[u8]) -> bool {
    given.len() == expected.len() && given.iter().zip(expected).fold(0, |sum, (a, b)| sum | (a ^ b)) == 0
}
