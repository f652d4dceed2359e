//! What a task carries: an encoded `google.protobuf.Value`, never decoded on its way through.
//!
//! A payload is looked over once where it comes in, so that whoever decodes it later can: the scan walks the
//! wire format without building anything and without recursion.

use bytes::Bytes;

use super::limit::{PAYLOAD_COPIED_BYTES_MAX, PAYLOAD_DEPTH_MAX};

/// An encoded `google.protobuf.Value` that has been looked over. Cloning shares the bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Payload(Bytes);

/// Why bytes are not a Value; the offset counts from the start of the Value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadPayload {
    /// Ends inside a field, or a length points beyond its message.
    #[error("payload is cut off at byte {0}")]
    CutOff(usize),
    /// Not the wire format of a Value.
    #[error("payload is not a google.protobuf.Value at byte {0}")]
    Malformed(usize),
    /// A string or a key that is not UTF-8.
    #[error("payload has text that is not UTF-8 at byte {0}")]
    NotUtf8(usize),
    /// A Value in which no kind is set.
    #[error("payload has a Value without a kind at byte {0}: write null as null_value")]
    NoKind(usize),
    /// Nested deeper than runtimes can decode.
    #[error("payload is nested deeper than {PAYLOAD_DEPTH_MAX} messages at byte {0}")]
    TooDeep(usize),
}

impl Payload {
    /// The Value `null`.
    #[must_use]
    pub fn null() -> Self {
        Self(Bytes::from_static(&[0x08, 0x00]))
    }

    /// Looks over an encoded Value that came from outside.
    pub fn check(encoded: Bytes) -> Result<Self, BadPayload> {
        scan(&encoded)?;
        Ok(Self(encoded))
    }

    /// An encoded Value that was looked over when it came in, and was kept since.
    #[must_use]
    pub fn looked_over_before(encoded: Bytes) -> Self {
        Self(encoded)
    }

    /// The encoded Value.
    #[must_use]
    pub fn encoded(&self) -> &Bytes {
        &self.0
    }

    /// The same in memory of its own: what is kept must not hold on to the buffer that it came in.
    #[must_use]
    pub fn copied(&self) -> Self {
        Self(Bytes::copy_from_slice(&self.0))
    }

    /// The same, for somebody who keeps it for long: in memory of its own where the buffer that it came in may be many
    /// times larger.
    #[must_use]
    pub fn kept(self) -> Self {
        if self.0.len() <= PAYLOAD_COPIED_BYTES_MAX {
            self.copied()
        } else {
            self
        }
    }

    /// The encoded Value.
    #[must_use]
    pub fn into_encoded(self) -> Bytes {
        self.0
    }
}

/// The messages that a Value is made of.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// `google.protobuf.Value`; the flag says whether a kind was seen.
    Value { has_kind: bool },
    /// `google.protobuf.Struct`.
    Struct,
    /// An entry of `Struct.fields`.
    Entry { has_value: bool },
    /// `google.protobuf.ListValue`.
    List,
}

#[derive(Clone, Copy)]
struct Open {
    kind: Kind,
    end: usize,
}

fn scan(bytes: &[u8]) -> Result<(), BadPayload> {
    let mut open = Open {
        kind: Kind::Value { has_kind: false },
        end: bytes.len(),
    };
    // What `open` lies in, outermost first.
    let mut around = [open; PAYLOAD_DEPTH_MAX - 1];
    let mut depth = 0_usize;
    let mut at = 0;
    loop {
        if at == open.end {
            match open.kind {
                Kind::Value { has_kind: false } | Kind::Entry { has_value: false } => {
                    return Err(BadPayload::NoKind(at));
                }
                Kind::Value { .. } | Kind::Entry { .. } | Kind::Struct | Kind::List => {}
            }
            let Some(outer) = depth.checked_sub(1) else {
                return Ok(());
            };
            depth = outer;
            open = around[outer];
            continue;
        }
        let within = &bytes[..open.end];
        // An entry of an object has a Value in it.
        if depth + 1 < around.len()
            && let Some(end) = plain_field(within, at, &mut open.kind)
        {
            at = end;
            continue;
        }
        if let Some(inner) = any_field(within, &mut at, &mut open.kind)? {
            *around.get_mut(depth).ok_or(BadPayload::TooDeep(at))? = open;
            depth += 1;
            open = inner;
        }
    }
}

/// Where a field ends that needs no second look, as most do not: written as every encoder writes it, its key (number << 3
/// | wire type) and its length one byte each, and in it text in ASCII, a Value without Values of its own, or such a Value
/// under its key.
#[inline]
fn plain_field(within: &[u8], at: usize, kind: &mut Kind) -> Option<usize> {
    let [key, length @ 0..0x80, rest @ ..] = &within[at..] else {
        return None;
    };
    let inner = rest.get(..usize::from(*length))?;
    let is_plain = match (*kind, key) {
        (Kind::Entry { .. }, 0x0a) => inner.is_ascii(),
        (Kind::Entry { has_value }, 0x12) => {
            let is_plain = is_plain_value(inner);
            let has_value = has_value || is_plain;
            *kind = Kind::Entry { has_value };
            is_plain
        }
        (Kind::List, 0x0a) => is_plain_value(inner),
        (Kind::Struct, 0x0a) => is_plain_entry(inner),
        (Kind::Value { .. } | Kind::Struct | Kind::Entry { .. } | Kind::List, _) => false,
    };
    is_plain.then_some(at + 2 + inner.len())
}

/// A key and then its Value.
#[inline]
fn is_plain_entry(entry: &[u8]) -> bool {
    let [0x0a, length @ 0..0x80, rest @ ..] = entry else {
        return false;
    };
    let Some((key, value)) = rest.split_at_checked(usize::from(*length)) else {
        return false;
    };
    match value {
        [0x12, length @ 0..0x80, value @ ..] => {
            usize::from(*length) == value.len() && is_plain_value(value) && key.is_ascii()
        }
        _ => false,
    }
}

#[inline]
fn is_plain_value(value: &[u8]) -> bool {
    match value {
        // null_value or bool_value; number_value.
        [0x08 | 0x20, 0..0x80] | [0x11, _, _, _, _, _, _, _, _] => true,
        // string_value.
        [0x1a, length @ 0..0x80, text @ ..] => {
            usize::from(*length) == text.len() && text.is_ascii()
        }
        _ => false,
    }
}

/// Walks over one field, however it is written.
fn any_field(within: &[u8], at: &mut usize, kind: &mut Kind) -> Result<Option<Open>, BadPayload> {
    let start = *at;
    let key = varint(within, at)?;
    let (number, wire_type) = (key >> 3, key & 7);
    if number == 0 || u64::from(u32::MAX) < key {
        return Err(BadPayload::Malformed(start));
    }
    let end = match wire_type {
        0 => {
            varint(within, at)?;
            *at
        }
        1 => *at + 8,
        2 => {
            let length =
                usize::try_from(varint(within, at)?).map_err(|_| BadPayload::CutOff(start))?;
            at.checked_add(length).ok_or(BadPayload::CutOff(start))?
        }
        5 => *at + 4,
        _ => return Err(BadPayload::Malformed(start)),
    };
    if within.len() < end {
        return Err(BadPayload::CutOff(start));
    }
    let opened = |kind| Ok(Some(Open { kind, end }));
    let value = Kind::Value { has_kind: false };
    match (*kind, number, wire_type) {
        (Kind::Value { .. }, 5, 2) => {
            *kind = Kind::Value { has_kind: true };
            return opened(Kind::Struct);
        }
        (Kind::Value { .. }, 6, 2) => {
            *kind = Kind::Value { has_kind: true };
            return opened(Kind::List);
        }
        (Kind::Value { .. }, 3, 2) => {
            *kind = Kind::Value { has_kind: true };
            utf8(within, *at, end)?;
        }
        (Kind::Value { .. }, 1 | 4, 0) | (Kind::Value { .. }, 2, 1) => {
            *kind = Kind::Value { has_kind: true };
        }
        (Kind::Struct, 1, 2) => return opened(Kind::Entry { has_value: false }),
        (Kind::Entry { .. }, 1, 2) => utf8(within, *at, end)?,
        (Kind::Entry { .. }, 2, 2) => {
            *kind = Kind::Entry { has_value: true };
            return opened(value);
        }
        (Kind::List, 1, 2) => return opened(value),
        // The right field in the wrong form.
        (Kind::Value { .. }, 1..=6, _)
        | (Kind::Entry { .. }, 1 | 2, _)
        | (Kind::Struct | Kind::List, 1, _) => {
            return Err(BadPayload::Malformed(start));
        }
        // A field that is not known today: kept, like everything else.
        (Kind::Value { .. } | Kind::Struct | Kind::Entry { .. } | Kind::List, _, _) => {}
    }
    *at = end;
    Ok(None)
}

fn utf8(within: &[u8], start: usize, end: usize) -> Result<(), BadPayload> {
    if within[start..end].is_ascii() {
        return Ok(());
    }
    match std::str::from_utf8(&within[start..end]) {
        Ok(_) => Ok(()),
        Err(bad) => Err(BadPayload::NotUtf8(start + bad.valid_up_to())),
    }
}

pub(super) fn varint(within: &[u8], at: &mut usize) -> Result<u64, BadPayload> {
    let start = *at;
    let mut value = 0_u64;
    for shift in (0..64).step_by(7) {
        let byte = *within.get(*at).ok_or(BadPayload::CutOff(start))?;
        *at += 1;
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Ok(value);
        }
    }
    Err(BadPayload::Malformed(start))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A Value as a test writes it.
    #[derive(Debug, Clone)]
    enum Json {
        Null,
        Bool(bool),
        Number(f64),
        Text(String),
        List(Vec<Json>),
        Object(Vec<(String, Json)>),
    }

    #[test]
    fn a_small_payload_that_is_kept_lets_go_of_the_buffer_that_it_came_in() {
        let text = |bytes: usize| length_delimited(3, &vec![b'x'; bytes]);
        for (bytes, is_copied) in [(1, true), (PAYLOAD_COPIED_BYTES_MAX, false)] {
            let mut buffer = text(bytes);
            buffer.resize(buffer.len() + 64 * 1024, 0);
            let buffer = Bytes::from(buffer);
            let payload = Payload::check(buffer.slice(..text(bytes).len())).unwrap();
            let kept = payload.clone().kept();
            assert_eq!(kept, payload);
            drop(payload);
            assert_eq!(buffer.is_unique(), is_copied, "{bytes}");
        }
    }

    fn length_delimited(number: u8, bytes: &[u8]) -> Vec<u8> {
        let mut out = vec![number << 3 | 2];
        prost::encoding::encode_varint(bytes.len() as u64, &mut out);
        out.extend_from_slice(bytes);
        out
    }

    fn encode(json: &Json) -> Vec<u8> {
        match json {
            Json::Null => vec![0x08, 0],
            Json::Bool(yes) => vec![0x20, u8::from(*yes)],
            Json::Number(number) => [&[0x11][..], &number.to_le_bytes()].concat(),
            Json::Text(text) => length_delimited(3, text.as_bytes()),
            Json::List(items) => {
                let items: Vec<u8> = items
                    .iter()
                    .flat_map(|item| length_delimited(1, &encode(item)))
                    .collect();
                length_delimited(6, &items)
            }
            Json::Object(fields) => {
                let fields: Vec<u8> = fields
                    .iter()
                    .flat_map(|(key, value)| {
                        let entry = [
                            length_delimited(1, key.as_bytes()),
                            length_delimited(2, &encode(value)),
                        ];
                        length_delimited(1, &entry.concat())
                    })
                    .collect();
                length_delimited(5, &fields)
            }
        }
    }

    fn json() -> impl Strategy<Value = Json> {
        let leaf = prop_oneof![
            Just(Json::Null),
            any::<bool>().prop_map(Json::Bool),
            any::<f64>().prop_map(Json::Number),
            ".{0,12}".prop_map(Json::Text),
        ];
        leaf.prop_recursive(6, 48, 6, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..6).prop_map(Json::List),
                proptest::collection::vec((".{0,6}", inner), 0..6).prop_map(Json::Object),
            ]
        })
    }

    fn check(bytes: &[u8], expected: Result<(), BadPayload>) {
        assert_eq!(scan(bytes), expected, "{bytes:02x?}");
    }

    #[test]
    fn what_is_not_a_value_is_refused_by_place() {
        check(&[0x08, 0x00], Ok(()));
        check(&[], Err(BadPayload::NoKind(0)));
        check(&[0x08], Err(BadPayload::CutOff(1)));
        check(&[0x11, 0, 0], Err(BadPayload::CutOff(0)));
        check(&[0x1a, 5, b'a'], Err(BadPayload::CutOff(0)));
        check(&[0x1a, 1, 0xff], Err(BadPayload::NotUtf8(2)));
        check(
            &[
                0x1a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01,
            ],
            Err(BadPayload::CutOff(0)),
        );
        check(&[0x18, 1], Err(BadPayload::Malformed(0)));
        check(&[0x0b], Err(BadPayload::Malformed(0)));
        check(&[0x00, 0x00], Err(BadPayload::Malformed(0)));
        // A list whose one item has no kind, an object whose one entry has no value.
        check(&[0x32, 2, 0x0a, 0], Err(BadPayload::NoKind(4)));
        check(
            &[0x2a, 5, 0x0a, 3, 0x0a, 1, b'k'],
            Err(BadPayload::NoKind(7)),
        );
        // An unknown field is kept; alone it is no kind.
        check(&[0x08, 0, 0x78, 1], Ok(()));
        check(&[0x78, 1], Err(BadPayload::NoKind(2)));
    }

    #[test]
    fn nesting_is_bounded_and_what_passes_is_decodable() {
        use prost::Message as _;
        let nested =
            |levels: usize| (0..levels).fold(Json::Null, |inner, _| Json::List(vec![inner]));
        // A list is two messages: the Value and its ListValue.
        let deepest = encode(&nested(46));
        check(&deepest, Ok(()));
        assert!(prost_types::Value::decode(&deepest[..]).is_ok());
        let found = scan(&encode(&nested(47)));
        assert!(matches!(found, Err(BadPayload::TooDeep(_))), "{found:?}");
        assert!(matches!(
            scan(&encode(&nested(1000))),
            Err(BadPayload::TooDeep(_))
        ));
    }

    #[test]
    fn what_is_plain_is_no_deeper_than_what_is_not() {
        // A list is two messages, an object three; the innermost Value is one more. It is of the kind that is seen in
        // one step, or not.
        let plain = Json::Text("plain".to_owned());
        let odd = Json::Text("ä".to_owned());
        let most = PAYLOAD_DEPTH_MAX + 5;
        for lists in 0..=most / 2 {
            for (objects, leaf) in
                (0..=(most - 2 * lists) / 3).flat_map(|of| [(of, &plain), (of, &odd)])
            {
                let inner = (0..lists).fold(leaf.clone(), |inner, _| Json::List(vec![inner]));
                let key = || "k".to_owned();
                let whole = (0..objects).fold(inner, |inner, _| Json::Object(vec![(key(), inner)]));
                let passes = scan(&encode(&whole)).is_ok();
                let messages = 2 * lists + 3 * objects + 1;
                assert_eq!(passes, messages <= PAYLOAD_DEPTH_MAX, "{lists}, {objects}");
            }
        }
    }

    proptest! {
        #[test]
        fn every_value_passes_and_every_cut_of_it_is_refused(json in json()) {
            let encoded = encode(&json);
            prop_assert_eq!(scan(&encoded), Ok(()));
            for end in 0..encoded.len() {
                prop_assert!(scan(&encoded[..end]).is_err());
            }
        }

        #[test]
        fn a_value_with_one_other_byte_is_judged_as_a_real_decoder_would_at_least(
            json in json(), at in any::<proptest::sample::Index>(), byte in any::<u8>(),
        ) {
            use prost::Message as _;
            let mut encoded = encode(&json);
            let at = at.index(encoded.len());
            encoded[at] = byte;
            if scan(&encoded).is_ok() {
                prop_assert!(prost_types::Value::decode(&encoded[..]).is_ok());
            }
        }

        #[test]
        fn any_bytes_are_judged_as_a_real_decoder_would_at_least(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            use prost::Message as _;
            if scan(&bytes).is_ok() {
                prop_assert!(prost_types::Value::decode(&bytes[..]).is_ok());
            }
        }
    }
}
