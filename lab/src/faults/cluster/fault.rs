//! What breaks in a cluster.

use std::time::Duration;

use message_queue::brokers::Kind;

/// What happens to a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    /// It is killed, and started again after the experiment.
    Killed,
    /// It is killed, and so is the node n2. It is started again after this time.
    MostKilled(Duration),
    /// It does nothing for this time, and then continues.
    Frozen(Duration),
}

/// A fault of an experiment.
#[derive(Debug)]
pub struct Fault {
    /// Its name in `scaling.json`.
    pub id: &'static str,
    /// Its name in tables.
    pub name: &'static str,
    /// The broker.
    pub kind: Kind,
    /// What breaks.
    pub what: What,
    /// RabbitMQ: the node that breaks, n1 to n3. On Redis, it is the primary.
    pub node: u16,
    /// RabbitMQ: the node to which the producer is connected. The leader of its queue is on n1.
    pub connected: u16,
    /// Redis: number of replicas that must have a job before it is confirmed.
    pub replicas: u32,
    /// How long the producer publishes after the fault.
    pub time: Duration,
}

const fn rabbitmq(id: &'static str, name: &'static str, what: What, node: u16, connected: u16) -> Fault {
    let time = Duration::from_secs(8);
    Fault { id, name, kind: Kind::RabbitMq, what, node, connected, replicas: 0, time }
}

const fn redis(id: &'static str, name: &'static str, what: What, replicas: u32) -> Fault {
    // A Sentinel makes an old primary a replica about ten seconds after it continues.
    let seconds = if matches!(what, What::Killed) { 8 } else { 20 };
    let time = Duration::from_secs(seconds);
    Fault { id, name, kind: Kind::Redis, what, node: 0, connected: 0, replicas, time }
}

const FROZEN: What = What::Frozen(Duration::from_secs(10));
/// Shorter than the producer's timeout, so that it keeps its connection.
const FROZEN_SHORTLY: What = What::Frozen(Duration::from_secs(4));
const MINORITY: What = What::MostKilled(Duration::from_secs(7));

/// All faults, in the order of the table.
pub static ALL: [Fault; 10] = [
    rabbitmq("leader_killed", "RabbitMQ: leader killed", What::Killed, 1, 2),
    rabbitmq("connected_killed", "RabbitMQ: connected node killed", What::Killed, 2, 2),
    rabbitmq("both_killed", "RabbitMQ: both at once", What::Killed, 1, 1),
    rabbitmq("leader_frozen", "RabbitMQ: leader frozen for 10 s", FROZEN, 1, 2),
    rabbitmq("connected_frozen", "RabbitMQ: connected node frozen for 10 s", FROZEN, 2, 2),
    rabbitmq("minority", "RabbitMQ: two of three killed", MINORITY, 1, 3),
    redis("primary_killed", "Redis: primary killed", What::Killed, 0),
    redis("primary_killed_wait", "Redis: primary killed, with WAIT", What::Killed, 1),
    redis("primary_frozen", "Redis: primary frozen for 4 s", FROZEN_SHORTLY, 0),
    redis("primary_frozen_wait", "Redis: primary frozen for 4 s, with WAIT", FROZEN_SHORTLY, 1),
];
