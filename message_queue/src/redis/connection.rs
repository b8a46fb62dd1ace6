//! One connection to Redis.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use redis::aio::MultiplexedConnection;
use redis::io::tcp::TcpSettings;
use redis::{
    AsyncConnectionConfig, Client, ConnectionAddr, ConnectionInfo, FromRedisValue, IntoConnectionInfo,
    ProtocolVersion, PushInfo, PushKind, RedisConnectionInfo, RedisError, Value, cmd,
};
use tcp_socket::base::tls;
use tokio::net::TcpStream;
use tokio::select;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};
use tokio_rustls::rustls::ClientConfig;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::names::KeyNames;
use crate::address::{Address, BrokerUrl};
use crate::error::{Error, redis_text};
use crate::limits::redis::{HEARTBEAT, MIN_VERSION, PRIMARY, SENTINEL_PORT, TIMEOUT};

/// The consumer group of all workers.
pub(super) const GROUP: &str = "workers";

/// Name of the user if the login has only a password.
const DEFAULT_USER: &str = "default";

/// The scheme of a Sentinel's URL.
const SENTINEL: &str = "redis+sentinel";

/// Returns what the redis crate needs to know and, for a Sentinel's URL, the name of the primary to
/// ask for. User and password are for Redis itself, not for the Sentinel.
fn info(url: &Address) -> Result<(ConnectionInfo, Option<String>), Error> {
    let schemes = ["redis", "rediss", "valkey", "valkeys", "unix", "redis+unix", "valkey+unix", SENTINEL];
    let mut parsed = url.parse(&schemes)?;
    let mut primary = None;
    if parsed.scheme() == SENTINEL {
        let name = parsed.path().trim_matches('/');
        primary = Some(if name.is_empty() { PRIMARY } else { name }.to_owned());
        parsed.set_path("");
        if parsed.port().is_none() {
            let _ = parsed.set_port(Some(SENTINEL_PORT));
        }
    }
    if url.tls.is_some() || primary.is_some() {
        let _ = parsed.set_scheme("redis"); // TLS is not the redis crate's part: see `open_stream`.
    }
    let info = parsed.into_connection_info().map_err(|error| url.refuse(redis_text(&error)))?;
    Ok((info, primary))
}

/// Asks a Sentinel where the primary is.
async fn ask_sentinel(url: &Address, info: &ConnectionInfo, name: &str) -> Result<ConnectionAddr, Error> {
    let login = RedisConnectionInfo::default();
    let explain = |error| explain(url, &login, error);
    let client = Client::open(info.clone().set_redis_settings(login.clone()))?;
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(TIMEOUT))
        .set_response_timeout(Some(TIMEOUT));
    let connecting = client.get_multiplexed_async_connection_with_config(&config);
    let mut sentinel = connecting.await.map_err(explain)?;
    let mut ask = cmd("SENTINEL");
    ask.arg("GET-MASTER-ADDR-BY-NAME").arg(name);
    let answer: Option<(String, u16)> = ask.query_async(&mut sentinel).await.map_err(explain)?;
    let (host, port) = answer.ok_or_else(|| url.refuse(format!("it watches no primary named {name}")))?;
    Ok(ConnectionAddr::Tcp(host, port))
}

/// Makes one attempt at a connection.
async fn open(
    url: &BrokerUrl,
    protocol: ProtocolVersion,
    config: &AsyncConnectionConfig,
) -> Result<MultiplexedConnection, Error> {
    url.open(|url| open_one(url, protocol, config.clone())).await
}

/// Connects, logs in, and checks that Redis is not too old, if it sends its version.
async fn open_one(
    url: &Address,
    protocol: ProtocolVersion,
    config: AsyncConnectionConfig,
) -> Result<MultiplexedConnection, Error> {
    let (mut info, primary) = info(url)?;
    if let Some(name) = &primary {
        let addr = ask_sentinel(url, &info, name).await?;
        info = info.set_addr(addr);
    }
    let config = config.set_connection_timeout(Some(TIMEOUT)).set_response_timeout(Some(TIMEOUT));
    // If Redis refuses a login, the redis crate drops the reason, so the login happens here. With
    // RESP3, it is part of the crate's own first command, HELLO.
    let login = info.redis_settings();
    let mut settings = RedisConnectionInfo::default().set_protocol(protocol);
    if protocol == ProtocolVersion::RESP3 {
        settings = login.clone().set_protocol(protocol).set_db(0);
    }
    let explain = |error| explain(url, login, error);
    let mut connection = if let Some(tls) = &url.tls {
        let connecting = async {
            let stream = open_stream(url, info.addr(), tls.clone()).await?;
            let connecting = MultiplexedConnection::new_with_config(&settings, stream, config);
            let (connection, driver) = connecting.await.map_err(explain)?;
            tokio::spawn(driver); // It ends with the last clone of the connection.
            Ok::<_, Error>(connection)
        };
        let late = |_elapsed| url.no_broker(format!("no response within {TIMEOUT:?}"), true);
        timeout(TIMEOUT, connecting).await.map_err(late)??
    } else {
        // Otherwise, the last segment of a long command waits until the broker has acknowledged the others.
        let tcp = TcpSettings::default().set_nodelay(true);
        let client = Client::open(info.clone().set_redis_settings(settings).set_tcp_settings(tcp))?;
        client.get_multiplexed_async_connection_with_config(&config).await.map_err(explain)?
    };
    if protocol == ProtocolVersion::RESP2
        && let Some(password) = login.password()
    {
        let mut auth = cmd("AUTH");
        auth.arg(login.username().unwrap_or(DEFAULT_USER)).arg(password);
        auth.exec_async(&mut connection).await.map_err(explain)?;
    }
    match cmd("HELLO").query_async(&mut connection).await {
        Ok(hello) => check_version(&hello)?,
        // A user without the permission for HELLO can still use everything else.
        Err(error) if error.code().is_some_and(|code| code != "NOAUTH") => {}
        Err(error) => return Err(explain(error)),
    }
    if login.db() != 0 {
        cmd("SELECT").arg(login.db()).exec_async(&mut connection).await.map_err(explain)?;
    }
    if primary.is_some() {
        // A Sentinel may not know yet that another Redis has become the primary.
        let role: Vec<Value> = cmd("ROLE").query_async(&mut connection).await.map_err(explain)?;
        if role.first() != Some(&Value::BulkString(b"master".to_vec())) {
            return Err(url.no_broker("the Redis that it names is not the primary".to_owned(), true));
        }
    }
    Ok(connection)
}

/// Opens a stream with TLS. The redis crate's own TLS would read all authorities that the system
/// trusts, for each connection, and then ignore them.
async fn open_stream(
    url: &Address,
    addr: &ConnectionAddr,
    tls: Arc<ClientConfig>,
) -> Result<tls::Socket, Error> {
    let ConnectionAddr::Tcp(host, port) = addr else { return Err(url.refuse("it must name a host")) };
    let stream = async {
        let stream = TcpStream::connect((host.as_str(), *port)).await?;
        stream.set_nodelay(true)?;
        tls::connect(tls, host, stream).await
    };
    stream.await.map_err(|error| url.not_opened(&error))
}

fn check_version(hello: &BTreeMap<String, Value>) -> Result<(), Error> {
    let version = hello.get("version").and_then(|version| String::from_redis_value_ref(version).ok());
    let Some(version) = version else { return Ok(()) };
    let mut numbers = version.split('.').map(str::parse);
    if let (Some(Ok(major)), Some(Ok(minor))) = (numbers.next(), numbers.next())
        && (major, minor) < MIN_VERSION
    {
        let (major, minor) = MIN_VERSION;
        return Err(Error::Unusable(format!(
            "this is Redis {version}; this program needs Redis {major}.{minor} or newer"
        )));
    }
    Ok(())
}

/// Returns an error that says why Redis refused a connection.
fn explain(url: &Address, login: &RedisConnectionInfo, error: RedisError) -> Error {
    if let Some(text) = tls::fault(&error, true) {
        return Error::Unusable(text);
    }
    let user = login.username().unwrap_or(DEFAULT_USER);
    let detail = error.detail().unwrap_or_default();
    match error.code() {
        _ if error.is_io_error() => {
            let reached =
                error.is_timeout() || (error.is_connection_dropped() && !error.is_connection_refusal());
            url.no_broker(redis_text(&error), reached)
        }
        Some("NOAUTH") => Error::Unusable(format!(
            "Redis at {url} requires a login: put it into the URL, as in redis://user:password@host"
        )),
        Some("WRONGPASS") => Error::Unusable(format!(
            "Redis refused the login for user {user}: check the name and the password in the URL"
        )),
        Some("ERR") if detail.contains("DB index") => Error::Unusable(format!(
            "there is no database {} on Redis at {}: leave it out of the URL, or use a lower number",
            login.db(),
            url
        )),
        Some(_) => error.into(),
        None => Error::Unusable(format!("the server at {url} is not Redis")),
    }
}

/// Opens a connection for commands. It does not reconnect on its own, since after a reconnect the
/// caller has to do more than repeat a command.
pub(crate) async fn connect(url: &BrokerUrl) -> Result<MultiplexedConnection, Error> {
    open(url, ProtocolVersion::RESP2, &AsyncConnectionConfig::new()).await
}

/// Connects, and creates the group if necessary.
pub(super) async fn open_group(url: &BrokerUrl, keys: &KeyNames) -> Result<MultiplexedConnection, Error> {
    let mut connection = connect(url).await?;
    let mut create = cmd("XGROUP");
    create.arg("CREATE").arg(keys.jobs()).arg(GROUP).arg("0").arg("MKSTREAM");
    match create.exec_async(&mut connection).await {
        Err(error) if error.code() != Some("BUSYGROUP") => Err(error.into()), // BUSYGROUP: it exists.
        _ => Ok(connection),
    }
}

/// A connection for commands and for the messages of subscriptions.
pub(crate) struct Subscriber {
    pub(crate) connection: MultiplexedConnection,
    pushes: mpsc::Receiver<PushInfo>,
    /// Number of messages that were dropped because `pushes` was full.
    pub(crate) missed: Arc<AtomicU64>,
    /// Canceled when Redis does not respond to the heartbeat.
    silent: CancellationToken,
    _heartbeat: AbortOnDropHandle<()>,
}

impl Subscriber {
    /// Connects. At most `capacity` messages wait to be taken; more are dropped and
    /// counted. (Waiting for room instead would stop the whole connection, and
    /// Redis disconnects subscribers that stop reading.)
    pub(crate) async fn connect(url: &BrokerUrl, capacity: usize) -> Result<Self, Error> {
        // RESP3 allows commands and messages on one connection.
        let (sender, pushes) = mpsc::channel(capacity);
        let missed = Arc::new(AtomicU64::new(0));
        let count = missed.clone();
        let config = AsyncConnectionConfig::new().set_push_sender(move |push: PushInfo| {
            sender.try_send(push).inspect_err(|_| _ = count.fetch_add(1, Ordering::Relaxed))
        });
        let connection = open(url, ProtocolVersion::RESP3, &config).await?;
        let (mut probe, silent) = (connection.clone(), CancellationToken::new());
        let noticed = silent.clone().drop_guard();
        let heartbeat = tokio::spawn(async move {
            let _noticed = noticed;
            loop {
                sleep(HEARTBEAT).await;
                if cmd("PING").exec_async(&mut probe).await.is_err_and(|error| error.is_io_error()) {
                    return;
                }
            }
        });
        let _heartbeat = AbortOnDropHandle::new(heartbeat);
        Ok(Self { connection, pushes, missed, silent, _heartbeat })
    }

    /// Waits for messages and takes up to `limit` of them. Cancel safe: if the future is dropped,
    /// it has taken none.
    ///
    /// # Errors
    /// [`Error::Disconnected`] if the connection has ended.
    pub(crate) async fn receive(&mut self, into: &mut Vec<PushInfo>, limit: usize) -> Result<(), Error> {
        let count = select! {
            biased;
            count = self.pushes.recv_many(into, limit) => count,
            () = self.silent.cancelled() => 0,
        };
        // The sender is dropped with the connection.
        if count == 0 { Err(Error::Disconnected) } else { Ok(()) }
    }

    /// Returns the messages that have arrived already.
    pub(crate) fn drain(&mut self) -> impl Iterator<Item = PushInfo> {
        std::iter::from_fn(|| self.pushes.try_recv().ok())
    }
}

/// Returns the channel and the content if a push carries a message.
pub(crate) fn message(mut push: PushInfo) -> Option<(String, Vec<u8>)> {
    // pmessage: pattern, channel, message; message: channel, message.
    let expected = match push.kind {
        PushKind::PMessage => 3,
        PushKind::Message => 2,
        _ => return None,
    };
    if push.data.len() != expected {
        return None;
    }
    let Value::BulkString(message) = push.data.pop()? else { return None };
    let channel = String::from_redis_value(push.data.pop()?).ok()?;
    Some((channel, message))
}
