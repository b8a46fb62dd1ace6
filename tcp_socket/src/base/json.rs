//! Reads objects and integers as a JSON contract describes them. Without this module, serde
//! would accept arrays as objects, and refuse `1.0` as an integer.

use std::fmt;
use std::marker::PhantomData;

use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserialize, Deserializer, Error, MapAccess, Unexpected, Visitor};

/// A value that must be written as a JSON object.
///
/// serde also reads a struct from an array of its fields, since some formats write structs
/// that way. But `["oslo-1", 21.5]` is not the object that a JSON contract describes, and its
/// meaning could change when the struct gets another field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Object<T>(pub T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for Fields<T> {
            type Value = T;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<T, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map))
            }
        }

        deserializer.deserialize_map(Fields(PhantomData)).map(Self)
    }
}

/// Reads an integer into any integer type. Use it as
/// `#[serde(deserialize_with = "whole_number")]`.
///
/// In JSON Schema, `1.0` and `1e3` are integers too (JSON Schema Validation 2020-12,
/// section 6.1.1). Some programs write integers this way, for example because their
/// language has only one kind of number.
///
/// # Errors
/// If the value is not a number, has a fraction, or is outside the range of the type. A number
/// written like `1.0` or `1e3` may not exceed 2^53 either.
pub fn whole_number<'de, T: TryFrom<i128>, D: Deserializer<'de>>(deserializer: D) -> Result<T, D::Error> {
    struct Whole<T>(PhantomData<T>);

    impl<T: TryFrom<i128>> Visitor<'_> for Whole<T> {
        type Value = T;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            let is_signed = T::try_from(-1).is_ok();
            f.write_str(if is_signed { "an integer" } else { "a non-negative integer" })
        }

        fn visit_i64<E: Error>(self, value: i64) -> Result<T, E> {
            T::try_from(value.into()).map_err(|_| E::invalid_value(Unexpected::Signed(value), &self))
        }

        fn visit_u64<E: Error>(self, value: u64) -> Result<T, E> {
            T::try_from(value.into()).map_err(|_| E::invalid_value(Unexpected::Unsigned(value), &self))
        }

        fn visit_f64<E: Error>(self, value: f64) -> Result<T, E> {
            // Up to 2^53, every integer is an exact `f64`.
            let exact = value.fract() == 0.0 && value.abs() <= 9_007_199_254_740_992.0;
            let whole = exact.then(|| T::try_from(value as i128).ok()).flatten();
            whole.ok_or_else(|| E::invalid_value(Unexpected::Float(value), &self))
        }
    }

    deserializer.deserialize_any(Whole(PhantomData))
}
