//! The contract of the gRPC chapter. Its script has the messages as JSON, in the form that Protocol
//! Buffers define for it.

use bytes::BufMut;
use futures::FutureExt;
use futures::channel::mpsc::unbounded;
use lab::wire::decode::Format;
use prost_reflect::prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage, MethodDescriptor, SerializeOptions};
use tokio_util::task::AbortOnDropHandle;
use tonic::client::Grpc;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::transport::Endpoint;
use tonic::{Request, Status};
use tonic_types::StatusExt;

use super::messages::{Channel, messages};
use super::script::stages;
use super::{Checked, Contract, wrong};

const SERVICE: &str = "weather.v1.WeatherService";

pub(super) fn contract() -> Contract {
    let text = include_str!("../../exercises/contracts/grpc.txt");
    let stages = stages(text, |lines, tested| {
        messages(lines, tested.addr, |addr, method| open(addr, method).boxed_local()).boxed_local()
    });
    let document = "grpc/protos/weather/v1/weather.proto and tests/exercises/contracts/grpc.txt";
    Contract { name: "grpc", format: Format::Grpc, document, stages }
}

/// Begins a call on a new connection.
async fn open(addr: String, method: String) -> Checked<Result<Channel, u16>> {
    let pool = DescriptorPool::decode(grpc::proto::DESCRIPTORS).expect("a valid proto");
    let service = pool.get_service_by_name(SERVICE).expect("it is in the proto");
    let json = Json(service.methods().find(|found| found.name() == method).expect("it is in the proto"));
    let connection = match Endpoint::from_shared(format!("http://{addr}")).expect("valid").connect().await {
        Ok(connection) => connection,
        Err(error) => return wrong("a connection", error),
    };
    let (send, requests) = unbounded();
    let (arrived, receive) = unbounded();
    let task = tokio::spawn(async move {
        let path = format!("/{SERVICE}/{method}").parse().expect("a valid path");
        let mut client = Grpc::new(connection);
        let call = async {
            client.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
            let mut responses = client.streaming(Request::new(requests), path, json).await?.into_inner();
            while let Some(response) = responses.message().await? {
                let _ = arrived.unbounded_send(response);
            }
            Ok(())
        };
        let end = call.await.map_or_else(|status| described(&status), |()| "OK".to_owned());
        let _ = arrived.unbounded_send(end);
    });
    Ok(Ok(Channel { send: Some(send), receive, _task: AbortOnDropHandle::new(task) }))
}

/// Returns the status code, and the fields that the status says are invalid.
fn described(status: &Status) -> String {
    let mut words = vec![grpc::protocol::status::name(status.code())];
    words.extend(
        status
            .get_details_bad_request()
            .into_iter()
            .flat_map(|bad| bad.field_violations)
            .map(|violation| violation.field),
    );
    words.join(" ")
}

/// Translates between the JSON of the script and the messages of a call.
struct Json(MethodDescriptor);

impl Codec for Json {
    type Encode = String;
    type Decode = String;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self(self.0.clone())
    }

    fn decoder(&mut self) -> Self {
        Self(self.0.clone())
    }
}

impl Encoder for Json {
    type Item = String;
    type Error = Status;

    fn encode(&mut self, json: String, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        let mut json = serde_json::Deserializer::from_str(&json);
        let message = DynamicMessage::deserialize(self.0.input(), &mut json);
        buffer.put_slice(&message.expect("the script has valid messages").encode_to_vec());
        Ok(())
    }
}

impl Decoder for Json {
    type Item = String;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<String>, Status> {
        let no_message = |error| Status::internal(format!("the response is not a valid message: {error}"));
        let message = DynamicMessage::decode(self.0.output(), buffer).map_err(no_message)?;
        let options = SerializeOptions::new().use_proto_field_name(true).skip_default_fields(false);
        let options = options.stringify_64_bit_integers(false);
        let json = message.serialize_with_options(serde_json::value::Serializer, &options);
        Ok(Some(json.expect("any message has a JSON form").to_string()))
    }
}
