//! What a call brings along from the traces of others: its place in a trace (W3C Trace Context, level 1), and headers
//! that are handed on as they came.

use std::sync::Arc;

use bytes::Bytes;

use super::limit::{
    B3_BYTES_MAX, BAGGAGE_BYTES_MAX, TRACE_HEADERS_MAX, TRACESTATE_BYTES_MAX,
    TRACESTATE_MEMBERS_MAX,
};

/// A place in a trace: a span that others may be children of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceContext {
    /// The trace; not all zero.
    pub trace: [u8; 16],
    /// The span; not all zero.
    pub span: [u8; 8],
    /// Whether the trace is recorded, and bits of later versions.
    pub flags: u8,
}

/// The bit of the flags that says that the trace is recorded.
const SAMPLED: u8 = 1;
/// The length of `traceparent` in version 00; later ones only add to it.
const LENGTH: usize = 55;

impl TraceContext {
    /// Reads a `traceparent`; `None` when it is not one, which is then as good as absent (3.2 and 4.3). Of a later
    /// version the parts are taken that this one has.
    #[must_use]
    pub fn parse(value: &[u8]) -> Option<Self> {
        let (known, more) = value.split_at_checked(LENGTH)?;
        let version: [u8; 1] = hex(&known[..2])?;
        let fits = match version {
            [0] => more.is_empty(),
            [0xff] => false,
            _later => more.first().is_none_or(|next| *next == b'-'),
        };
        let dashes = [2, 35, 52].iter().all(|at| known[*at] == b'-');
        if !fits || !dashes {
            return None;
        }
        let [flags] = hex(&known[53..])?;
        let context = Self {
            trace: hex(&known[3..35])?,
            span: hex(&known[36..52])?,
            flags,
        };
        let is_zero = context.trace == [0; 16] || context.span == [0; 8];
        (!is_zero).then_some(context)
    }

    /// As `traceparent` of version 00.
    #[must_use]
    pub fn to_header(self) -> [u8; LENGTH] {
        let mut header = *b"00-................................-................-..";
        // Fails only where there are not two digits for each byte.
        let _ = hex::encode_to_slice(self.trace, &mut header[3..35]);
        let _ = hex::encode_to_slice(self.span, &mut header[36..52]);
        let _ = hex::encode_to_slice([self.flags], &mut header[53..]);
        header
    }

    /// Whether the trace is recorded.
    #[must_use]
    pub fn is_sampled(self) -> bool {
        self.flags & SAMPLED != 0
    }

    /// The first place of a trace that is recorded, or is not.
    #[must_use]
    pub fn root(trace: [u8; 16], span: [u8; 8], sampled: Sampled) -> Self {
        let flags = match sampled {
            Sampled::Yes => SAMPLED,
            Sampled::No => 0,
        };
        Self { trace, span, flags }
    }

    /// Another span of the same trace.
    #[must_use]
    pub fn with_span(self, span: [u8; 8]) -> Self {
        Self { span, ..self }
    }
}

/// Lower case only (3.2.2).
fn hex<const BYTES: usize>(digits: &[u8]) -> Option<[u8; BYTES]> {
    let is_lower = |c: &u8| c.is_ascii_digit() || (b'a'..=b'f').contains(c);
    let mut bytes = [0; BYTES];
    let decoded = digits.iter().all(is_lower) && hex::decode_to_slice(digits, &mut bytes).is_ok();
    decoded.then_some(bytes)
}

/// Whether a trace is recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sampled {
    /// It is.
    Yes,
    /// It is not.
    No,
}

/// Of traces that begin here, those that are recorded.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Ratio(f64);

impl Ratio {
    /// Unless somebody says otherwise: recording a call costs more than what else tells of it.
    pub const DEFAULT: Self = Self(0.1);

    /// From 0, none, to 1, all; `None` when it is no such number.
    #[must_use]
    pub fn of(ratio: f64) -> Option<Self> {
        (0.0..=1.0).contains(&ratio).then_some(Self(ratio))
    }

    /// The same answer for the same trace everywhere: by the last 8 bytes of its id, as the OpenTelemetry sampler
    /// TraceIdRatioBased.
    #[must_use]
    pub fn sampled(self, trace: [u8; 16]) -> Sampled {
        let [.., a, b, c, d, e, f, g, h] = trace;
        let id = u64::from_be_bytes([a, b, c, d, e, f, g, h]) >> 1;
        let bound = (self.0 * (1u64 << 63) as f64) as u64;
        if id < bound {
            Sampled::Yes
        } else {
            Sampled::No
        }
    }
}

/// Headers about traces that are handed on as they came: `tracestate`, `baggage` and those of B3.
#[derive(Debug, Clone, Default)]
pub struct Carried(Option<Arc<[(&'static str, Bytes)]>>);

/// Headers that belong together, and how many bytes they may have together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Family {
    Tracestate,
    Baggage,
    B3,
}

impl Family {
    const ALL: [Self; 3] = [Self::Tracestate, Self::Baggage, Self::B3];

    fn bytes_max(self) -> usize {
        match self {
            Self::Tracestate => TRACESTATE_BYTES_MAX,
            Self::Baggage => BAGGAGE_BYTES_MAX,
            Self::B3 => B3_BYTES_MAX,
        }
    }

    /// Whether these, which are all of the family, are handed on.
    fn allows<'a>(self, values: impl Iterator<Item = &'a [u8]>) -> bool {
        let (mut bytes, mut members) = (0, 0);
        for value in values {
            bytes += value.len();
            members += value.split(|byte| *byte == b',').count();
        }
        let are_few = match self {
            Self::Tracestate => members <= TRACESTATE_MEMBERS_MAX,
            Self::Baggage | Self::B3 => true,
        };
        are_few && bytes <= self.bytes_max()
    }

    /// The family of a header, and its name; `None` for every other header.
    fn of(name: &str) -> Option<(Self, &'static str)> {
        Some(match name {
            TRACESTATE => (Self::Tracestate, TRACESTATE),
            "baggage" => (Self::Baggage, "baggage"),
            "b3" => (Self::B3, "b3"),
            "x-b3-traceid" => (Self::B3, "x-b3-traceid"),
            "x-b3-spanid" => (Self::B3, "x-b3-spanid"),
            "x-b3-parentspanid" => (Self::B3, "x-b3-parentspanid"),
            "x-b3-sampled" => (Self::B3, "x-b3-sampled"),
            "x-b3-flags" => (Self::B3, "x-b3-flags"),
            _other => return None,
        })
    }
}

const TRACESTATE: &str = "tracestate";

impl Carried {
    /// Those among the headers of a request, in their order, repetitions included. A family that has more than it may
    /// is left out as a whole, which W3C and B3 allow, rather than cut. `tracestate` says nothing without a
    /// `traceparent` that could be read (3.3).
    pub fn of<'a>(
        headers: impl Iterator<Item = (&'a str, &'a [u8])>,
        traceparent: Option<TraceContext>,
    ) -> Self {
        let mut found: Vec<(Family, &'static str, &[u8])> = Vec::new();
        for (name, value) in headers {
            let Some((family, name)) = Family::of(name) else {
                continue;
            };
            if family == Family::Tracestate && traceparent.is_none() {
                continue;
            }
            if found.len() == TRACE_HEADERS_MAX {
                return Self::default();
            }
            found.push((family, name, value));
        }
        if found.is_empty() {
            return Self::default();
        }
        let fits = Family::ALL.map(|family| {
            let own = found.iter().filter(|(of, ..)| *of == family);
            family.allows(own.map(|(_, _, value)| *value))
        });
        let kept = found.iter().filter(|(family, ..)| fits[*family as usize]);
        let kept = kept.map(|(_, name, value)| (*name, Bytes::copy_from_slice(value)));
        Self(Some(kept.collect()))
    }

    /// The state of the caller's trace: all `tracestate` as one (W3C Trace Context, 3.3.1).
    #[must_use]
    pub fn tracestate(&self) -> Option<String> {
        let values = self.iter().filter(|(name, _)| *name == TRACESTATE);
        let values: Vec<&[u8]> = values.map(|(_, value)| value.as_ref()).collect();
        if values.is_empty() {
            return None;
        }
        String::from_utf8(values.join(&b","[..])).ok()
    }

    /// Names and values.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, &Bytes)> {
        let all = self.0.as_deref().unwrap_or_default().iter();
        all.map(|(name, value)| (*name, value))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const GOOD: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn a_traceparent_is_read_as_the_standard_says() {
        let check = |text: &str, expected: Option<u8>| {
            let found = TraceContext::parse(text.as_bytes());
            assert_eq!(found.map(|context| context.flags), expected, "{text}");
        };
        check(GOOD, Some(1));
        check(&GOOD.replace("-01", "-00"), Some(0));
        check(&GOOD.replace("-01", "-03"), Some(3));
        // A later version may have more.
        check(&GOOD.replace("00-0", "01-0"), Some(1));
        check(&format!("{}-more", GOOD.replace("00-0", "cc-0")), Some(1));
        check(&format!("{}.more", GOOD.replace("00-0", "cc-0")), None);
        check(&format!("{GOOD}-more"), None);
        check(&GOOD.replace("00-0", "ff-0"), None);
        for bad in [
            "",
            "00",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "00-0AF7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-0",
            "00-0af7651916cd43dd8448eb211c80319c_b7ad6b7169203331-01",
            "0x-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        ] {
            check(bad, None);
        }
    }

    fn carried(headers: &[(&str, &str)]) -> Vec<(String, String)> {
        let context = TraceContext::parse(GOOD.as_bytes());
        let headers = headers.iter();
        let headers = headers.map(|(name, value)| (*name, value.as_bytes()));
        let text = |value: &Bytes| String::from_utf8(value.to_vec()).unwrap();
        Carried::of(headers, context)
            .iter()
            .map(|(name, value)| (name.to_owned(), text(value)))
            .collect()
    }

    #[test]
    fn headers_about_traces_are_kept_in_order_and_no_others() {
        let all = [
            ("tracestate", "a=1"),
            ("baggage", "k=v"),
            ("tracestate", "b=2"),
            ("b3", "0"),
            ("x-b3-traceid", "1"),
            ("x-b3-spanid", "2"),
            ("x-b3-parentspanid", "3"),
            ("x-b3-sampled", "1"),
            ("x-b3-flags", "1"),
        ];
        let expected: Vec<_> = all
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        assert_eq!(carried(&all), expected);
        let others = [("authorization", "k"), ("x-b3", "1"), ("traceparent", "t")];
        assert_eq!(carried(&others), []);
        let without = Carried::of([("tracestate", &b"a=1"[..])].into_iter(), None);
        assert_eq!(without.iter().count(), 0);
    }

    #[test]
    fn the_state_of_a_trace_is_what_is_handed_on_of_it() {
        let check = |headers: &[(&str, &[u8])], expected: Option<&str>| {
            let context = TraceContext::parse(GOOD.as_bytes());
            let carried = Carried::of(headers.iter().copied(), context);
            assert_eq!(carried.tracestate().as_deref(), expected, "{headers:?}");
        };
        check(&[], None);
        check(&[("baggage", b"k=v")], None);
        let two: [(&str, &[u8]); 3] = [
            ("tracestate", b"a=1,b=2"),
            ("b3", b"0"),
            ("tracestate", b"c=3"),
        ];
        check(&two, Some("a=1,b=2,c=3"));
        check(&[("tracestate", b"a=\xff")], None);
        let many = vec![("tracestate", &b"a=1"[..]); TRACESTATE_MEMBERS_MAX + 1];
        check(&many, None);
        let most = ["a=1"; TRACESTATE_MEMBERS_MAX].join(",");
        check(&many[1..], Some(&most));
        let large = format!("a={}", "x".repeat(TRACESTATE_BYTES_MAX));
        check(&[("tracestate", large.as_bytes())], None);
    }

    #[test]
    fn what_is_too_large_is_left_out_as_a_whole_and_the_rest_is_kept() {
        let check = |name: &'static str, bytes_max: usize| {
            let half = "x".repeat(bytes_max / 2);
            assert_eq!(carried(&[(name, &half), (name, &half)]).len(), 2, "{name}");
            let more = format!("{half}x");
            let kept = carried(&[(name, &half), ("b3", "0"), ("baggage", "k"), (name, &more)]);
            assert!(kept.iter().all(|(kept, _)| kept != name), "{name}");
            assert!(!kept.is_empty());
        };
        check("tracestate", TRACESTATE_BYTES_MAX);
        check("baggage", BAGGAGE_BYTES_MAX);
        check("x-b3-traceid", B3_BYTES_MAX);
        // Of the members of a state it is no matter in how many headers they stand.
        let members = |count: usize| vec!["k=v"; count].join(",");
        let half = members(TRACESTATE_MEMBERS_MAX / 2);
        for (last, kept) in [(half.clone(), 2), (half.clone() + ",", 0)] {
            let state = [("tracestate", &half[..]), ("tracestate", &last)];
            assert_eq!(carried(&state).len(), kept, "{last}");
        }
        let many = vec![("baggage", "k"); TRACE_HEADERS_MAX + 1];
        assert_eq!(carried(&many), []);
        assert_eq!(carried(&many[1..]).len(), TRACE_HEADERS_MAX);
    }

    #[test]
    fn the_ratio_of_random_traces_is_recorded() {
        let count = |ratio: f64| {
            let ratio = Ratio::of(ratio).unwrap();
            let spread = |at: u64| {
                let mut trace = [1; 16];
                trace[8..].copy_from_slice(&(at << 54).to_be_bytes());
                trace
            };
            let recorded = (0..1024).filter(|at| ratio.sampled(spread(*at)) == Sampled::Yes);
            recorded.count()
        };
        assert_eq!([count(0.0), count(1.0)], [0, 1024]);
        assert_eq!([count(0.25), count(0.5)], [256, 512]);
        assert_eq!(
            [Ratio::of(-0.1), Ratio::of(1.1), Ratio::of(f64::NAN)],
            [None; 3]
        );
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(trace in any::<[u8; 16]>(), span in any::<[u8; 8]>(), flags in any::<u8>()) {
            prop_assume!(trace != [0; 16] && span != [0; 8]);
            let context = TraceContext { trace, span, flags };
            prop_assert_eq!(TraceContext::parse(&context.to_header()), Some(context));
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..70)) {
            let _ = TraceContext::parse(&bytes);
        }
    }
}
