//! Repeats a POST after a failure, but without an `Idempotency-Key`. So the server cannot know that it
//! has seen the request before.

use std::time::Duration;

use futures::future::FutureExt;
use http_rest::Reading;
use reqwest::Client;
use tcp_socket::base::tls::trust_nobody;

use crate::faults::client::{Connected, Place, Told, calls};
use crate::protocols::http_rest::reading;
use crate::protocols::sample;

/// Maximum number of attempts.
const ATTEMPTS: usize = 4;

/// Time for an attempt.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Pause before another attempt.
const PAUSE: Duration = Duration::from_millis(100);

pub(crate) fn connect(place: &Place) -> Connected {
    let client = Client::builder().no_proxy().timeout(TIMEOUT);
    // The addresses are plain, but reqwest wants to know which servers to trust.
    let client = client.tls_backend_preconfigured(trust_nobody()).build()?;
    let url = format!("http://{}/readings", place.address);
    calls(move |number| record(client.clone(), url.clone(), reading(sample(number))).boxed())
}

async fn record(client: Client, url: String, reading: Reading) -> Told {
    let body = serde_json::json!({ "readings": [reading] });
    for _ in 0..ATTEMPTS {
        match client.post(&url).json(&body).send().await {
            Ok(response) if response.status().is_success() => return Told::Done,
            Ok(_) => return Told::NotDone,
            Err(_) => tokio::time::sleep(PAUSE).await, // It may have been executed.
        }
    }
    Told::Unknown
}
