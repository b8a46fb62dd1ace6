//! What surrounds the weather service: the token, health, reflection, and the responses
//! to requests that are not calls.

use bytes::{Bytes, BytesMut};
use grpc::proto::RecordRequest;
use grpc::{Client, Options};
use http::Request;
use prost::Message;
use tests::{apply, test};
use tonic::Code;
use tonic::transport::Endpoint;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus::{NotServing, ServiceUnknown, Serving};
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
use tonic_reflection::pb::v1::{ExtensionRequest, ServerReflectionRequest, ServerReflectionResponse};

use crate::calls::failure;
use crate::support::*;

#[apply(test!)]
async fn calls_without_the_right_token_are_refused() {
    let server =
        tests::Server::start(PAIR.server, &["--addr", "127.0.0.1:0", "--token", "open-sesame"]).await;
    for token in [None, Some("wrong"), Some("open-sesamE"), Some("open-sesame!")] {
        let options = Options { token: token.map(str::to_owned), ..Options::default() };
        let refused =
            failure(Client::new(server.url(), &options).unwrap().record(&[reading("a", 1.0)]).await);
        assert_eq!(refused.code, Code::Unauthenticated, "{token:?}");
    }
    let options = Options { token: Some("open-sesame".into()), ..Options::default() };
    let known = Client::new(server.url(), &options).unwrap();
    assert_eq!(known.record(&[reading("a", 1.0)]).await.unwrap(), 1);
    // Streams need the token, too, but a load balancer's health check does not.
    let connection = connect(server.addr()).await;
    for path in [WATCH, UPLOAD, MONITOR] {
        assert_eq!(unary(&connection, path, &[], Bytes::new()).await.code(), "16", "{path}");
    }
    let check = unary(&connection, "/grpc.health.v1.Health/Check", &[], prefixed(&())).await;
    assert_eq!((check.code(), &check.messages[..]), ("0", &b"\0\0\0\0\x02\x08\x01"[..]));
    server.stop().await;
}

#[apply(test!)]
async fn health_is_reported_for_each_service_and_changes_before_shutdown() {
    let mut server = PAIR.serve().await;
    let channel = Endpoint::from_shared(server.url().to_owned()).unwrap().connect().await.unwrap();
    let mut health = HealthClient::new(channel);
    let ask = |service: &str| HealthCheckRequest { service: service.to_owned() };
    for service in ["", "weather.v1.WeatherService"] {
        let status = health.check(ask(service)).await.unwrap().into_inner().status();
        assert_eq!(status, Serving, "{service:?}");
    }
    assert_eq!(health.check(ask("nonsense")).await.unwrap_err().code(), Code::NotFound);
    let mut watched = health.watch(ask("weather.v1.WeatherService")).await.unwrap().into_inner();
    assert_eq!(within(watched.message()).await.unwrap().unwrap().status(), Serving);
    let mut unknown = Vec::new();
    for service in ["nonsense", "weather.v1", "weather.v1.weatherservice"] {
        let mut watched = health.watch(ask(service)).await.unwrap().into_inner();
        assert_eq!(within(watched.message()).await.unwrap().unwrap().status(), ServiceUnknown, "{service}");
        unknown.push(watched);
    }
    server.terminate();
    assert_eq!(within(watched.message()).await.unwrap().unwrap().status(), NotServing);
    assert_eq!(within(watched.message()).await.unwrap_err().code(), Code::Unavailable);
    for mut watched in unknown {
        // The stream was open until now.
        assert_eq!(within(watched.message()).await.unwrap_err().code(), Code::Unavailable);
    }
    // Another signal would end the server at once.
    server.wait().await;
}

#[apply(test!)]
async fn reflection_describes_the_service() {
    let server = PAIR.serve().await;
    let channel = Endpoint::from_shared(server.url().to_owned()).unwrap().connect().await.unwrap();
    let mut reflection = ServerReflectionClient::new(channel);
    let mut ask = async |request: MessageRequest| {
        let request = ServerReflectionRequest { host: String::new(), message_request: Some(request) };
        let stream = futures::stream::iter([request]);
        let mut responses = reflection.server_reflection_info(stream).await.unwrap().into_inner();
        within(responses.message()).await.unwrap().unwrap().message_response.unwrap()
    };
    let MessageResponse::ListServicesResponse(list) = ask(MessageRequest::ListServices(String::new())).await
    else {
        panic!("no list")
    };
    let mut names: Vec<_> = list.service.into_iter().map(|service| service.name).collect();
    names.sort();
    assert_eq!(
        names,
        [
            "grpc.health.v1.Health",
            "grpc.reflection.v1.ServerReflection",
            "grpc.reflection.v1alpha.ServerReflection",
            "weather.v1.WeatherService"
        ]
    );
    let symbol = MessageRequest::FileContainingSymbol("weather.v1.WeatherService".into());
    let MessageResponse::FileDescriptorResponse(files) = ask(symbol).await else { panic!("no file") };
    let text = String::from_utf8_lossy(&files.file_descriptor_proto[0]).into_owned();
    for name in ["Record", "Watch", "Upload", "Monitor", "METRIC_TEMPERATURE", "recorded_at"] {
        assert!(text.contains(name), "{name}");
    }
    server.stop().await;
}

/// Every request that fails gets a response, and the next one can follow on the same
/// stream.
#[apply(test!)]
async fn reflection_reports_errors_on_the_open_stream() {
    let server = PAIR.serve().await;
    let connection = connect(server.addr()).await;
    let weather = MessageRequest::FileContainingSymbol("weather.v1.WeatherService".into());
    let extension = ExtensionRequest { containing_type: "weather.v1.Reading".into(), extension_number: 1000 };
    let long = "x".repeat(100_000);
    let questions = [
        (Some(MessageRequest::FileContainingSymbol("weather.v1.Nonsense".into())), Some(5)),
        (Some(MessageRequest::FileContainingSymbol(String::new())), Some(5)),
        (Some(MessageRequest::FileContainingSymbol(long)), Some(5)),
        (Some(weather.clone()), None),
        (Some(MessageRequest::FileByFilename("nonsense.proto".into())), Some(5)),
        (Some(MessageRequest::FileContainingExtension(extension)), Some(5)),
        (None, Some(3)),
        (Some(weather), None),
    ];
    for version in ["v1", "v1alpha"] {
        let path = format!("/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo");
        let (response, mut send) = open(&connection, &path, &[]).await;
        let mut bytes = BytesMut::new();
        for (question, _) in questions.clone() {
            let host = "here".to_owned();
            bytes.extend(prefixed(&ServerReflectionRequest { host, message_request: question }));
        }
        send_all(&mut send, bytes.freeze()).await;
        let whole = whole_response(response).await;
        assert_eq!(whole.code(), "0", "{version}");
        let responses: Vec<ServerReflectionResponse> = decode_all(whole.messages);
        assert_eq!(responses.len(), questions.len());
        for (response, (question, error)) in responses.into_iter().zip(questions.clone()) {
            assert_eq!(response.valid_host, "here");
            assert_eq!(response.original_request.unwrap().message_request, question);
            match response.message_response.unwrap() {
                MessageResponse::ErrorResponse(found) => {
                    assert_eq!(Some(found.error_code), error, "{}", found.error_message);
                    assert!(found.error_message.len() < 500, "{}", found.error_message.len());
                }
                MessageResponse::FileDescriptorResponse(_) => assert_eq!(error, None),
                other => panic!("{other:?}"),
            }
        }
    }
    for path in ["/grpc.reflection.v1alpha.ServerReflection/Other", "/grpc.reflection.v2.ServerReflection/X"]
    {
        assert_eq!(unary(&connection, path, &[], Bytes::new()).await.code(), "12", "{path}");
    }
    server.stop().await;
}

#[apply(test!)]
async fn requests_that_are_not_calls_get_a_fitting_status() {
    let server = PAIR.serve().await;
    let connection = connect(server.addr()).await;
    for path in ["/weather.v1.WeatherService/Forecast", "/weather.v2.WeatherService/Record", "/", "/x"] {
        let response = unary(&connection, path, &[], record_one()).await;
        assert_eq!((response.http_status, response.code()), (200, "12"), "{path}");
    }
    let plain = Request::post(format!("http://localhost{RECORD}")).header("content-type", "application/json");
    let mut ready = connection.clone().ready().await.unwrap();
    let (response, _) = ready.send_request(plain.body(()).unwrap(), true).unwrap();
    assert_eq!(within(response).await.unwrap().status(), 415);
    let get = Request::get("http://localhost/");
    let (response, _) = ready.ready().await.unwrap().send_request(get.body(()).unwrap(), true).unwrap();
    assert_eq!(within(response).await.unwrap().status(), 405);
    server.stop().await;
}

/// Decodes the status details without the typed client.
#[apply(test!)]
async fn field_violations_travel_in_the_trailers() {
    let server = PAIR.serve().await;
    let connection = connect(server.addr()).await;
    let request = prefixed(&RecordRequest { readings: vec![reading("oslo-1", 999.0)] });
    let response = unary(&connection, RECORD, &[], request).await;
    // The response is only a status, so its headers are also its trailers.
    assert_eq!((response.code(), response.messages.len()), ("3", 0));
    assert_eq!(response.headers["grpc-message"], "one%20field%20is%20invalid");
    let details = response.headers["grpc-status-details-bin"].to_str().unwrap();
    let decoded = tonic::metadata::MetadataValue::<tonic::metadata::Binary>::from_static(Box::leak(
        details.to_owned().into_boxed_str(),
    ));
    let status = tonic_types::pb::Status::decode(decoded.to_bytes().unwrap()).unwrap();
    assert_eq!(status.code, 3);
    assert_eq!(status.details[0].type_url, "type.googleapis.com/google.rpc.BadRequest");
    let bad = tonic_types::pb::BadRequest::decode(&status.details[0].value[..]).unwrap();
    assert_eq!(bad.field_violations[0].field, "readings[0].value");
    assert_eq!(bad.field_violations[0].description, "999 is outside -100 to 70");
    server.stop().await;
}
