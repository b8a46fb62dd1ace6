//! The client: one method for each kind of request.

mod error;
mod retry;
mod transport;
mod watch;

use futures::stream::BoxStream;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::header::{CONTENT_TYPE, IF_MATCH, IF_NONE_MATCH};
use reqwest::{Method, StatusCode};
use serde::de::DeserializeOwned;
use tcp_socket::base::tls;

pub use self::error::Error;
use self::retry::Repeat;
use self::transport::{Response, Transport};
pub use self::watch::LiveEvent;
use self::watch::Watch;
use crate::protocol::headers::{IDEMPOTENCY_KEY, MERGE_PATCH};
pub use crate::protocol::model::ReadingQuery;
use crate::protocol::model::{Batch, Reading, ReadingList, Recorded, Station, StationList, StationPatch};

/// A client of one server. Clones share their connections, and calls may run at the same
/// time. HTTP/1.1 matches responses to requests by their order, so each call in flight uses
/// a connection of its own, which is kept for later calls.
#[derive(Debug, Clone)]
pub struct Client {
    transport: Transport,
}

/// A resource and its version.
#[derive(Debug, Clone, PartialEq)]
pub struct Versioned<T> {
    /// The resource.
    pub value: T,
    /// Its entity tag, for a conditional read or change.
    pub etag: String,
}

/// A page of a list.
#[derive(Debug, Clone, PartialEq)]
pub struct Page<T> {
    /// The entries on the page.
    pub items: Vec<T>,
    /// The link to the next page; `None` on the last one.
    pub next: Option<String>,
}

impl Client {
    /// Returns a client of the server at `url`, such as `http://127.0.0.1:8080`. Nothing is
    /// sent yet.
    ///
    /// # Errors
    /// The same as for [`Client::with_tls`].
    pub fn new(url: &str) -> Result<Self, Error> {
        Self::with_tls(url, &tls::ClientOptions::default())
    }

    /// The same as [`Client::new`]. For a `url` that begins with `https`, `options` says which
    /// servers to trust, and which certificate to show.
    ///
    /// # Errors
    /// [`Error::Address`] if `url` has another form, [`Error::Tls`] if the files for TLS are
    /// not usable, [`Error::Setup`] if the HTTP library can't start.
    pub fn with_tls(url: &str, options: &tls::ClientOptions) -> Result<Self, Error> {
        Ok(Self { transport: Transport::new(url, options)? })
    }

    /// Records either the whole batch or nothing, and returns how many readings were
    /// accepted. Even if the request has to be repeated, the batch is recorded only once.
    ///
    /// # Errors
    /// [`Error::Problem`] with status 422 names each invalid field.
    pub async fn record(&self, readings: &[Reading]) -> Result<usize, Error> {
        let (key, batch) = (new_key(), Batch { readings });
        let request =
            || self.transport.request(Method::POST, "/readings").header(IDEMPOTENCY_KEY, &key).json(&batch);
        let response = self.transport.call(Repeat::Keyed, request).await?;
        Ok(response.json::<Recorded>()?.accepted)
    }

    /// Returns the first page of a station's readings, the latest recorded first.
    ///
    /// # Errors
    /// [`Error::Problem`] with status 404 if there is no such station.
    pub async fn readings(&self, query: &ReadingQuery) -> Result<Page<Reading>, Error> {
        let response = self
            .transport
            .call(Repeat::Idempotent, || self.transport.request(Method::GET, "/readings").query(query))
            .await?;
        Ok(Page { next: response.next(), items: response.json::<ReadingList>()?.readings })
    }

    /// Returns the page that [`Page::next`] of another page links to.
    ///
    /// # Errors
    /// [`Error::Problem`] with status 404 if the server was restarted in between.
    pub async fn more_readings(&self, next: &str) -> Result<Page<Reading>, Error> {
        let response =
            self.transport.call(Repeat::Idempotent, || self.transport.request(Method::GET, next)).await?;
        Ok(Page { next: response.next(), items: response.json::<ReadingList>()?.readings })
    }

    /// Returns the readings of one station, or of all, as they are recorded from now on.
    /// If the connection is lost, the stream reconnects, however long that takes, and says
    /// what was missed. It ends after an error that another attempt would get too.
    ///
    /// # Errors
    /// If the stream can't be opened.
    pub async fn watch(
        &self,
        station: Option<&str>,
    ) -> Result<BoxStream<'static, Result<LiveEvent, Error>>, Error> {
        Watch::start(self.transport.clone(), station).await
    }

    /// Returns the first page of stations, in the order of their IDs; `limit` is 1 to 500.
    ///
    /// # Errors
    /// Any [`Error`].
    pub async fn stations(&self, limit: usize) -> Result<Page<Station>, Error> {
        self.more_stations(&format!("/stations?limit={limit}")).await
    }

    /// Returns the page that [`Page::next`] of another page links to.
    ///
    /// # Errors
    /// Any [`Error`].
    pub async fn more_stations(&self, next: &str) -> Result<Page<Station>, Error> {
        let response =
            self.transport.call(Repeat::Idempotent, || self.transport.request(Method::GET, next)).await?;
        Ok(Page { next: response.next(), items: response.json::<StationList>()?.stations })
    }

    /// Creates a station.
    ///
    /// # Errors
    /// [`Error::Problem`] with status 409 if the ID is taken, 422 if a field is invalid.
    pub async fn create_station(&self, station: &Station) -> Result<Versioned<Station>, Error> {
        let key = new_key();
        let request =
            || self.transport.request(Method::POST, "/stations").header(IDEMPOTENCY_KEY, &key).json(station);
        versioned(&self.transport.call(Repeat::Keyed, request).await?)
    }

    /// Returns a station.
    ///
    /// # Errors
    /// [`Error::Problem`] with status 404 if there is no such station.
    pub async fn station(&self, id: &str) -> Result<Versioned<Station>, Error> {
        versioned(
            &self
                .transport
                .call(Repeat::Idempotent, || self.transport.request(Method::GET, &station_path(id)))
                .await?,
        )
    }

    /// Returns a station unless its version is still `etag`.
    ///
    /// # Errors
    /// [`Error::Problem`] with status 404 if there is no such station.
    pub async fn station_if_changed(
        &self,
        id: &str,
        etag: &str,
    ) -> Result<Option<Versioned<Station>>, Error> {
        let request = || self.transport.request(Method::GET, &station_path(id)).header(IF_NONE_MATCH, etag);
        let response = self.transport.call(Repeat::Idempotent, request).await?;
        if response.status == StatusCode::NOT_MODIFIED {
            return Ok(None);
        }
        versioned(&response).map(Some)
    }

    /// Replaces a station, if its version is still `etag`.
    ///
    /// # Errors
    /// [`Error::Problem`] with status 412 if somebody changed it. After a broken
    /// connection, the request is sent again, and a 412 may then be due to the
    /// first attempt: read the station to find out.
    pub async fn replace_station(&self, station: &Station, etag: &str) -> Result<Versioned<Station>, Error> {
        let request = || {
            self.transport
                .request(Method::PUT, &station_path(&station.id))
                .header(IF_MATCH, etag)
                .json(station)
        };
        versioned(&self.transport.call(Repeat::Idempotent, request).await?)
    }

    /// Changes some fields of a station, if its version is still `etag`. `PATCH` is not
    /// idempotent (RFC 5789), so the request is sent again only if it certainly was not
    /// executed.
    ///
    /// # Errors
    /// [`Error::Problem`] with status 412 if somebody changed it.
    pub async fn patch_station(
        &self,
        id: &str,
        patch: &StationPatch,
        etag: &str,
    ) -> Result<Versioned<Station>, Error> {
        // `json` sets a content type only where there is none yet.
        let request = || {
            let request = self.transport.request(Method::PATCH, &station_path(id)).header(IF_MATCH, etag);
            request.header(CONTENT_TYPE, MERGE_PATCH).json(patch)
        };
        versioned(&self.transport.call(Repeat::Harmful, request).await?)
    }

    /// Deletes a station and its readings, if its version is still `etag`.
    ///
    /// # Errors
    /// [`Error::Problem`] with status 412 if somebody changed it. After a broken
    /// connection, the request is sent again, and a 404 may then be due to the
    /// first attempt.
    pub async fn delete_station(&self, id: &str, etag: &str) -> Result<(), Error> {
        let request = || self.transport.request(Method::DELETE, &station_path(id)).header(IF_MATCH, etag);
        self.transport.call(Repeat::Idempotent, request).await.map(drop)
    }
}

fn versioned<T: DeserializeOwned>(response: &Response) -> Result<Versioned<T>, Error> {
    Ok(Versioned { value: response.json()?, etag: response.etag()? })
}

/// Returns a key that nobody else uses: 128 random bits.
fn new_key() -> String {
    format!("{:032x}", fastrand::u128(..))
}

/// Returns the path of a station. Characters that no ID contains are escaped, so that `a/b`
/// cannot change the path.
fn station_path(id: &str) -> String {
    const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-');
    format!("/stations/{}", utf8_percent_encode(id, ESCAPED))
}
