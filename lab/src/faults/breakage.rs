//! What breaks, and when.

use std::time::Duration;

use super::row::{Behind, Row, Runs};
use crate::wire::fault::Kind;

/// How long a silence lasts, and how long a client does not read.
const SILENCE: Duration = Duration::from_secs(2);

/// How long a server is frozen.
pub(super) const FROZEN: Duration = Duration::from_secs(5);

/// How long a program stays away after it was killed or stopped.
pub(super) const AWAY: Duration = Duration::from_millis(500);

/// How long the broker's alarm lasts.
pub(super) const ALARM: Duration = Duration::from_secs(2);

/// Something that breaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    /// The connection between client and server or broker.
    Connection(Kind),
    /// The server is killed, and started again.
    ServerKilled,
    /// The server does nothing for a while.
    ServerFrozen,
    /// The server is asked to stop while requests arrive, and started again.
    ServerStopped,
    /// The worker is killed in the middle of a job, and started again.
    WorkerKilled,
    /// The broker is killed, and started again on its data.
    BrokerKilled,
    /// The broker runs out of memory for a while.
    BrokerAlarm,
    /// The client is killed, and started again.
    ClientKilled,
}

/// A fault of the experiment.
#[derive(Debug, PartialEq, Eq)]
pub struct Breakage {
    /// Its name in `--faults` and `faults.json`.
    pub id: &'static str,
    /// Its name in tables.
    pub name: &'static str,
    /// What breaks.
    pub what: What,
    /// Whether it is measured by default.
    pub by_default: bool,
}

const fn connection(id: &'static str, name: &'static str, kind: Kind, by_default: bool) -> Breakage {
    Breakage { id, name, what: What::Connection(kind), by_default }
}

const fn program(id: &'static str, name: &'static str, what: What, by_default: bool) -> Breakage {
    Breakage { id, name, what, by_default }
}

/// All faults, in the order of the tables.
pub static ALL: [Breakage; 17] = [
    connection("cut_in_request", "cut in the request", Kind::CutInRequest, true),
    connection("cut_after_request", "cut before the response", Kind::CutAfterRequest, true),
    connection("cut_in_response", "cut in the response", Kind::CutInResponse, false),
    connection("response_lost", "response lost", Kind::LoseResponse, true),
    connection("repeated", "request arrives twice", Kind::Repeat, true),
    connection("silence", "silence for 2 s", Kind::Silence(Some(SILENCE)), true),
    connection("silence_for_good", "silence for good", Kind::Silence(None), false),
    connection("bit_flipped", "one bit flipped", Kind::Flip, true),
    connection("delayed", "200 ms later each way", Kind::Delay(Duration::from_millis(200)), false),
    connection("not_reading", "receiver stops reading for 2 s", Kind::StopReading(SILENCE), false),
    program("server_killed", "server killed", What::ServerKilled, true),
    program("server_frozen", "server frozen for 5 s", What::ServerFrozen, false),
    program("server_stopped", "server stopped in good order", What::ServerStopped, false),
    program("worker_killed", "worker killed in a job", What::WorkerKilled, false),
    program("broker_killed", "broker killed", What::BrokerKilled, true),
    program("broker_alarm", "broker out of memory for 2 s", What::BrokerAlarm, false),
    program("client_killed", "client killed", What::ClientKilled, false),
];

/// Returns the fault with this ID.
pub fn by_id(id: &str) -> Option<&'static Breakage> {
    ALL.iter().find(|breakage| breakage.id == id)
}

impl Breakage {
    /// Returns whether the row has what breaks.
    pub fn concerns(&self, row: &Row) -> bool {
        match self.what {
            What::Connection(_) | What::ClientKilled => true,
            What::ServerKilled | What::ServerFrozen | What::ServerStopped => {
                matches!(row.runs, Runs::Server(_) | Runs::Broker(_, Behind::Server(_)))
            }
            What::WorkerKilled => matches!(row.behind(), Some(Behind::Worker(_))),
            What::BrokerKilled | What::BrokerAlarm => row.broker().is_some(),
        }
    }

    /// Returns whether the broker must not be shared with other experiments.
    pub(super) fn breaks_the_broker(&self) -> bool {
        matches!(self.what, What::BrokerKilled | What::BrokerAlarm)
    }
}
