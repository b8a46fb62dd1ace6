//! Fan-out: how to subscribe to readings over each protocol, and how to publish one.

use ::websocket::client::{Chat, ChatEvent, ChatEvents, LiveEvent};
use futures::future::{BoxFuture, FutureExt, ready};
use futures::{Stream, StreamExt};
use message_queue::publish_subscribe::Event;
use message_queue::rabbitmq::topology::Topology;
use message_queue::rabbitmq::{producer, publish_subscribe as topic};
use message_queue::redis::{names::KeyNames, publish_subscribe as channel};
use tokio::sync::Mutex;

use super::batch::{STATION, samples};
use super::message_queue::reading;
use super::protocol::{Connected, Protocol, Recorder, Subscription, connected};
use super::{broadcast, grpc, http_rest, rabbitmq, redis, tcp_socket, websocket};

enum Way {
    Broadcast,
    TcpWatch,
    WebSocketLive,
    WebSocketChat,
    GrpcWatch,
    ServerSentEvents,
    RedisChannel,
    RabbitMqTopic,
}

/// A way to send one reading to many subscribers.
pub struct FanOut {
    way: Way,
    /// How it is served, and its name in the tables.
    pub protocol: Protocol,
    /// The ID in `--protocols` that selects it. The baseline always runs.
    pub selected_by: &'static str,
}

const fn fan_out(way: Way, id: &'static str, name: &'static str, base: Protocol) -> FanOut {
    FanOut { way, selected_by: base.id, protocol: Protocol { id, name, ..base } }
}

/// All ways to fan out, the baseline first.
pub static FAN_OUT: [FanOut; 8] = [
    fan_out(Way::Broadcast, "broadcast", "bare broadcast", broadcast::PROTOCOL),
    fan_out(Way::TcpWatch, "tcp_watch", "TCP watch", tcp_socket::PROTOCOL),
    fan_out(Way::WebSocketLive, "websocket_live", "WebSocket live", websocket::PROTOCOL),
    fan_out(Way::WebSocketChat, "websocket_chat", "WebSocket chat", websocket::PROTOCOL),
    fan_out(Way::GrpcWatch, "grpc_watch", "gRPC Watch", grpc::UNARY),
    fan_out(Way::ServerSentEvents, "sse", "server-sent events", http_rest::PROTOCOL),
    fan_out(Way::RedisChannel, "redis_channel", "Redis Pub/Sub", redis::APPEND),
    fan_out(Way::RabbitMqTopic, "rabbitmq_topic", "RabbitMQ topic", rabbitmq::PUBLISH),
];

impl FanOut {
    /// Returns the maximum number of subscribers besides the publisher.
    pub fn most(&self) -> u64 {
        // A chat room has up to 1,000 members, and the publisher is one of them.
        if matches!(self.way, Way::WebSocketChat) { 999 } else { u64::MAX }
    }

    /// Connects a publisher to the server or broker at `address`. Its [`Recorder::record`] publishes
    /// one reading. `room` names a chat room.
    ///
    /// # Errors
    /// If it can't connect.
    pub async fn publisher(&self, address: String, room: u64) -> Connected {
        connected(match self.way {
            Way::WebSocketChat => {
                let (chat, mut events) = join(&address, room, "publisher".into()).await?;
                tokio::spawn(async move { while events.next().await.is_some() {} });
                Publisher::Chat(chat)
            }
            Way::RedisChannel => {
                let url = redis::url(&address);
                Publisher::Redis(Mutex::new(channel::Publisher::connect(&url, KeyNames::default()).await?))
            }
            Way::RabbitMqTopic => {
                let url = rabbitmq::url(&address);
                let publisher = producer::Publisher::connect(&url, Topology::default(), 1).await?;
                Publisher::RabbitMq(Box::new(Mutex::new(publisher)))
            }
            _ => return (self.protocol.connect)(address.into(), 1).await,
        })
    }

    /// Subscribes over a connection of its own. `member` tells the subscribers apart.
    ///
    /// # Errors
    /// If it can't connect or subscribe.
    pub async fn subscribe(&self, address: &str, room: u64, member: u64) -> anyhow::Result<Subscription> {
        let url = format!("http://{address}");
        Ok(match self.way {
            Way::Broadcast => broadcast::subscribe(address).await?,
            Way::TcpWatch => {
                readings(::tcp_socket::Client::connect(address).await?.watch(STATION).await?, |_| true)
            }
            Way::WebSocketLive => {
                let events = ::websocket::Client::new(&url).live(&[STATION], &[]).await?;
                readings(events, |event| matches!(event, LiveEvent::Reading { .. }))
            }
            Way::WebSocketChat => {
                let (chat, events) = join(address, room, format!("member-{member}")).await?;
                // The member stays in the room as long as the chat exists.
                let events = events.inspect(move |_| _ = &chat);
                readings(events, |event| matches!(event, ChatEvent::Message { .. }))
            }
            Way::GrpcWatch => {
                let client = ::grpc::Client::new(&url, &::grpc::Options::default())?;
                let events = client.watch(STATION, None, None).await?;
                readings(events, |event| matches!(event, ::grpc::client::Event::Recorded(_)))
            }
            Way::ServerSentEvents => {
                let events = ::http_rest::Client::new(&url)?.watch(None).await?;
                readings(events, |event| matches!(event, ::http_rest::client::LiveEvent::Reading(_)))
            }
            Way::RedisChannel => {
                let names = [format!("{STATION}:temperature")];
                let events = channel::subscribe(&redis::url(address), &KeyNames::default(), &names).await?;
                readings(events, |event| matches!(event, Event::Reading { .. }))
            }
            Way::RabbitMqTopic => {
                let patterns = [format!("readings.{STATION}.*")];
                let events =
                    topic::subscribe(&rabbitmq::url(address), Topology::default(), &patterns).await?;
                readings(events, |event| matches!(event, Event::Reading { .. }))
            }
        })
    }
}

/// Keeps only the items that carry a reading.
fn readings<T: 'static, E: 'static>(
    events: impl Stream<Item = Result<T, E>> + Send + 'static,
    is_reading: fn(&T) -> bool,
) -> Subscription {
    events.filter_map(move |event| ready(event.ok().filter(is_reading).map(drop))).boxed()
}

async fn join(address: &str, room: u64, name: String) -> anyhow::Result<(Chat, ChatEvents)> {
    Ok(::websocket::Client::new(&format!("http://{address}")).chat(&format!("room-{room}"), &name).await?)
}

/// The publishers that don't record readings over a protocol of `ALL`.
enum Publisher {
    Chat(Chat),
    Redis(Mutex<channel::Publisher>),
    RabbitMq(Box<Mutex<producer::Publisher>>),
}

impl Recorder for Publisher {
    fn record(&self) -> BoxFuture<'_, anyhow::Result<()>> {
        async {
            let batch: Vec<_> = samples(1).map(reading).collect();
            match self {
                Self::Chat(chat) => drop(chat.say("It is -3.5 °C in Oslo.").await?),
                Self::Redis(publisher) => drop(publisher.lock().await.publish(&batch).await?),
                Self::RabbitMq(publisher) => {
                    let mut publisher = publisher.lock().await;
                    publisher.publish(topic::message(&Topology::default(), &batch[0])?).await?;
                    publisher.flush().await?;
                }
            }
            Ok(())
        }
        .boxed()
    }
}
