//! Target expressions: text that resolves to a roster of instances.
//!
//! ```text
//! expression = term *( separator term )        separator = "," or white space
//! term       = "*" | id | counter "-" counter  counter   = prefix digits | letter
//! ```
//!
//! An exact id wins over a range, so a term is looked up before it is read as a range. Holes in a range are
//! skipped; an id that is not known is an error, and so is an expression that selects nothing.

use super::id::InstanceId;
use super::limit::{EXPRESSION_BYTES_MAX, EXPRESSIONS_MAX, RANGE_SPAN_MAX};

/// Why an expression does not resolve; each names the part that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadTarget {
    /// No expression was given, or only separators.
    #[error("no target given: name instances, for example A, A-H or *")]
    Nothing,
    /// More text than is read.
    #[error("a target expression has {bytes} bytes: at most {EXPRESSION_BYTES_MAX} are read")]
    TooLong {
        /// How long it is.
        bytes: usize,
    },
    /// More expressions than are read.
    #[error("there are {count} target expressions: at most {EXPRESSIONS_MAX} are read")]
    TooManyExpressions {
        /// How many there are.
        count: usize,
    },
    /// Neither an id nor a range.
    #[error("`{part}` is not a target: write an id, a range such as A-H or w01-w64, or *")]
    Unreadable {
        /// The term as written.
        part: String,
    },
    /// A range whose end lies before its start.
    #[error("range `{part}` runs backwards: write {fixed}")]
    Backwards {
        /// The term as written.
        part: String,
        /// The same range the right way round.
        fixed: String,
    },
    /// More ids than are looked up for one request.
    #[error("the targets span more than {RANGE_SPAN_MAX} ids: at `{part}`")]
    RangeTooLarge {
        /// The term as written.
        part: String,
    },
    /// No such instance.
    #[error("no instance `{part}` in the fleet{}", nearest.as_ref().map(|id| format!(", did you mean {id}?")).unwrap_or_default())]
    Unknown {
        /// The term as written.
        part: String,
        /// The id that looks most like it.
        nearest: Option<InstanceId>,
    },
    /// A range, or `*`, in which there is no instance.
    #[error("`{part}` selects no instance of the fleet")]
    Empty {
        /// The term as written.
        part: String,
    },
    /// More targets than the call may have.
    #[error("more than {max} targets: at `{part}`")]
    TooMany {
        /// The term that went over the limit.
        part: String,
        /// The limit.
        max: usize,
    },
}

impl BadTarget {
    /// True when the text is fine and the fleet lacks what it names.
    #[must_use]
    pub fn is_missing(&self) -> bool {
        matches!(self, Self::Unknown { .. } | Self::Empty { .. })
    }
}

/// Resolves expressions against the ids of the fleet, which are sorted; returns positions in `ids`, without
/// duplicates, in the order of the expressions.
pub fn resolve<S: AsRef<str>>(
    expressions: &[S],
    ids: &[InstanceId],
    max: usize,
) -> Result<Vec<usize>, BadTarget> {
    if EXPRESSIONS_MAX < expressions.len() {
        let count = expressions.len();
        return Err(BadTarget::TooManyExpressions { count });
    }
    let (positions, missing) = resolve_present(expressions, ids, max)?;
    match missing.first() {
        // The first of them decides, and only it is worth a look for what was meant.
        Some(part) if InstanceId::parse(part).is_ok() => Err(BadTarget::Unknown {
            nearest: nearest(part, ids).cloned(),
            part: shown(part),
        }),
        Some(part) => Err(BadTarget::Empty { part: part.clone() }),
        None => Ok(positions),
    }
}

/// As `resolve`, but a term that selects nobody is no error: such terms come back in order.
pub fn resolve_present<S: AsRef<str>>(
    expressions: &[S],
    ids: &[InstanceId],
    max: usize,
) -> Result<(Vec<usize>, Vec<String>), BadTarget> {
    if EXPRESSIONS_MAX < expressions.len() {
        let count = expressions.len();
        return Err(BadTarget::TooManyExpressions { count });
    }
    let mut roster = Roster {
        positions: Vec::new(),
        seen: vec![0; ids.len().div_ceil(64)],
        looked_up: 0,
        max,
    };
    let mut missing: Vec<String> = Vec::new();
    for expression in expressions {
        let expression = expression.as_ref();
        if EXPRESSION_BYTES_MAX < expression.len() {
            let bytes = expression.len();
            return Err(BadTarget::TooLong { bytes });
        }
        let separator = |c: char| c == ',' || c.is_whitespace();
        for part in expression.split(separator).filter(|part| !part.is_empty()) {
            match resolve_term(part, ids, &mut roster) {
                Err(bad) if bad.is_missing() && missing.len() < max => missing.push(part.into()),
                resolved => resolved?,
            }
        }
    }
    if roster.positions.is_empty() && missing.is_empty() {
        return Err(BadTarget::Nothing);
    }
    Ok((roster.positions, missing))
}

/// True when `text` has the form of a range, in whichever direction.
#[must_use]
pub fn reads_as_range(text: &str) -> bool {
    read_range(text).is_some()
}

/// The known id that looks most like `text`, when any comes near.
#[must_use]
pub fn nearest<'a>(text: &str, ids: &'a [InstanceId]) -> Option<&'a InstanceId> {
    let text: String = text.chars().take(64).collect();
    let chars = text.chars().count();
    ids.iter()
        .map(|id| {
            (
                strsim::osa_distance(&text.to_lowercase(), &id.as_str().to_lowercase()),
                id,
            )
        })
        .min_by_key(|(distance, _)| *distance)
        .filter(|(distance, _)| *distance <= chars.div_ceil(2).min(3))
        // With every letter changed, nothing of it was meant.
        .filter(|(distance, id)| *distance < chars.max(id.as_str().len()))
        .map(|(_, id)| id)
}

struct Roster {
    positions: Vec<usize>,
    seen: Vec<u64>,
    /// Ids that the terms so far span.
    looked_up: u64,
    max: usize,
}

impl Roster {
    /// Bounds the work of one request, however its terms repeat themselves.
    fn look_up(&mut self, span: u64, part: &str) -> Result<(), BadTarget> {
        self.looked_up = self.looked_up.saturating_add(span);
        if RANGE_SPAN_MAX < self.looked_up {
            return Err(BadTarget::RangeTooLarge { part: shown(part) });
        }
        Ok(())
    }

    fn add(&mut self, position: usize, part: &str) -> Result<(), BadTarget> {
        let (word, bit) = (position / 64, 1 << (position % 64));
        if self.seen[word] & bit == 0 {
            if self.positions.len() == self.max {
                return Err(BadTarget::TooMany {
                    part: part.to_owned(),
                    max: self.max,
                });
            }
            self.seen[word] |= bit;
            self.positions.push(position);
        }
        Ok(())
    }
}

fn resolve_term(part: &str, ids: &[InstanceId], roster: &mut Roster) -> Result<(), BadTarget> {
    if part == "*" {
        roster.look_up(ids.len() as u64, part)?;
        (0..ids.len()).try_for_each(|position| roster.add(position, part))?;
        return if ids.is_empty() {
            Err(BadTarget::Empty {
                part: part.to_owned(),
            })
        } else {
            Ok(())
        };
    }
    if let Some(position) = find(part, ids) {
        roster.look_up(1, part)?;
        return roster.add(position, part);
    }
    let Some(range) = read_range(part) else {
        return Err(missing(part));
    };
    if range.last < range.first {
        return Err(BadTarget::Backwards {
            part: part.to_owned(),
            fixed: range.reversed(),
        });
    }
    roster.look_up((range.last - range.first).saturating_add(1), part)?;
    let mut found_any = false;
    let mut id = String::new();
    for counter in range.first..=range.last {
        range.write(counter, &mut id);
        if let Some(position) = find(&id, ids) {
            found_any = true;
            roster.add(position, part)?;
        }
    }
    if found_any {
        Ok(())
    } else {
        Err(BadTarget::Empty {
            part: part.to_owned(),
        })
    }
}

fn find(id: &str, ids: &[InstanceId]) -> Option<usize> {
    ids.binary_search_by(|known| known.as_str().cmp(id)).ok()
}

fn shown(part: &str) -> String {
    part.chars().take(80).collect()
}

fn missing(part: &str) -> BadTarget {
    let shown = shown(part);
    if InstanceId::parse(part).is_ok() {
        BadTarget::Unknown {
            nearest: None,
            part: shown,
        }
    } else {
        BadTarget::Unreadable { part: shown }
    }
}

/// `w01-w64`: the prefix `w`, 1 to 64, at least two digits. `A-H`: no prefix, letters.
struct Range<'a> {
    prefix: &'a str,
    first: u64,
    last: u64,
    digits: Digits,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Digits {
    Letter,
    AtLeast(usize),
}

impl Range<'_> {
    fn write(&self, counter: u64, id: &mut String) {
        use std::fmt::Write as _;
        id.clear();
        id.push_str(self.prefix);
        match self.digits {
            Digits::Letter => id.push(u8::try_from(counter).map_or('?', char::from)),
            Digits::AtLeast(width) => {
                // Writing to a String cannot fail.
                let _ = write!(id, "{counter:0width$}");
            }
        }
    }

    fn reversed(&self) -> String {
        let (mut first, mut last) = (String::new(), String::new());
        self.write(self.last, &mut first);
        self.write(self.first, &mut last);
        format!("{first}-{last}")
    }
}

fn read_range(text: &str) -> Option<Range<'_>> {
    text.match_indices('-').find_map(|(at, _)| {
        let (first, last) = (&text[..at], &text[at + 1..]);
        letters(first, last).or_else(|| numbers(first, last))
    })
}

fn letters<'a>(first: &str, last: &str) -> Option<Range<'a>> {
    let (&[first], &[last]) = (first.as_bytes(), last.as_bytes()) else {
        return None;
    };
    let same_case = (first.is_ascii_uppercase() && last.is_ascii_uppercase())
        || (first.is_ascii_lowercase() && last.is_ascii_lowercase());
    same_case.then_some(Range {
        prefix: "",
        first: first.into(),
        last: last.into(),
        digits: Digits::Letter,
    })
}

fn numbers<'a>(first: &'a str, last: &'a str) -> Option<Range<'a>> {
    let (prefix, first) = split_digits(first)?;
    let (prefix_last, last) = split_digits(last)?;
    if prefix != prefix_last {
        return None;
    }
    // A leading zero fixes the width; without one, w8-w12 grows.
    let padded = |digits: &str| digits.len() > 1 && digits.starts_with('0');
    let width = match (padded(first), padded(last)) {
        (false, false) => 1,
        _ if first.len() == last.len() => first.len(),
        _ => return None,
    };
    Some(Range {
        prefix,
        first: first.parse().ok()?,
        last: last.parse().ok()?,
        digits: Digits::AtLeast(width),
    })
}

fn split_digits(text: &str) -> Option<(&str, &str)> {
    let digits = text.bytes().rev().take_while(u8::is_ascii_digit).count();
    (0 < digits).then(|| text.split_at(text.len() - digits))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn fleet(names: &[&str]) -> Vec<InstanceId> {
        let mut ids: Vec<_> = names
            .iter()
            .map(|name| InstanceId::parse(name).unwrap())
            .collect();
        ids.sort();
        ids
    }

    fn check(expressions: &[&str], expected: &str) {
        let ids = fleet(&[
            "A", "B", "C", "D", "E", "G", "H", "w01", "w02", "w10", "x8", "x9", "x10", "gpu-a",
            "eu-1", "eu-2",
        ]);
        let found = match resolve(expressions, &ids, 8) {
            Ok(roster) => roster
                .iter()
                .map(|&at| ids[at].as_str())
                .collect::<Vec<_>>()
                .join(" "),
            Err(bad) => format!("error: {bad}"),
        };
        assert_eq!(found, expected, "{expressions:?}");
    }

    #[test]
    fn expressions_resolve_in_the_order_written() {
        check(&["A"], "A");
        check(&["B", "A"], "B A");
        check(&["B A"], "B A");
        check(&["A-H"], "A B C D E G H");
        check(&["A,C,E-G"], "A C E G");
        check(&["C", "A-D", "C"], "C A B D");
        check(&["w01-w64"], "w01 w02 w10");
        check(&["x8-x12"], "x8 x9 x10");
        check(&["eu-1-eu-7"], "eu-1 eu-2");
        check(&["gpu-a"], "gpu-a");
        check(&[" A ,, B "], "A B");
    }

    #[test]
    fn errors_name_the_bad_part_and_the_nearest_id() {
        check(
            &[],
            "error: no target given: name instances, for example A, A-H or *",
        );
        check(
            &[" , "],
            "error: no target given: name instances, for example A, A-H or *",
        );
        check(
            &["A,w1"],
            "error: no instance `w1` in the fleet, did you mean w01?",
        );
        check(
            &["a"],
            "error: no instance `a` in the fleet, did you mean A?",
        );
        check(&["Z"], "error: no instance `Z` in the fleet");
        check(
            &["zebra-crossing"],
            "error: no instance `zebra-crossing` in the fleet",
        );
        check(&["H-A"], "error: range `H-A` runs backwards: write A-H");
        check(
            &["w64-w01"],
            "error: range `w64-w01` runs backwards: write w01-w64",
        );
        check(
            &["y1-y9"],
            "error: `y1-y9` selects no instance of the fleet",
        );
        check(
            &["A;B"],
            "error: `A;B` is not a target: write an id, a range such as A-H or w01-w64, or *",
        );
        check(
            &["w1-w99999999"],
            "error: the targets span more than 65536 ids: at `w1-w99999999`",
        );
        check(&["*"], "error: more than 8 targets: at `*`");
    }

    #[test]
    fn a_request_that_repeats_itself_is_bounded_work() {
        let ids = fleet(&["w1", "w2"]);
        let repeated = "w1-w9999,".repeat(1000);
        let bad = resolve(&[&repeated], &ids, 8).unwrap_err();
        assert_eq!(
            bad,
            BadTarget::RangeTooLarge {
                part: "w1-w9999".to_owned()
            }
        );
    }

    #[test]
    fn an_empty_fleet_has_no_star() {
        assert_eq!(
            resolve(&["*"], &[], 8),
            Err(BadTarget::Empty {
                part: "*".to_owned()
            })
        );
    }

    proptest! {
        #[test]
        fn a_range_selects_exactly_the_known_ids_between_its_ends(
            known in proptest::collection::btree_set(0_u64..200, 1..40),
            first in 0_u64..200,
            length in 0_u64..200,
        ) {
            let last = (first + length).min(199);
            let ids: Vec<_> = known.iter().map(|n| InstanceId::parse(&format!("w{n:03}")).unwrap()).collect();
            let expected: Vec<_> = known.iter().filter(|n| (first..=last).contains(n)).map(|n| format!("w{n:03}")).collect();
            let found = resolve(&[format!("w{first:03}-w{last:03}")], &ids, 4096)
                .map(|roster| roster.iter().map(|&at| ids[at].to_string()).collect::<Vec<_>>())
                .unwrap_or_default();
            prop_assert_eq!(found, expected);
        }

        #[test]
        fn any_text_resolves_or_is_refused_and_never_repeats_a_target(text in "[A-Ha-h0-9w,*. _-]{0,40}") {
            let ids = fleet(&["A", "B", "C", "a", "w1", "w2", "w01", "1"]);
            if let Ok(roster) = resolve(&[&text], &ids, 4096) {
                let mut unique = roster.clone();
                unique.sort_unstable();
                unique.dedup();
                prop_assert!(!roster.is_empty());
                prop_assert_eq!(unique.len(), roster.len());
            }
        }

        #[test]
        fn every_id_selects_itself(text in "[a-z0-9][a-z0-9._-]{0,10}[a-z0-9]") {
            if let Ok(id) = InstanceId::parse(&text) {
                prop_assert_eq!(resolve(&[&text], &[id], 1), Ok(vec![0]));
            }
        }
    }
}
