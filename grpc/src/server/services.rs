//! Health and reflection: tonic's services, changed where tonic 0.14 differs from their
//! specifications.
//!
//! - For an unknown service, health's `Watch` sends `SERVICE_UNKNOWN` and stays open, as
//!   the "gRPC Health Checking Protocol" requires. tonic ends the call with `NOT_FOUND`.
//! - If a reflection request fails, the response is an `error_response`, and the next
//!   request can follow on the same stream. tonic ends the call.

use futures::StreamExt;
use futures::stream::{self, BoxStream};
use tonic::service::Routes;
use tonic::{Code, Request, Response, Status, Streaming};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_server::{Health, HealthServer};
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};
use tonic_health::server::{HealthReporter, HealthService};
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
use tonic_reflection::pb::v1::{ErrorResponse, ServerReflectionRequest, ServerReflectionResponse};
use tonic_reflection::pb::v1alpha;
use tonic_reflection::server::Builder;
use tonic_reflection::server::v1::{ServerReflection, ServerReflectionServer};

use crate::protocol::model::shorten;
use crate::protocol::proto::DESCRIPTORS;

/// Maximum number of bytes of an error's text in a response of the reflection service.
const MAX_ERROR: usize = 400;

/// tonic's health service, with a `Watch` that accepts unknown services.
pub(super) struct HealthWithUnknown(HealthService);

/// Returns the health service, which reports the states that are set on `reporter`.
pub(super) fn health(reporter: HealthReporter, max_message: usize) -> HealthServer<HealthWithUnknown> {
    let service = HealthWithUnknown(HealthService::from_health_reporter(reporter));
    HealthServer::new(service).max_decoding_message_size(max_message)
}

#[tonic::async_trait]
impl Health for HealthWithUnknown {
    type WatchStream = BoxStream<'static, Result<HealthCheckResponse, Status>>;

    async fn check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        self.0.check(request).await
    }

    async fn watch(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        match self.0.watch(request).await {
            Ok(response) => Ok(response.map(StreamExt::boxed)),
            // No service is added later, so nothing follows.
            Err(status) if status.code() == Code::NotFound => {
                let unknown = HealthCheckResponse { status: ServingStatus::ServiceUnknown.into() };
                Ok(Response::new(stream::iter([Ok(unknown)]).chain(stream::pending()).boxed()))
            }
            Err(status) => Err(status),
        }
    }
}

/// The reflection service. It passes each request on to tonic's own service, as a call
/// within this process.
pub(super) struct Reflection(ServerReflectionClient<Routes>);

/// Returns the reflection service, which describes this server's services and itself.
///
/// # Errors
/// If a descriptor is malformed.
pub(super) fn reflection(
    max_message: usize,
) -> Result<ServerReflectionServer<Reflection>, tonic_reflection::server::Error> {
    let tonics = Builder::configure()
        .register_encoded_file_descriptor_set(DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(v1alpha::FILE_DESCRIPTOR_SET)
        .build_v1()?;
    let ask = ServerReflectionClient::new(Routes::new(tonics)).max_decoding_message_size(usize::MAX);
    Ok(ServerReflectionServer::new(Reflection(ask)).max_decoding_message_size(max_message))
}

#[tonic::async_trait]
impl ServerReflection for Reflection {
    type ServerReflectionInfoStream = BoxStream<'static, Result<ServerReflectionResponse, Status>>;

    async fn server_reflection_info(
        &self,
        request: Request<Streaming<ServerReflectionRequest>>,
    ) -> Result<Response<Self::ServerReflectionInfoStream>, Status> {
        let service = self.0.clone();
        let responses = request.into_inner().then(move |question| {
            let mut service = service.clone();
            async move {
                let question = question?;
                let asked = stream::iter([question.clone()]);
                let response =
                    async { service.server_reflection_info(asked).await?.into_inner().message().await };
                let error = match response.await {
                    Ok(Some(response)) => return Ok(response),
                    Ok(None) => Status::internal("the reflection service sent no response"),
                    Err(status) => status,
                };
                let error = ErrorResponse {
                    error_code: error.code().into(),
                    error_message: shorten(error.message(), MAX_ERROR).into_owned(),
                };
                Ok(ServerReflectionResponse {
                    valid_host: question.host.clone(),
                    original_request: Some(question),
                    message_response: Some(MessageResponse::ErrorResponse(error)),
                })
            }
        });
        Ok(Response::new(responses.boxed()))
    }
}
