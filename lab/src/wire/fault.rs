//! Faults that a proxy makes, and the sentences that describe them.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// What a fault does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The connection breaks before the last byte of the request has passed.
    CutInRequest,
    /// The connection breaks when the response reaches the proxy. The server has executed the request,
    /// but the client does not know.
    CutAfterRequest,
    /// The connection breaks in the middle of the response.
    CutInResponse,
    /// The response and everything after it are lost, but the connection stays open.
    LoseResponse,
    /// The server receives the request twice.
    Repeat,
    /// A bit of the data in the request is inverted.
    Flip,
    /// After the request, nothing passes in either direction: for this time, or until the connection
    /// ends.
    Silence(Option<Duration>),
    /// The client receives nothing for this time, as if it had stopped reading.
    StopReading(Duration),
    /// All bytes after the request arrive later, in both directions.
    Delay(Duration),
    /// The connection to the client ends in good order in the middle of the next bytes from the server.
    /// The proxy does not have to understand them, so they may be encrypted.
    EndInResponse,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CutInRequest => f.write_str("the connection breaks before this request ends"),
            Self::CutAfterRequest => f.write_str("the connection breaks before the response to this request"),
            Self::CutInResponse => {
                f.write_str("the connection breaks in the middle of the response to this request")
            }
            Self::LoseResponse => f.write_str("the response to this request is lost"),
            Self::Repeat => f.write_str("the server receives this request twice"),
            Self::Flip => f.write_str("one bit of this request is inverted"),
            Self::Silence(None) => f.write_str("nothing passes after this request"),
            Self::Silence(Some(time)) => write!(f, "nothing passes for {time:?} after this request"),
            Self::StopReading(time) => write!(f, "the client reads nothing for {time:?} after this request"),
            Self::EndInResponse => {
                f.write_str("the connection ends in the middle of the server's next bytes")
            }
            Self::Delay(time) => write!(f, "everything after this request arrives {time:?} later"),
        }
    }
}

/// A fault, and when it strikes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fault {
    /// What it does.
    pub kind: Kind,
    /// The number of the request at which it strikes, counted from 1 over all connections.
    pub request: u64,
}

/// The error for a sentence that does not describe a fault.
#[derive(Debug, PartialEq, Eq)]
pub struct Misunderstood {
    /// Position of the first character that does not fit, counted from 1.
    pub position: usize,
    /// What would fit there.
    pub expected: &'static str,
}

impl fmt::Display for Misunderstood {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "at character {}: expected {}", self.position, self.expected)
    }
}

impl std::error::Error for Misunderstood {}

impl FromStr for Fault {
    type Err = Misunderstood;

    fn from_str(text: &str) -> Result<Self, Misunderstood> {
        let mut words = Words { text, at: 0 };
        let kind = match words.next() {
            "cut" => match (words.next(), words.peek()) {
                ("in", "request") => Kind::CutInRequest,
                ("in", "response") => Kind::CutInResponse,
                ("in", _) => return Err(words.expected("request or response")),
                ("after", "request") => Kind::CutAfterRequest,
                ("after", _) => return Err(words.expected("request")),
                _ => return Err(words.before("in or after")),
            },
            "lose" => {
                words.require(&["response"], "response")?;
                return words.number(Kind::LoseResponse);
            }
            "repeat" => Kind::Repeat,
            "flip" => {
                words.require(&["a", "bit", "in"], "a bit in")?;
                Kind::Flip
            }
            "silence" => {
                let time = if words.peek() == "after" { None } else { Some(words.duration()?) };
                words.require(&["after"], "after, or a time such as 2s")?;
                Kind::Silence(time)
            }
            "stop" => {
                words.require(&["reading"], "reading")?;
                let time = words.duration()?;
                words.require(&["after"], "after")?;
                Kind::StopReading(time)
            }
            "delay" => {
                let time = words.duration()?;
                words.require(&["from"], "from")?;
                Kind::Delay(time)
            }
            _ => return Err(words.before("cut, lose, repeat, flip, silence, stop, or delay")),
        };
        match (kind, words.next()) {
            (Kind::CutInResponse, "response") | (_, "request") => words.number(kind),
            _ => Err(words.before("request")),
        }
    }
}

/// Goes through a sentence word by word.
struct Words<'a> {
    text: &'a str,
    /// Position after the last word.
    at: usize,
}

impl<'a> Words<'a> {
    /// Returns the next word, or "" at the end.
    fn next(&mut self) -> &'a str {
        let word = self.peek();
        self.at = self.begin() + word.len();
        word
    }

    fn peek(&self) -> &'a str {
        self.text[self.begin()..].split_whitespace().next().unwrap_or_default()
    }

    /// Returns where the next word begins.
    fn begin(&self) -> usize {
        self.at + self.text[self.at..].len() - self.text[self.at..].trim_start().len()
    }

    fn require(&mut self, words: &[&str], expected: &'static str) -> Result<(), Misunderstood> {
        for word in words {
            if self.peek() != *word {
                return Err(self.expected(expected));
            }
            self.next();
        }
        Ok(())
    }

    fn duration(&mut self) -> Result<Duration, Misunderstood> {
        let word = self.peek();
        let time = match word.strip_suffix("ms") {
            Some(number) => number.parse().map(Duration::from_millis).ok(),
            None => word.strip_suffix('s').and_then(|number| number.parse().map(Duration::from_secs).ok()),
        };
        let time = time.filter(|time| *time <= Duration::from_secs(24 * 60 * 60));
        let time = time.ok_or_else(|| self.expected("a time such as 200ms or 2s"))?;
        self.next();
        Ok(time)
    }

    /// Reads the number of the request, which must be the last word.
    fn number(&mut self, kind: Kind) -> Result<Fault, Misunderstood> {
        let request = self.peek().parse().ok().filter(|number| *number > 0);
        let request = request.ok_or_else(|| self.expected("the number of a request, from 1"))?;
        self.next();
        if self.peek().is_empty() { Ok(Fault { kind, request }) } else { Err(self.expected("nothing more")) }
    }

    /// Returns an error about the next word.
    fn expected(&self, expected: &'static str) -> Misunderstood {
        Misunderstood { position: self.text[..self.begin()].chars().count() + 1, expected }
    }

    /// Returns an error about the last word that was read.
    fn before(&self, expected: &'static str) -> Misunderstood {
        let before = self.text[..self.at].trim_end();
        let space = before.char_indices().rfind(|(_, letter)| letter.is_whitespace());
        let begin = space.map_or(0, |(at, letter)| at + letter.len_utf8());
        Misunderstood { position: self.text[..begin].chars().count() + 1, expected }
    }
}
