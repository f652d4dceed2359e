//! Whether two requests ask for the same: a SHA-256 over what they ask for.
//!
//! Two clients may encode one JSON object with its keys in another order. So a payload is hashed in one order,
//! straight from its bytes: nothing is decoded, and what is held beside them are the places of the entries of
//! the objects that are open. Where an encoding says something that JSON cannot say (a field twice, a field that
//! is not known) its bytes are hashed as they are: then two encodings of the same may differ,
//! but never are two requests taken for one.

use sha2::{Digest as _, Sha256};

use crate::domain::payload::{Payload, varint};

/// What a request asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fingerprint([u8; 32]);

impl Fingerprint {
    /// Of a payload and of texts that belong to it, such as targets, in whatever order they are given.
    #[must_use]
    pub fn of<S: AsRef<str>>(texts: &[S], payload: &Payload) -> Self {
        let mut hash = Sha256::new();
        let mut sorted: Vec<&str> = texts.iter().map(AsRef::as_ref).collect();
        sorted.sort_unstable();
        length(&mut hash, sorted.len());
        for text in sorted {
            bytes(&mut hash, text.as_bytes());
        }
        value(&mut hash, payload.encoded());
        Self(hash.finalize().into())
    }

    /// The bytes of the hash, for whoever keeps it beyond this process.
    #[must_use]
    pub fn bytes(self) -> [u8; 32] {
        self.0
    }
}

/// A length in front of everything of any length: no two requests run together to the same bytes.
fn length(hash: &mut Sha256, length: usize) {
    hash.update((length as u64).to_be_bytes());
}

fn bytes(hash: &mut Sha256, bytes: &[u8]) {
    length(hash, bytes.len());
    hash.update(bytes);
}

fn raw(hash: &mut Sha256, tag: u8, encoded: &[u8]) {
    hash.update([tag]);
    bytes(hash, encoded);
}

/// A `google.protobuf.Value`. As deep as payloads may be nested, and no deeper: they were looked over.
fn value(hash: &mut Sha256, encoded: &[u8]) {
    let mut fields = Fields(encoded);
    let (first, second) = (fields.next(), fields.next());
    match (first, second) {
        (Some(Field::Number(1, number)), None) => {
            hash.update([b'n']);
            hash.update(number.to_be_bytes());
        }
        (Some(Field::Fixed(2, double)), None) => {
            hash.update([b'd']);
            hash.update(double);
        }
        (Some(Field::Bytes(3, text)), None) => raw(hash, b's', text),
        (Some(Field::Number(4, number)), None) => hash.update([b'b', u8::from(number != 0)]),
        (Some(Field::Bytes(5, object)), None) => self::object(hash, object),
        (Some(Field::Bytes(6, list)), None) => self::list(hash, list),
        _ => raw(hash, b'?', encoded),
    }
}

fn list(hash: &mut Sha256, encoded: &[u8]) {
    if !Fields(encoded).all(|field| matches!(field, Field::Bytes(1, _))) {
        return raw(hash, b'!', encoded);
    }
    hash.update([b'[']);
    for field in Fields(encoded) {
        if let Field::Bytes(1, item) = field {
            value(hash, item);
        }
    }
    // No value begins like this.
    hash.update([b']']);
}

fn object(hash: &mut Sha256, encoded: &[u8]) {
    let entries: Option<Vec<_>> = Fields(encoded).map(entry).collect();
    let Some(mut entries) = entries else {
        return raw(hash, b'#', encoded);
    };
    // Stable: where a key stands twice decoders keep the last one, so that their order says something.
    entries.sort_by_key(|(key, _)| *key);
    hash.update([b'{']);
    length(hash, entries.len());
    for (key, inner) in entries {
        bytes(hash, key);
        value(hash, inner);
    }
}

/// The key and the value of an entry that has each once; an absent key is an empty one.
fn entry(field: Field<'_>) -> Option<(&[u8], &[u8])> {
    let Field::Bytes(1, encoded) = field else {
        return None;
    };
    let (mut key, mut inner) = (None, None);
    for field in Fields(encoded) {
        let (place, bytes) = match field {
            Field::Bytes(1, bytes) => (&mut key, bytes),
            Field::Bytes(2, bytes) => (&mut inner, bytes),
            Field::Bytes(..) | Field::Number(..) | Field::Fixed(..) => return None,
        };
        if place.replace(bytes).is_some() {
            return None;
        }
    }
    Some((key.unwrap_or_default(), inner?))
}

/// One field of a message, with its number.
#[derive(Debug, Clone, Copy)]
enum Field<'a> {
    Number(u64, u64),
    Fixed(u64, &'a [u8]),
    Bytes(u64, &'a [u8]),
}

/// The fields of a message in the order they stand. Ends where it cannot be read, which a payload never is.
struct Fields<'a>(&'a [u8]);

impl<'a> Iterator for Fields<'a> {
    type Item = Field<'a>;

    fn next(&mut self) -> Option<Field<'a>> {
        if self.0.is_empty() {
            return None;
        }
        let mut at = 0;
        let key = varint(self.0, &mut at).ok()?;
        let (number, wire_type) = (key >> 3, key & 7);
        if wire_type == 0 {
            let value = varint(self.0, &mut at).ok()?;
            self.0 = self.0.get(at..)?;
            return Some(Field::Number(number, value));
        }
        let length = match wire_type {
            1 => 8,
            2 => usize::try_from(varint(self.0, &mut at).ok()?).ok()?,
            _ => 4,
        };
        let end = at.checked_add(length)?;
        let bytes = self.0.get(at..end)?;
        self.0 = self.0.get(end..)?;
        Some(match wire_type {
            2 => Field::Bytes(number, bytes),
            _ => Field::Fixed(number, bytes),
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A Value as a test writes it; objects have each key once.
    #[derive(Debug, Clone, PartialEq)]
    enum Json {
        Null,
        Bool(bool),
        Number(u64),
        Text(String),
        List(Vec<Json>),
        Object(std::collections::BTreeMap<String, Json>),
    }

    fn delimited(number: u8, bytes: &[u8]) -> Vec<u8> {
        let mut out = vec![number << 3 | 2];
        prost::encoding::encode_varint(bytes.len() as u64, &mut out);
        out.extend_from_slice(bytes);
        out
    }

    /// With the entries of each object turned round by what `seed` says.
    fn encode(json: &Json, seed: usize) -> Vec<u8> {
        match json {
            Json::Null => vec![0x08, 0],
            Json::Bool(yes) => vec![0x20, u8::from(*yes)],
            Json::Number(bits) => [&[0x11][..], &bits.to_le_bytes()].concat(),
            Json::Text(text) => delimited(3, text.as_bytes()),
            Json::List(items) => {
                let items: Vec<u8> = items
                    .iter()
                    .flat_map(|item| delimited(1, &encode(item, seed)))
                    .collect();
                delimited(6, &items)
            }
            Json::Object(fields) => {
                let mut entries: Vec<_> = fields
                    .iter()
                    .map(|(key, inner)| {
                        let mut parts = [
                            delimited(1, key.as_bytes()),
                            delimited(2, &encode(inner, seed)),
                        ];
                        if !seed.is_multiple_of(2) {
                            parts.reverse();
                        }
                        delimited(1, &parts.concat())
                    })
                    .collect();
                let by = seed % entries.len().max(1);
                entries.rotate_left(by);
                delimited(5, &entries.concat())
            }
        }
    }

    fn of(encoded: &[u8]) -> Fingerprint {
        Fingerprint::of(&["A"], &Payload::check(encoded.to_vec().into()).unwrap())
    }

    fn json() -> impl Strategy<Value = Json> {
        let leaf = prop_oneof![
            Just(Json::Null),
            any::<bool>().prop_map(Json::Bool),
            (0_u64..3).prop_map(Json::Number),
            "[ab]{0,2}".prop_map(Json::Text),
        ];
        leaf.prop_recursive(5, 24, 4, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..4).prop_map(Json::List),
                proptest::collection::btree_map("[ab]{0,2}", inner, 0..4).prop_map(Json::Object),
            ]
        })
    }

    proptest! {
        #[test]
        fn the_order_of_keys_is_no_difference_and_everything_else_is(one in json(), other in json(), seed in 0_usize..64) {
            prop_assert_eq!(of(&encode(&one, 0)), of(&encode(&one, seed)));
            prop_assert_eq!(of(&encode(&one, 0)) == of(&encode(&other, seed)), one == other);
        }

        #[test]
        fn whatever_is_taken_for_the_same_is_decoded_as_the_same(json in json(), seed in 0_usize..64, at in any::<usize>(), byte in any::<u8>()) {
            use prost::Message as _;
            let encoded = encode(&json, seed);
            let mut changed = encoded.clone();
            changed[at % encoded.len()] = byte;
            let decoded = |bytes: &[u8]| prost_types::Value::decode(bytes).unwrap().encode_to_vec();
            if let Ok(payload) = Payload::check(changed.clone().into())
                && Fingerprint::of(&["A"], &payload) == of(&encoded)
            {
                prop_assert_eq!(decoded(&changed), decoded(&encoded));
            }
        }
    }

    #[test]
    fn a_key_that_stands_twice_is_never_taken_for_another_request() {
        let entry = |number: u8| {
            delimited(
                1,
                &[&delimited(1, b"k")[..], &delimited(2, &[0x20, number])].concat(),
            )
        };
        let object = |entries: &[Vec<u8>]| delimited(5, &entries.concat());
        // Decoders keep the last: {"k": true} and {"k": false}.
        let (one, other) = (object(&[entry(0), entry(1)]), object(&[entry(1), entry(0)]));
        assert_ne!(of(&one), of(&other));
        assert_ne!(of(&one), of(&object(&[entry(1)])));
        let many = |last: u8| {
            let entries: Vec<_> = (0..40).map(|at| entry((at + last) % 2)).collect();
            object(&entries)
        };
        assert_ne!(of(&many(0)), of(&many(1)));
    }

    #[test]
    fn what_json_cannot_say_is_taken_by_its_bytes() {
        // An unknown field in a Value, a list, an object and an entry; a kind that is set twice.
        let known = [0x20, 1];
        let odd = |bytes: &[u8]| [bytes, &[0x78, 7][..]].concat();
        assert_ne!(of(&odd(&known)), of(&known));
        assert_ne!(of(&delimited(6, &odd(&[]))), of(&delimited(6, &[])));
        assert_ne!(of(&delimited(5, &odd(&[]))), of(&delimited(5, &[])));
        let entry = |odd: &[u8]| {
            let fields = [&delimited(1, b"k")[..], &delimited(2, &known), odd].concat();
            delimited(5, &delimited(1, &fields))
        };
        assert_ne!(of(&entry(&[0x78, 7])), of(&entry(&[])));
        assert_ne!(of(&[0x20, 1, 0x20, 1]), of(&[0x20, 1]));
        // An empty key may be written or left out.
        let bare = delimited(5, &delimited(1, &delimited(2, &known)));
        let written = [&delimited(1, b"")[..], &delimited(2, &known)].concat();
        assert_eq!(of(&bare), of(&delimited(5, &delimited(1, &written))));
    }

    #[test]
    fn targets_count_in_any_order_and_never_run_into_each_other() {
        let of = |targets: &[&str]| Fingerprint::of(targets, &Payload::null());
        assert_eq!(of(&["A", "B"]), of(&["B", "A"]));
        assert_ne!(of(&["A", "B"]), of(&["AB"]));
        assert_ne!(of(&["A", "B"]), of(&["A"]));
        assert_ne!(of(&["A"]), of(&["A", "A"]));
    }
}
