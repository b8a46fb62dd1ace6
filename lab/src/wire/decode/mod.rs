//! A decoder for each protocol.

use ::tcp_socket::base::tls::HTTP_1_1;
use clap::ValueEnum;

use super::message::Decoder;

pub mod amqp;
mod amqp_arguments;
pub mod grpc;
mod head;
pub mod hpack;
pub mod http1;
pub mod http2;
mod http2_frame;
pub mod protobuf;
pub mod resp;
mod sse;
pub mod tcp_socket;
pub mod tls;
pub mod websocket;

/// A function that returns a decoder for a new connection.
pub type NewDecoder = fn() -> Box<dyn Decoder>;

/// A protocol that can be decoded. On the command line, it has the name of its chapter or broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "lower")]
pub enum Format {
    /// HTTP/1.1
    #[value(name = "http_rest", alias = "http1")]
    HttpRest,
    /// HTTP/2, with the messages of gRPC
    #[value(alias = "http2")]
    Grpc,
    /// WebSocket, and the HTTP request that begins it
    WebSocket,
    /// The protocol of the TCP chapter
    #[value(name = "tcp_socket")]
    TcpSocket,
    /// AMQP 0-9-1
    #[value(alias = "amqp")]
    RabbitMq,
    /// RESP2 and RESP3
    #[value(alias = "resp")]
    Redis,
}

impl Format {
    /// Returns its name on the command line.
    pub fn name(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }

    /// Returns how to decode a new connection.
    pub fn decoder(self) -> NewDecoder {
        match self {
            Self::HttpRest => http1::decoder,
            Self::WebSocket => websocket::decoder,
            Self::Grpc => http2::decoder,
            Self::TcpSocket => tcp_socket::decoder,
            Self::RabbitMq => amqp::decoder,
            Self::Redis => resp::decoder,
        }
    }

    /// Returns the port that Wireshark expects the protocol on.
    pub fn standard_port(self) -> u16 {
        match self {
            Self::HttpRest | Self::WebSocket => 80,
            Self::Grpc => 50051,
            Self::TcpSocket => 7878,
            Self::RabbitMq => 5672,
            Self::Redis => 6379,
        }
    }

    /// Returns the port on which Wireshark expects the protocol over TLS, or a port on which it expects
    /// no other protocol.
    pub fn tls_port(self) -> u16 {
        match self {
            Self::HttpRest | Self::WebSocket | Self::Grpc => 443,
            Self::RabbitMq => 5671,
            Self::TcpSocket => 7879,
            Self::Redis => 6380,
        }
    }

    /// Returns the ALPN name of the protocol inside TLS, if it has one.
    pub(crate) fn alpn(self) -> Option<&'static str> {
        match self {
            Self::HttpRest | Self::WebSocket => Some(HTTP_1_1),
            Self::Grpc => Some("h2"),
            Self::TcpSocket | Self::RabbitMq | Self::Redis => None,
        }
    }

    /// Returns what accepts the connections: a server or a broker.
    pub fn server(self) -> &'static str {
        match self {
            Self::RabbitMq | Self::Redis => "broker",
            _ => "server",
        }
    }
}
