//! The users of brokers that check who is calling: one for each principal, with the permissions of
//! its role. `docs/security.md` says what a broker can't check.

use std::path::PathBuf;
use std::sync::Arc;

use lapin::types::{AMQPValue, FieldTable};
use serde_json::{Map, Value, json};
use tcp_socket::base::principals::{self, Principal, Principals, Role};
use tcp_socket::base::token::client_token;

use super::kind::Error;
use crate::model::Metric;
use crate::rabbitmq::topology::Topology;
use crate::redis::names::KeyNames;

/// The permission to log in.
const CONNECT: &str = "+@connection -@dangerous";

/// The principals, and where their tokens are.
#[derive(Debug)]
pub(super) struct Users {
    principals: Arc<Principals>,
    file: PathBuf,
}

impl Users {
    /// Reads the file of principals. Without the option, a broker's own default user may do everything.
    pub(super) fn find(options: &principals::Options) -> Result<Option<Self>, Error> {
        let read = options.read().map_err(unusable)?;
        Ok(read.zip(options.principals.clone()).map(|(principals, file)| Self { principals, file }))
    }

    /// Returns the lines of an ACL file for Redis 7, which compares the SHA-256 of a password with the
    /// one after `#`. The rules in parentheses belong together: a station can publish a request, but
    /// not subscribe to the requests of others.
    pub(super) fn redis(&self) -> String {
        let keys = KeyNames::default();
        let mut lines = "user default off\n".to_owned();
        for Principal { name, role, token_sha256, .. } in self.principals.all().iter().map(|one| &**one) {
            let Some(hash) = token_sha256 else { continue }; // Redis gets no names from certificates.
            let rules = match role {
                Role::Operator => "~* &* +@all -@admin".to_owned(),
                Role::Station => {
                    let (jobs, requests, replies) = (keys.jobs(), keys.requests(), keys.replies());
                    let own = keys.readings(&format!("{name}:*"));
                    format!(
                        "{CONNECT} (~{jobs} +xgroup|create +eval +xlen +xadd) (+publish &{requests} &{own}) \
                         (+subscribe +unsubscribe &{replies}*)"
                    )
                }
                Role::Reader => {
                    // For a pattern, Redis wants a rule that is the same, letter by letter.
                    let metrics = Metric::ALL.map(|metric| format!("*:{}", metric.name()));
                    let channels = metrics.iter().map(|metric| format!(" &{}", keys.readings(metric)));
                    let (all, metrics) = (keys.readings("*"), channels.collect::<String>());
                    format!("{CONNECT} (+subscribe +unsubscribe +psubscribe +punsubscribe &{all}{metrics})")
                }
            };
            lines += &format!("user {name} on #{hash} {rules}\n");
        }
        lines
    }

    /// Returns the definitions for RabbitMQ as JSON: its users, and the queues, which only an operator
    /// may declare.
    ///
    /// RabbitMQ stores the hash of a password together with a random salt, which can't be computed
    /// from the SHA-256 in the file. So it needs the token itself when it starts.
    pub(super) fn rabbitmq(&self) -> Result<String, Error> {
        let topology = Topology::default();
        let exchange = topology.readings();
        let readings = exchange.replace('.', r"\.");
        let (mut users, mut permissions, mut topics) = (vec![], vec![], vec![]);
        for principal in self.principals.all() {
            let name = &principal.name;
            users.push(match self.token(principal)? {
                Some(token) => json!({ "name": name, "password": token, "tags": "" }),
                None => json!({ "name": name, "password_hash": "", "tags": "" }),
            });
            // Jobs and requests go through the default exchange. A subscriber makes a queue of its
            // own, to which RabbitMQ gives a name that begins with amq.gen.
            let [configure, write, read, topic] = match principal.role {
                Role::Operator => [".*"; 4].map(str::to_owned),
                Role::Station => {
                    let write = format!(r"^(amq\.default|{readings})$");
                    [String::new(), write, String::new(), format!(r"^readings\.{name}\.")]
                }
                Role::Reader => {
                    let (own, read) = (r"^amq\.gen-", format!(r"^(amq\.gen-.*|{readings})$"));
                    [own.into(), own.into(), read, String::new()]
                }
            };
            permissions.push(
                json!({ "user": name, "vhost": "/", "configure": configure, "write": write, "read": read }),
            );
            // Which routing keys a user may give to a reading.
            topics.push(
                json!({ "user": name, "vhost": "/", "exchange": exchange, "write": topic, "read": ".*" }),
            );
        }
        let queue = |(name, table): (String, FieldTable)| json!({ "name": name, "vhost": "/", "durable": true, "auto_delete": false, "arguments": json(&table) });
        let queues: Vec<_> = topology.queues().into_iter().map(queue).collect();
        let exchange = json!({
            "name": exchange, "vhost": "/", "type": "topic", "durable": true, "auto_delete": false,
            "internal": false, "arguments": {}
        });
        let definitions = json!({
            "vhosts": [{ "name": "/" }], "users": users, "permissions": permissions,
            "topic_permissions": topics, "queues": queues, "exchanges": [exchange]
        });
        Ok(definitions.to_string())
    }

    /// Returns a principal's token from its file beside the principals, such as `oslo-1.token`.
    fn token(&self, principal: &Principal) -> Result<Option<String>, Error> {
        if principal.token_sha256.is_none() {
            return Ok(None);
        }
        let file = self.file.with_file_name(format!("{}.token", principal.name));
        let token = client_token(Some(&file)).map_err(|error| {
            unusable(format!("{error:#}: when RabbitMQ starts, it needs the token; or use --only redis"))
        })?;
        let known = token.as_ref().and_then(|token| self.principals.by_token(token.secret().as_bytes()));
        if known.is_some_and(|known| known.name == principal.name) {
            return Ok(token.map(|token| token.secret().to_owned()));
        }
        Err(unusable(format!("the token in {} is not that of {}", file.display(), principal.name)))
    }
}

fn unusable(error: impl std::fmt::Display) -> Error {
    Error::Principals(format!("{error:#}"))
}

/// Returns a queue's properties as RabbitMQ's definitions have them.
fn json(table: &FieldTable) -> Map<String, Value> {
    let value = |value: &AMQPValue| match value {
        AMQPValue::LongString(text) => String::from_utf8_lossy(text.as_bytes()).into(),
        AMQPValue::LongInt(number) => json!(number),
        AMQPValue::LongLongInt(number) => json!(number),
        _ => Value::Null,
    };
    table.inner().iter().map(|(name, property)| (name.to_string(), value(property))).collect()
}
