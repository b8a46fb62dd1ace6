//! What breaks, and when.

use std::time::Duration;

use super::row::{Behind, Row, Runs};
use crate::wire::fault::Kind;

/// How long a silence lasts, and how long a receiver does not read.
const SILENCE: Duration = Duration::from_secs(2);

/// How long a server is frozen.
pub(super) const FROZEN: Duration = Duration::from_secs(5);

/// How long a program stays away after it was killed or stopped.
pub(super) const AWAY: Duration = Duration::from_millis(500);

/// How long a server's certificate is valid that expires during the experiment.
pub(super) const VALID: Duration = Duration::from_secs(4);

/// How long clients go on with open connections after that.
pub(super) const EXPIRED: Duration = Duration::from_secs(1);

/// How long a server shows a certificate that clients refuse.
pub(super) const REFUSED: Duration = Duration::from_secs(2);

/// IDs of the rows that are tried over TLS: one for each protocol whose server is ours.
const TLS_ROWS: [&str; 4] = ["http_rest", "grpc_unary", "websocket", "tcp_socket"];

/// How long the broker's alarm lasts.
pub(super) const ALARM: Duration = Duration::from_secs(2);

/// Something that breaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    /// The connection between client and server or broker.
    Connection(Kind),
    /// The server is killed and started again.
    ServerKilled,
    /// The server does nothing for a while.
    ServerFrozen,
    /// The server is asked to stop while requests arrive, and is started again.
    ServerStopped,
    /// The worker is killed in the middle of a job and started again.
    WorkerKilled,
    /// The broker is killed and started again with its data.
    BrokerKilled,
    /// The broker runs out of memory for a while.
    BrokerAlarm,
    /// The client is killed, and a new one takes its place.
    ClientKilled,
    /// The server's certificate expires while clients are connected. Later, the server starts again, first
    /// with the same certificate.
    CertificateExpires,
    /// The server starts again with a certificate of an authority that the client does not trust.
    CertificateReplaced,
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
pub static ALL: [Breakage; 20] = [
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
    program("server_stopped", "server stopped gracefully", What::ServerStopped, false),
    program("worker_killed", "worker killed in a job", What::WorkerKilled, false),
    program("broker_killed", "broker killed", What::BrokerKilled, true),
    program("broker_alarm", "broker out of memory for 2 s", What::BrokerAlarm, false),
    program("client_killed", "client killed", What::ClientKilled, false),
    connection("tls_truncated", "end in a TLS response", Kind::EndInResponse, false),
    program("certificate_expires", "certificate expires", What::CertificateExpires, false),
    program("certificate_replaced", "another certificate", What::CertificateReplaced, false),
];

/// Returns the fault with this ID.
pub fn by_id(id: &str) -> Option<&'static Breakage> {
    ALL.iter().find(|breakage| breakage.id == id)
}

impl Breakage {
    /// Returns whether the row has the part that breaks.
    pub fn concerns(&self, row: &Row) -> bool {
        match self.what {
            _ if self.over_tls() => TLS_ROWS.contains(&row.id),
            What::Connection(_) | What::ClientKilled => true,
            What::ServerKilled | What::ServerFrozen | What::ServerStopped => {
                matches!(row.runs, Runs::Server(_) | Runs::Broker(_, Behind::Server(_)))
            }
            What::WorkerKilled => matches!(row.behind(), Some(Behind::Worker(_))),
            What::BrokerKilled | What::BrokerAlarm => row.broker().is_some(),
            What::CertificateExpires | What::CertificateReplaced => false,
        }
    }

    /// Returns whether client and server use TLS.
    pub(super) fn over_tls(&self) -> bool {
        matches!(
            self.what,
            What::Connection(Kind::EndInResponse) | What::CertificateExpires | What::CertificateReplaced
        )
    }

    /// Returns whether the broker must not be shared with other experiments.
    pub(super) fn breaks_the_broker(&self) -> bool {
        matches!(self.what, What::BrokerKilled | What::BrokerAlarm)
    }
}
