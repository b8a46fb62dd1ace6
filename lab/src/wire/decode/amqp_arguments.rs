//! The methods of AMQP 0-9-1 with RabbitMQ's extensions, and how to read their arguments.

use std::collections::HashMap;
use std::sync::LazyLock;

use crate::wire::cursor::{Cursor, hex, number, text};
use crate::wire::message::Purpose;

/// A method: what one end asks the other to do.
pub(super) struct Method {
    /// Its class and its own name.
    pub(super) name: String,
    /// Its arguments, in order.
    pub(super) arguments: Vec<Argument>,
    /// Whether the other end responds with a method of the same name and `-ok`.
    pub(super) has_response: bool,
}

/// The name of an argument and the letter of its type: `o` octet, `s` short, `l` long, `q` long
/// long, `b` bit, `t` short string, `T` long string, `F` table, `R` SASL response, `C` credential.
pub(super) type Argument = (&'static str, char);

/// Returns the method with these numbers.
pub(super) fn method(class: u64, method: u64) -> Option<&'static Method> {
    static METHODS: LazyLock<HashMap<(u64, u64), Method>> =
        LazyLock::new(|| TABLE.lines().filter_map(methods).flatten().collect());
    METHODS.get(&(class, method))
}

/// Returns the method in a line of the table, and its response.
fn methods(line: &'static str) -> Option<impl Iterator<Item = ((u64, u64), Method)>> {
    let (class, rest) = line.trim_start().split_once(' ')?;
    let (numbers, rest) = rest.split_once(' ').unwrap_or((rest, ""));
    let (name, rest) = rest.split_once(' ').unwrap_or((rest, ""));
    let class = class.parse().ok()?;
    let has_response = numbers.contains('/');
    let both = numbers.split('/').zip([name.to_owned(), format!("{name}-ok")]).zip(rest.split('/'));
    Some(both.filter_map(move |((number, name), arguments)| {
        let arguments = arguments.split_whitespace().filter_map(argument).collect();
        let has_response = has_response && !name.ends_with("-ok");
        Some(((class, number.parse().ok()?), Method { name, arguments, has_response }))
    }))
}

/// Returns the properties whose flags are set. The highest bit stands for the first one.
pub(super) fn properties(flags: u64) -> Vec<Argument> {
    let all = PROPERTIES.split_whitespace().filter_map(argument);
    all.enumerate()
        .filter(|(index, _)| flags >> (15 - index) & 1 == 1)
        .map(|(_, property)| property)
        .collect()
}

fn argument(word: &'static str) -> Option<Argument> {
    let (name, kind) = word.split_once(':')?;
    Some((name, kind.chars().next()?))
}

/// The arguments of a method: the name, the value of a number or a bit, and the bytes of a string.
pub(super) struct Arguments<'a>(Vec<(&'static str, u64, &'a [u8])>);

impl<'a> Arguments<'a> {
    /// Returns a number or a bit, or 0 if the method has no such argument.
    pub(super) fn number(&self, name: &str) -> u64 {
        self.0.iter().find(|argument| argument.0 == name).map_or(0, |argument| argument.1)
    }

    /// Returns whether this bit is set.
    pub(super) fn is_set(&self, name: &str) -> bool {
        self.number(name) != 0
    }

    /// Returns a string, or an empty one if the method has no such argument.
    pub(super) fn string(&self, name: &str) -> &'a [u8] {
        self.0.iter().find(|argument| argument.0 == name).map_or(&[], |argument| argument.2)
    }

    /// Returns the first string that is not empty.
    pub(super) fn first_string(&self) -> &'a [u8] {
        self.0.iter().map(|argument| argument.2).find(|string| !string.is_empty()).unwrap_or_default()
    }
}

/// Names these arguments and returns them. Bits that follow each other share an octet.
pub(super) fn read<'a>(unit: &mut Cursor<'a>, arguments: &[Argument]) -> Arguments<'a> {
    let mut read = Arguments(Vec::new());
    for group in arguments.chunk_by(|first, second| (first.1, second.1) == ('b', 'b')) {
        let (name, kind) = group[0];
        let argument = match kind {
            'b' => {
                let octet = bits(unit, group);
                let bit = |(index, (name, _)): (usize, &Argument)| (*name, octet >> index & 1, &[][..]);
                read.0.extend(group.iter().enumerate().map(bit));
                continue;
            }
            'o' => (unit.number(1, name), &[][..]),
            's' => (unit.number(2, name), &[][..]),
            'l' => (unit.number(4, name), &[][..]),
            'q' => (unit.number(8, name), &[][..]),
            't' => (0, string(unit, 1, name)),
            'F' => (0, table(unit, name)),
            'R' => (0, credential(unit, name, read.string("mechanism") == b"PLAIN")),
            'C' => (0, credential(unit, name, false)),
            _ => (0, string(unit, 4, name)),
        };
        read.0.push((name, argument.0, argument.1));
    }
    read
}

/// Names the octet of some bits.
fn bits(unit: &mut Cursor<'_>, names: &[Argument]) -> u64 {
    let name = names.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ");
    unit.coded(1, name, |octet| {
        let bits = names.iter().enumerate().map(|(index, _)| (octet >> index & 1).to_string());
        bits.collect::<Vec<_>>().join(", ")
    })
}

/// Names a string with its length, which takes `width` bytes.
fn string<'a>(unit: &mut Cursor<'a>, width: usize, name: &'static str) -> &'a [u8] {
    unit.group(name, |unit| {
        let length = unit.number(width, "length") as usize;
        let string = unit.purposed(Purpose::Header, |unit| unit.text(length, "text"));
        (text(string), string)
    })
}

/// Names the credential of a login. PLAIN (RFC 4616) is an authorization ID, the user, and
/// the password, with a zero byte between them; everything else is hidden as a whole.
fn credential<'a>(unit: &mut Cursor<'a>, name: &'static str, is_plain: bool) -> &'a [u8] {
    unit.group(name, |unit| {
        let length = unit.number(4, "length") as usize;
        let zeros = unit.peek(length).iter().enumerate().filter(|(_, byte)| **byte == 0);
        let password = zeros.map(|(at, _)| at + 1).nth(1).filter(|_| is_plain).unwrap_or_default();
        unit.purposed(Purpose::Header, |unit| {
            unit.take(password, "user", |user| {
                text(user.split(|byte| *byte == 0).nth(1).unwrap_or_default())
            });
            unit.secret(length - password, "credential", b'*');
        });
        ("hidden".into(), &[][..])
    })
}

/// Names a table: names with values of any type.
fn table<'a>(unit: &mut Cursor<'a>, name: &'static str) -> &'a [u8] {
    unit.group(name, |unit| {
        elements(unit, |unit| {
            let length = usize::from(unit.left()[0]);
            let name = unit.left()[1..].iter().take(length).copied().collect();
            let name = String::from_utf8(name).unwrap_or_else(|_| "not text".into());
            unit.group(name, |unit| {
                unit.number(1, "name length");
                unit.purposed(Purpose::Header, |unit| unit.text(length, "name"));
                (value(unit), ())
            });
        })
    });
    &[]
}

/// Names the elements of a table or an array. Returns how many there are.
fn elements<'a>(unit: &mut Cursor<'a>, mut element: impl FnMut(&mut Cursor<'a>)) -> (String, ()) {
    let length = unit.number(4, "length") as usize;
    let mut count = 0;
    unit.within(length, |unit| {
        while !unit.is_empty() && unit.may_go_deeper() {
            element(unit);
            count += 1;
        }
    });
    (format!("{count} elements"), ())
}

/// Names a value with its type. The letters are RabbitMQ's: the specification's own differ.
fn value(unit: &mut Cursor<'_>) -> String {
    let kind = unit.take(1, "type", |kind| String::from_utf8_lossy(kind).into_owned());
    let size = match kind {
        b"t" | b"b" | b"B" => 1,
        b"s" | b"u" => 2,
        b"I" | b"i" | b"f" => 4,
        b"D" => 5,
        b"l" | b"L" | b"d" | b"T" => 8,
        b"S" | b"x" => return text(string(unit, 4, "value")),
        b"F" => {
            table(unit, "value");
            return "table".into();
        }
        b"A" => {
            unit.group("value", |unit| elements(unit, |unit| drop(value(unit))));
            return "array".into();
        }
        b"V" => return "void".into(),
        _ => {
            unit.rest("not decoded", Purpose::Framing);
            return "of an unknown type".into();
        }
    };
    let show = |bytes: &[u8]| scalar(kind, bytes);
    show(unit.purposed(Purpose::Header, |unit| unit.take(size, "value", show)))
}

/// Returns a value of a fixed size.
fn scalar(kind: &[u8], bytes: &[u8]) -> String {
    let value = number(bytes);
    let unused = 64 - 8 * bytes.len().clamp(1, 8);
    match kind {
        b"t" => (value != 0).to_string(),
        b"f" => f32::from_bits(value as u32).to_string(),
        b"d" => f64::from_bits(value).to_string(),
        b"b" | b"s" | b"I" | b"l" => ((value << unused).cast_signed() >> unused).to_string(),
        b"D" => hex(bytes),
        _ => value.to_string(),
    }
}

const PROPERTIES: &str = "
    content-type:t content-encoding:t headers:F delivery-mode:o priority:o correlation-id:t reply-to:t
    expiration:t message-id:t timestamp:q type:t user-id:t app-id:t cluster-id:t";

/// Number of the class, number of the method, name, arguments. If there is a response, its number
/// and its arguments come after a slash. Its name is the same with `-ok`.
const TABLE: &str = "
    10 10/11 connection.start version-major:o version-minor:o server-properties:F mechanisms:T locales:T / client-properties:F mechanism:t response:R locale:t
    10 20/21 connection.secure challenge:T / response:C
    10 30/31 connection.tune channel-max:s frame-max:l heartbeat:s / channel-max:s frame-max:l heartbeat:s
    10 40/41 connection.open virtual-host:t reserved-1:t reserved-2:b / reserved-1:t
    10 50/51 connection.close reply-code:s reply-text:t class-id:s method-id:s /
    10 60 connection.blocked reason:t
    10 61 connection.unblocked
    10 70/71 connection.update-secret new-secret:C reason:t /
    20 10/11 channel.open reserved-1:t / reserved-1:T
    20 20/21 channel.flow active:b / active:b
    20 40/41 channel.close reply-code:s reply-text:t class-id:s method-id:s /
    30 10/11 access.request realm:t exclusive:b passive:b active:b write:b read:b / reserved-1:s
    40 10/11 exchange.declare reserved-1:s exchange:t type:t passive:b durable:b auto-delete:b internal:b no-wait:b arguments:F /
    40 20/21 exchange.delete reserved-1:s exchange:t if-unused:b no-wait:b /
    40 30/31 exchange.bind reserved-1:s destination:t source:t routing-key:t no-wait:b arguments:F /
    40 40/51 exchange.unbind reserved-1:s destination:t source:t routing-key:t no-wait:b arguments:F /
    50 10/11 queue.declare reserved-1:s queue:t passive:b durable:b exclusive:b auto-delete:b no-wait:b arguments:F / queue:t message-count:l consumer-count:l
    50 20/21 queue.bind reserved-1:s queue:t exchange:t routing-key:t no-wait:b arguments:F /
    50 30/31 queue.purge reserved-1:s queue:t no-wait:b / message-count:l
    50 40/41 queue.delete reserved-1:s queue:t if-unused:b if-empty:b no-wait:b / message-count:l
    50 50/51 queue.unbind reserved-1:s queue:t exchange:t routing-key:t arguments:F /
    60 10/11 basic.qos prefetch-size:l prefetch-count:s global:b /
    60 20/21 basic.consume reserved-1:s queue:t consumer-tag:t no-local:b no-ack:b exclusive:b no-wait:b arguments:F / consumer-tag:t
    60 30/31 basic.cancel consumer-tag:t no-wait:b / consumer-tag:t
    60 40 basic.publish reserved-1:s exchange:t routing-key:t mandatory:b immediate:b
    60 50 basic.return reply-code:s reply-text:t exchange:t routing-key:t
    60 60 basic.deliver consumer-tag:t delivery-tag:q redelivered:b exchange:t routing-key:t
    60 70/71 basic.get reserved-1:s queue:t no-ack:b / delivery-tag:q redelivered:b exchange:t routing-key:t message-count:l
    60 72 basic.get-empty reserved-1:t
    60 80 basic.ack delivery-tag:q multiple:b
    60 90 basic.reject delivery-tag:q requeue:b
    60 100 basic.recover-async requeue:b
    60 110/111 basic.recover requeue:b /
    60 120 basic.nack delivery-tag:q multiple:b requeue:b
    85 10/11 confirm.select no-wait:b /
    90 10/11 tx.select /
    90 20/21 tx.commit /
    90 30/31 tx.rollback /";
