//! Tickets: how a browser says who is calling.
//!
//! A script can't set headers for a WebSocket handshake, so the token would have to be in the URL.
//! But URLs end up in logs, in the browser's history, and with whoever shares a screenshot, and a
//! token is valid for months. So the script first sends the token in a header of a `POST /ticket`.
//! It gets a ticket for one handshake within half a minute. A ticket that leaks is already used.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use tcp_socket::base::principals::{Caller, Denied};

use crate::limits::{MAX_TICKETS, TICKET_LIFETIME};
use crate::protocol::random_id;

/// The tickets that nobody has used yet.
#[derive(Default)]
pub(super) struct Tickets(Mutex<HashMap<String, (Instant, Caller)>>);

impl Tickets {
    /// Responds to `POST /ticket`.
    pub(super) fn issue(&self, caller: &Caller, headers: &HeaderMap) -> Response {
        if !caller.is_checked() {
            return (StatusCode::NOT_FOUND, "this server needs no tickets\n").into_response();
        }
        match from_headers(caller, headers) {
            Ok(caller) if caller.name().is_some() => self.add(caller),
            _ => {
                // After a wrong token, the next attempt needs a new connection.
                let headers = [(header::WWW_AUTHENTICATE, "Bearer"), (header::CONNECTION, "close")];
                let text = "send a valid token: Authorization: Bearer TOKEN\n";
                (StatusCode::UNAUTHORIZED, headers, text).into_response()
            }
        }
    }

    fn add(&self, caller: Caller) -> Response {
        let mut tickets = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        tickets.retain(|_ticket, (issued, _)| issued.elapsed() < TICKET_LIFETIME);
        match random_id() {
            Ok(ticket) if tickets.len() < MAX_TICKETS => {
                tickets.insert(ticket.clone(), (Instant::now(), caller));
                ([(header::CACHE_CONTROL, "no-store")], ticket).into_response()
            }
            _ => (StatusCode::SERVICE_UNAVAILABLE, "too many tickets wait; try again\n").into_response(),
        }
    }

    /// Returns who asks for an upgrade with this query string and these headers.
    ///
    /// # Errors
    /// If the ticket or the token is not valid.
    pub(super) fn caller(
        &self,
        connection: &Caller,
        query: Option<&str>,
        headers: &HeaderMap,
    ) -> Result<Caller, Denied> {
        let Some(ticket) = query.and_then(|query| query.strip_prefix("ticket=")) else {
            return from_headers(connection, headers);
        };
        if !connection.is_checked() {
            return Ok(connection.clone());
        }
        let mut tickets = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match tickets.remove(ticket) {
            Some((issued, caller)) if issued.elapsed() < TICKET_LIFETIME => Ok(caller),
            _ => Err(Denied::Unauthenticated("this ticket is unknown, used, or too old")),
        }
    }
}

fn from_headers(caller: &Caller, headers: &HeaderMap) -> Result<Caller, Denied> {
    caller.with_authorization(headers.get_all(header::AUTHORIZATION).iter().map(HeaderValue::as_bytes))
}
