//! Decides what a proxy does with bytes. It knows the messages in them, so a fault can strike between
//! a request and its response.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::decode::NewDecoder;
use super::fault::{Fault, Kind};
use super::message::{Decoder, Field, Message, Purpose, Role, Side};

/// Maximum length of a request that can be repeated.
const MAX_REPEATED: usize = 16 * 1024 * 1024;

/// The faults that a proxy makes on all its connections: a fault that waits for its request, and the
/// state of the network.
pub struct Faults {
    new: NewDecoder,
    state: Mutex<State>,
    network: watch::Sender<Network>,
}

struct State {
    armed: Option<Fault>,
    /// Number of requests so far on all connections. The fault strikes only once, so a client that
    /// reconnects is not cut again.
    requests: u64,
    /// When the last fault struck.
    struck: Option<Instant>,
    /// Canceled to cut all connections.
    cut: CancellationToken,
}

/// What currently happens to all bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Network {
    /// They pass.
    Open,
    /// They wait.
    Silent,
    /// They arrive later by this time.
    Slow(Duration),
}

impl Faults {
    /// Returns a value without faults. `new` makes a decoder of the protocol that passes.
    pub fn new(new: NewDecoder) -> Self {
        let state = State { armed: None, requests: 0, struck: None, cut: CancellationToken::new() };
        Self { new, state: Mutex::new(state), network: watch::Sender::new(Network::Open) }
    }

    /// Arms a fault: it will strike at its request.
    pub fn arm(&self, fault: Fault) {
        self.state().armed = Some(fault);
    }

    /// Arms a fault that strikes at the next request.
    pub fn arm_next(&self, kind: Kind) {
        let mut state = self.state();
        state.armed = Some(Fault { kind, request: state.requests + 1 });
    }

    /// Makes the fault strike at the next request instead.
    fn postpone(&self, kind: Kind) {
        self.arm_next(kind);
        self.state().struck = None;
    }

    /// Returns when the last fault struck, or `None` if none has.
    pub fn struck(&self) -> Option<Instant> {
        self.state().struck
    }

    /// Changes what happens to all bytes from now on. When a silence ends, the bytes that waited
    /// pass.
    pub fn set_network(&self, network: Network) {
        self.network.send_replace(network);
    }

    /// Breaks all connections that are open now.
    pub fn cut(&self) {
        std::mem::take(&mut self.state().cut).cancel();
    }

    /// Returns a token that is canceled by the next [`Faults::cut`].
    pub(super) fn until_cut(&self) -> CancellationToken {
        self.state().cut.clone()
    }

    /// Waits as long as the network holds bytes back.
    pub(super) async fn pass(&self) {
        let mut network = self.network.subscribe();
        let now = *network.borrow();
        if let Network::Slow(time) = now {
            tokio::time::sleep(time).await;
        }
        let _ = network.wait_for(|network| *network != Network::Silent).await;
    }

    /// Counts a request. Returns the fault that strikes at it, if any.
    fn count(&self) -> Option<Fault> {
        let mut state = self.state();
        state.requests += 1;
        let requests = state.requests;
        let is_next = |fault: &mut Fault| fault.request == requests && fault.kind != Kind::EndInResponse;
        let fault = state.armed.take_if(is_next)?;
        state.struck = Some(Instant::now());
        Some(fault)
    }

    /// Returns whether a connection ends in the middle of these bytes from its server.
    fn ends(&self) -> bool {
        let mut state = self.state();
        let ends = state.armed.take_if(|fault| fault.kind == Kind::EndInResponse).is_some();
        state.struck = if ends { Some(Instant::now()) } else { state.struck };
        ends
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a proxy does next with one direction.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Act {
    /// Forward these bytes.
    Forward(Vec<u8>),
    /// Wait.
    Wait(Duration),
    /// Wait until the connection ends.
    WaitForever,
    /// Break the connection.
    Cut,
    /// End this direction in good order.
    End,
    /// Record a note of what happened.
    Say(String),
}

/// The gate of one connection. Both directions pass it.
pub(super) struct Gate {
    faults: Arc<Faults>,
    decoder: Box<dyn Decoder>,
    /// Position of the next byte in each direction.
    position: [u64; 2],
    /// What the client has sent since its last complete request.
    request: Vec<u8>,
    /// The fault that has struck on this connection and still has an effect, and the call of its request.
    struck: Option<(Kind, Option<u64>)>,
    /// Whether the response to that request has begun.
    answered: bool,
    /// When the silence ends. `None` if it lasts until the connection ends.
    silent_until: Option<Instant>,
}

impl Gate {
    pub(super) fn new(faults: Arc<Faults>) -> Self {
        let decoder = (faults.new)();
        Self {
            faults,
            decoder,
            position: [0; 2],
            request: Vec::new(),
            struck: None,
            answered: false,
            silent_until: None,
        }
    }

    /// Decides what happens to bytes of one direction. The gate sees the end of a request before it
    /// forwards the last byte, so no response can arrive before the decision.
    pub(super) fn pass(&mut self, from: Side, bytes: &[u8]) -> Vec<Act> {
        let start = self.position[from as usize];
        self.position[from as usize] += bytes.len() as u64;
        let messages = self.decoder.push(from, bytes);
        match self.struck {
            Some((kind, call)) => self.after(kind, call, from, bytes, &messages),
            None if from == Side::Client => self.requests(bytes, start, &messages),
            None if self.faults.ends() => {
                let half = bytes[..bytes.len() / 2].to_vec();
                vec![Act::Say(Kind::EndInResponse.to_string()), Act::Forward(half), Act::End]
            }
            None => vec![Act::Forward(bytes.to_vec())],
        }
    }

    fn requests(&mut self, bytes: &[u8], start: u64, messages: &[Message]) -> Vec<Act> {
        self.request.extend_from_slice(bytes);
        for request in messages.iter().filter(|message| message.role == Role::Request) {
            if let Some(fault) = self.faults.count() {
                match self.strike(fault.kind, bytes, start, request, messages) {
                    Some(mut acts) => {
                        acts.insert(0, Act::Say(format!("{} ({})", fault.kind, request.summary)));
                        return acts;
                    }
                    None => self.faults.postpone(fault.kind),
                }
            }
        }
        let last = messages.iter().rfind(|message| message.role == Role::Request);
        if let Some(last) = last {
            let left = (self.position[Side::Client as usize] - last.span.end) as usize;
            self.request.drain(..self.request.len().saturating_sub(left));
        }
        if self.request.len() > MAX_REPEATED {
            self.request.clear();
        }
        vec![Act::Forward(bytes.to_vec())]
    }

    /// Makes the fault strike at this request, which ends within `bytes`. Returns `None` if what it
    /// needs of the request has already been forwarded.
    fn strike(
        &mut self,
        kind: Kind,
        bytes: &[u8],
        start: u64,
        request: &Message,
        messages: &[Message],
    ) -> Option<Vec<Act>> {
        let struck = Some((kind, request.calls.first().copied()));
        let (before, rest) = bytes.split_at((request.span.end - start) as usize);
        Some(match kind {
            Kind::CutInRequest => {
                vec![Act::Forward(before[..before.len().saturating_sub(1)].to_vec()), Act::Cut]
            }
            Kind::Repeat => {
                let end = self.request.len() - rest.len();
                let length = (request.span.end - request.begun) as usize;
                let again = self.request[end.checked_sub(length)?..end].to_vec();
                vec![Act::Forward([before, &again, rest].concat())]
            }
            Kind::Flip => {
                let mut bytes = bytes.to_vec();
                let is_part = |part: &&Message| {
                    part.calls == request.calls
                        && (request.begun..request.span.end).contains(&part.span.start)
                };
                let parts = messages.iter().filter(is_part);
                let is_information = |leaf: &&Field| leaf.purpose == Purpose::Information;
                let leaves: Vec<_> = parts.flat_map(Message::leaves).filter(is_information).collect();
                // The value of a reading shows best what a changed bit does.
                let leaf = leaves.iter().rfind(|leaf| leaf.name == "value").or(leaves.last());
                let at = leaf.map_or(request.span.end - 1, |leaf| {
                    // In text, even if it is masked, another digit is still text.
                    let is_text = leaf.value.len() as u64 == leaf.span.end - leaf.span.start;
                    let digit = leaf.value.bytes().rposition(|byte| byte.is_ascii_digit());
                    leaf.span.start + digit.filter(|_| is_text).unwrap_or(0) as u64
                });
                if leaf.is_none() && request.begun < start {
                    return None;
                }
                *bytes.get_mut(at.checked_sub(start)? as usize)? ^= 1;
                vec![Act::Forward(bytes)]
            }
            Kind::Silence(time) => {
                self.struck = struck;
                self.silent_until = time.map(|time| Instant::now() + time);
                vec![Act::Forward(before.to_vec()), self.silence(), Act::Forward(rest.to_vec())]
            }
            // This request has no response, so the connection breaks right after it.
            Kind::CutAfterRequest | Kind::CutInResponse if request.calls.is_empty() => {
                vec![Act::Forward(before.to_vec()), Act::Cut]
            }
            Kind::CutAfterRequest
            | Kind::CutInResponse
            | Kind::LoseResponse
            | Kind::EndInResponse
            | Kind::StopReading(_)
            | Kind::Delay(_) => {
                self.struck = struck;
                if let Kind::StopReading(time) = kind {
                    self.silent_until = Some(Instant::now() + time);
                }
                vec![Act::Forward(bytes.to_vec())]
            }
        })
    }

    /// Returns what happens to bytes after the fault has struck.
    fn after(
        &mut self,
        kind: Kind,
        call: Option<u64>,
        from: Side,
        bytes: &[u8],
        messages: &[Message],
    ) -> Vec<Act> {
        let all = Act::Forward(bytes.to_vec());
        // Other messages of the server may come first, for example its settings.
        let answers = messages.iter().any(|message| call.is_none_or(|call| message.calls.contains(&call)));
        self.answered |= from == Side::Server && answers;
        match (kind, from) {
            (Kind::CutAfterRequest, Side::Server) if self.answered => vec![Act::Cut],
            (Kind::CutInResponse, Side::Server) if self.answered => {
                vec![Act::Forward(bytes[..bytes.len() / 2].to_vec()), Act::Cut]
            }
            (Kind::LoseResponse, Side::Server) if self.answered => Vec::new(),
            (Kind::Silence(_), _) | (Kind::StopReading(_), Side::Server) => vec![self.silence(), all],
            (Kind::Delay(time), _) => vec![Act::Wait(time), all],
            _ => vec![all],
        }
    }

    /// Returns the act that waits until the silence is over.
    fn silence(&self) -> Act {
        let left = self.silent_until.map(|end| end.saturating_duration_since(Instant::now()));
        left.map_or(Act::WaitForever, Act::Wait)
    }
}
