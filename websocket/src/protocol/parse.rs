//! How the server reads a request. Its errors name the field that is wrong, and carry the
//! request's `id` if it can be read.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

use serde::de::value::MapAccessDeserializer;
use serde::de::{DeserializeSeed, Error, IgnoredAny, IntoDeserializer, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use tcp_socket::base::json::{Object, whole_number};

use super::message::{ChatRequest, ErrorCode, LiveRequest, ServerMessage};
use super::model::shorten;

/// Why the server refuses a request.
#[derive(Debug)]
pub(crate) struct Refusal {
    pub(crate) id: Option<u64>,
    pub(crate) code: ErrorCode,
    pub(crate) reason: String,
}

impl Refusal {
    pub(crate) fn new(id: u64, code: ErrorCode, reason: impl Into<String>) -> Self {
        Self { id: Some(id), code, reason: reason.into() }
    }
}

impl From<Refusal> for ServerMessage {
    fn from(Refusal { id, code, reason }: Refusal) -> Self {
        Self::Error { id, code, reason }
    }
}

/// The fields that every request has. The server reads them first, so that an error about
/// another field still has the `id`. Even if this scans the text twice, it is cheaper than a
/// tagged enum of serde, which first builds a tree of the whole message, with up to ten thousand
/// readings.
#[derive(Deserialize)]
struct Head<'a> {
    #[serde(rename = "type", borrow)]
    kind: Cow<'a, str>,
    id: Option<Id>,
}

#[derive(Deserialize, Clone, Copy)]
struct Id(#[serde(deserialize_with = "whole_number")] u64);

impl<'a> Head<'a> {
    fn parse(text: &'a str) -> Result<Self, Refusal> {
        if let Some(head) = Self::in_front(text) {
            return Ok(head);
        }
        let Object(head) = parse(text).map_err(|reason| invalid(None, reason))?;
        Ok(head)
    }

    /// Finds the two fields where most programs write them, as in `{"type":"say","id":7,…`, so
    /// that the text is scanned only once. Returns `None` if they are elsewhere or look unusual.
    /// This doesn't check the JSON: `rest` does that for the whole text.
    fn in_front(text: &'a str) -> Option<Self> {
        let (kind, rest) = text.strip_prefix(r#"{"type":""#)?.split_once('"')?;
        let (id, _) = rest.strip_prefix(r#","id":"#)?.split_once(',')?;
        let is_plain = kind.bytes().all(|b| b.is_ascii_lowercase());
        is_plain.then_some(Self { kind: kind.into(), id: Some(Id(id.parse().ok()?)) })
    }

    fn id(&self) -> Option<u64> {
        self.id.map(|Id(id)| id)
    }

    fn rest<T: Deserialize<'a>>(&self, text: &'a str) -> Result<T, Refusal> {
        let Fields(request) = parse(text).map_err(|reason| invalid(self.id(), reason))?;
        Ok(request)
    }

    fn unknown(&self, known: &str) -> Refusal {
        let reason = format!("unknown type {:?}: use {known}", shorten(&self.kind));
        Refusal { id: self.id(), code: ErrorCode::Invalid, reason }
    }
}

fn invalid(id: Option<u64>, reason: String) -> Refusal {
    Refusal { id, code: ErrorCode::Invalid, reason }
}

/// Parses JSON. The error names the field that is wrong.
fn parse<'a, T: Deserialize<'a>>(text: &'a str) -> Result<T, String> {
    serde_json::from_str(text).map_err(|error| {
        // Tracking the field costs time, so only a text with an error is parsed again this way.
        let mut json = serde_json::Deserializer::from_str(text);
        let path =
            serde_path_to_error::deserialize::<_, T>(&mut json).err().map(|error| error.path().to_string());
        let field = path.filter(|path| path != ".").map(|path| format!("{}: ", shorten(&path)));
        let mut reason = error.to_string();
        if reason.len() > 300 {
            // A long reason is cut, and with it the line and the column at its end: add them again.
            reason = format!("{}… at line {} column {}", shorten(&reason), error.line(), error.column());
        }
        field.unwrap_or_default() + &reason
    })
}

/// The fields of a request without its `type`, which the Rust type `T` already determines.
/// Only a JSON object is accepted: see [`Object`].
struct Fields<T>(T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Fields<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct WithoutType<A> {
            fields: A,
            seen: bool,
        }

        impl<'de, A: MapAccess<'de>> MapAccess<'de> for WithoutType<A> {
            type Error = A::Error;

            fn next_key_seed<K: DeserializeSeed<'de>>(
                &mut self,
                seed: K,
            ) -> Result<Option<K::Value>, A::Error> {
                while let Some(Name(key)) = self.fields.next_key()? {
                    if key != "type" {
                        return seed.deserialize(key.into_deserializer()).map(Some);
                    }
                    if std::mem::replace(&mut self.seen, true) {
                        return Err(A::Error::duplicate_field("type"));
                    }
                    self.fields.next_value::<IgnoredAny>()?;
                }
                Ok(None)
            }

            fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, A::Error> {
                self.fields.next_value_seed(seed)
            }
        }

        struct Request<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for Request<T> {
            type Value = T;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<T, A::Error> {
                T::deserialize(MapAccessDeserializer::new(WithoutType { fields: map, seen: false }))
            }
        }

        deserializer.deserialize_map(Request(PhantomData)).map(Self)
    }
}

/// The name of a field.
#[derive(Deserialize)]
#[serde(transparent)]
struct Name<'a>(#[serde(borrow)] Cow<'a, str>);

impl ChatRequest {
    pub(crate) fn parse(text: &str) -> Result<Self, Refusal> {
        let head = Head::parse(text)?;
        Ok(match &*head.kind {
            "join" => Self::Join(head.rest(text)?),
            "say" => Self::Say(head.rest(text)?),
            "leave" => Self::Leave(head.rest(text)?),
            _ => return Err(head.unknown("join, say, or leave")),
        })
    }
}

impl LiveRequest<'static> {
    pub(crate) fn parse(text: &str) -> Result<Self, Refusal> {
        let head = Head::parse(text)?;
        Ok(match &*head.kind {
            "record" => Self::Record(head.rest(text)?),
            "readings" => Self::Readings(head.rest(text)?),
            "subscribe" => Self::Subscribe(head.rest(text)?),
            "unsubscribe" => Self::Unsubscribe(head.rest(text)?),
            _ => return Err(head.unknown("record, readings, subscribe, or unsubscribe")),
        })
    }
}
