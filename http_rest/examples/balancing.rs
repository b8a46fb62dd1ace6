//! Two servers behind nginx: what fails if each of them keeps its state in its own memory.
//!
//! ```sh
//! apt-get install nginx-light
//! cargo run -p http_rest --example balancing
//! ```

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, bail};
use http_rest::{Limits, serve};
use reqwest::{Method, Response};
use serde_json::{Value, json};
use tcp_socket::base::tls::trust_nobody;
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, Command};
use tokio::time::sleep;

/// nginx, with a folder of its own. It ends with this value.
struct Nginx {
    child: Child,
    folder: PathBuf,
    addr: SocketAddr,
}

impl Nginx {
    /// Starts nginx on a free port, and waits until it accepts connections. `method` is how it
    /// chooses a server, and empty for "in turn".
    async fn start(method: &str, servers: [SocketAddr; 2]) -> anyhow::Result<Self> {
        let folder = std::env::temp_dir().join(format!("balancing-{}", std::process::id()));
        fs::create_dir_all(&folder)?;
        let addr = TcpListener::bind("127.0.0.1:0").await?.local_addr()?; // Now free for nginx.
        let configuration = include_str!("balancing.conf")
            .replace("METHOD", method)
            .replace("SERVER_A", &servers[0].to_string())
            .replace("SERVER_B", &servers[1].to_string())
            .replace("LISTEN", &addr.to_string());
        fs::write(folder.join("nginx.conf"), configuration)?;
        let mut command = Command::new("nginx");
        // Debian has it in /usr/sbin, which is not in every user's PATH.
        command.env("PATH", format!("{}:/usr/sbin", std::env::var("PATH").unwrap_or_default()));
        command.arg("-p").arg(&folder).args(["-e", "errors", "-c", "nginx.conf"]);
        let child = command.stdin(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true).spawn();
        let child = child.context("cannot start nginx; install it with: apt-get install nginx-light")?;
        let mut nginx = Self { child, folder, addr };
        while TcpStream::connect(addr).await.is_err() {
            if let Some(status) = nginx.child.try_wait()? {
                bail!("nginx: {status}: {}", fs::read_to_string(nginx.folder.join("errors"))?);
            }
            sleep(Duration::from_millis(20)).await;
        }
        Ok(nginx)
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        let _ = self.child.start_kill();
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// Sends requests to the balancer, and shows each step.
struct Client {
    http: reqwest::Client,
    balancer: String,
    first: SocketAddr,
}

impl Client {
    /// Sends a request with one header of its own. Shows which server responded, and how one
    /// server alone would have responded if that is something else.
    async fn step(
        &self,
        method: Method,
        path: &str,
        (name, value): (&'static str, &str),
        body: Value,
        alone: &str,
    ) -> anyhow::Result<Response> {
        let shown =
            path.split_once("cursor=").map_or(path.to_owned(), |(before, _)| format!("{before}cursor=…"));
        let title = format!("{method} {shown} {name}");
        let request = self.http.request(method, format!("{}{path}", self.balancer)).json(&body);
        let request = if name.is_empty() { request } else { request.header(name, value) };
        let response = request.send().await?;
        let replayed = if header(&response, "idempotency-replayed").is_empty() { "" } else { ", replayed" };
        let outcome = format!("{}{replayed}", response.status().as_u16());
        let difference = if outcome == alone { String::new() } else { format!("   (one server: {alone})") };
        let server = if header(&response, "x-served-by") == self.first.to_string() { "a" } else { "b" };
        println!("   {title:<46} {server}: {outcome}{difference}");
        Ok(response)
    }

    /// Makes requests like those of the chapter's tour. If the servers take turns, `a` gets the
    /// first of each two.
    async fn tour(&self) -> anyhow::Result<()> {
        let none = ("", "");
        let station = || json!({"id": "oslo-1", "name": "Oslo"});
        let created = self.step(Method::POST, "/stations", none, station(), "201").await?;
        self.step(Method::GET, "/stations/oslo-1", none, Value::Null, "200").await?;
        self.step(Method::GET, "/stations/oslo-1", none, Value::Null, "200").await?;
        self.step(Method::POST, "/stations", none, station(), "409").await?;

        let etag = header(&created, "etag");
        self.step(Method::GET, "/stations/oslo-1", ("if-none-match", &etag), Value::Null, "304").await?;
        self.step(Method::PUT, "/stations/oslo-1", ("if-match", &etag), station(), "200").await?;

        let reading = json!({"station": "oslo-1", "metric": "wind", "value": 7, "recorded_at": 0});
        let key = ("idempotency-key", "71b3c59a");
        for alone in ["200", "200, replayed"] {
            let batch = json!({"readings": [reading, reading]});
            self.step(Method::POST, "/readings", key, batch, alone).await?;
        }

        let first = "/readings?station=oslo-1&limit=1";
        let page = self.step(Method::GET, first, none, Value::Null, "200").await?;
        let link = header(&page, "link");
        let next = link.trim_start_matches('<').split('>').next().unwrap_or_default();
        self.step(Method::GET, next, none, Value::Null, "200").await?;
        Ok(())
    }
}

fn header(response: &Response, name: &str) -> String {
    let value = response.headers().get(name).and_then(|value| value.to_str().ok());
    value.unwrap_or_default().to_owned()
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    for (title, method) in [
        ("The servers take turns:", ""),
        ("All requests from one address go to the same server:", "ip_hash;"),
    ] {
        let mut servers = Vec::new();
        for _ in 0..2 {
            let listener = TcpListener::bind("127.0.0.1:0").await?;
            servers.push(listener.local_addr()?);
            tokio::spawn(serve(listener, Limits::default(), std::future::pending()));
        }
        let nginx = Nginx::start(method, [servers[0], servers[1]]).await?;
        // For addresses with https, reqwest wants to know which servers to trust. This one is plain.
        let http = reqwest::Client::builder().tls_backend_preconfigured(trust_nobody()).build()?;
        println!("{title}");
        let balancer = format!("http://{}", nginx.addr);
        Client { http, balancer, first: servers[0] }.tour().await?;
    }
    Ok(())
}
