//! What stands behind the question mark of a path.

use std::collections::HashMap;

use percent_encoding::percent_decode_str;

use super::endpoints::{Holds, Query};
use crate::domain::failure::{Failure, Reason};
use crate::domain::nearest::nearest;
use crate::message_json::Enum;

/// Names and values that an endpoint knows.
pub(super) struct Asked(Vec<(&'static str, String)>);

impl Asked {
    /// Reads the query of a path; refuses names that the endpoint does not know.
    pub(super) fn read(query: &str, known: &[Query]) -> Result<Self, Failure> {
        let mut asked: Vec<(&'static str, String)> = Vec::new();
        for part in query.split('&').filter(|part| !part.is_empty()) {
            let (name, value) = part.split_once('=').unwrap_or((part, ""));
            let name = decoded(name)?;
            let found = known.iter().find(|query| is_same(query.name, &name));
            let Some(query) = found else {
                return Err(unknown(&name, known));
            };
            let is_there = asked.iter().any(|(there, _)| *there == query.name);
            if is_there && query.holds != Holds::Texts {
                return Err(refused(query.name, "is there twice"));
            }
            asked.push((query.name, decoded(value)?));
        }
        Ok(Self(asked))
    }

    /// Every value of a name.
    pub(super) fn texts(&self, name: &str) -> Vec<String> {
        let values = self.0.iter().filter(|(there, _)| *there == name);
        values.map(|(_, value)| value.clone()).collect()
    }

    /// The value of a name; empty when it is not there.
    pub(super) fn text(&self, name: &str) -> String {
        self.texts(name).pop().unwrap_or_default()
    }

    /// Whether a flag is set: `?verbose`, `?verbose=true`.
    pub(super) fn flag(&self, name: &str) -> Result<bool, Failure> {
        match self.texts(name).pop().as_deref() {
            None | Some("false") => Ok(false),
            Some("" | "true") => Ok(true),
            Some(_) => Err(refused(name, "expected true or false")),
        }
    }

    /// A word of an enum, as its number; 0 when it is not there.
    pub(super) fn word(&self, name: &str, known: &Enum) -> Result<i32, Failure> {
        let Some(text) = self.texts(name).pop() else {
            return Ok(0);
        };
        let number = known.number(&text).filter(|number| *number != 0);
        number.ok_or_else(|| {
            let words: Vec<_> = known.words().collect();
            refused(name, &format!("use one of {}", words.join(", ")))
        })
    }

    /// `name=value`, any number of times.
    pub(super) fn pairs(&self, name: &str) -> Result<HashMap<String, String>, Failure> {
        let mut pairs = HashMap::new();
        for text in self.texts(name) {
            let Some((key, value)) = text.split_once('=') else {
                return Err(refused(name, "expected NAME=VALUE"));
            };
            if pairs.insert(key.to_owned(), value.to_owned()).is_some() {
                return Err(refused(name, "a name is there twice"));
            }
        }
        Ok(pairs)
    }

    /// A whole number; 0 when it is not there.
    pub(super) fn count(&self, name: &str) -> Result<i32, Failure> {
        let Some(text) = self.texts(name).pop() else {
            return Ok(0);
        };
        let what = format!("expected a whole number from 0 to {}", i32::MAX);
        text.parse().map_err(|_| refused(name, &what))
    }
}

fn refused(name: &str, what: &str) -> Failure {
    Failure::new(Reason::ArgumentInvalid, format!("query {name}: {what}"))
}

fn unknown(name: &str, known: &[Query]) -> Failure {
    let names: Vec<_> = known.iter().map(|query| query.name).collect();
    let shown: String = name.chars().take(60).collect();
    let what = match nearest(name, &names) {
        Some(near) => format!("unknown name, did you mean {near}?"),
        None if names.is_empty() => "unknown name: this path takes no query".to_owned(),
        None => format!("unknown name: known here are {}", names.join(", ")),
    };
    refused(&shown, &what)
}

/// `page_size` is `pageSize`.
fn is_same(camel_case: &str, written: &str) -> bool {
    let mut snake_case = String::with_capacity(camel_case.len() + 1);
    for c in camel_case.chars() {
        if c.is_ascii_uppercase() {
            snake_case.push('_');
        }
        snake_case.push(c.to_ascii_lowercase());
    }
    written == camel_case || written == snake_case
}

/// Undoes percent-encoding; nothing where that is not UTF-8.
pub(super) fn percent_decoded(part: &str) -> Option<String> {
    let text = percent_decode_str(part).decode_utf8().ok()?;
    Some(text.into_owned())
}

/// Undoes percent-encoding and the plus of forms.
fn decoded(part: &str) -> Result<String, Failure> {
    percent_decoded(&part.replace('+', " ")).ok_or_else(|| {
        let shown: String = part.chars().take(60).collect();
        Failure::new(
            Reason::ArgumentInvalid,
            format!("query {shown}: is not UTF-8"),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const KNOWN: [Query; 3] = [
        Query {
            name: "instances",
            holds: Holds::Texts,
            about: "",
        },
        Query {
            name: "pageSize",
            holds: Holds::Count,
            about: "",
        },
        Query {
            name: "verbose",
            holds: Holds::Flag,
            about: "",
        },
    ];

    fn check(query: &str, expected: Result<(&[&str], i32, bool), &str>) {
        let read = Asked::read(query, &KNOWN).and_then(|asked| {
            let (size, verbose) = (asked.count("pageSize")?, asked.flag("verbose")?);
            Ok((asked.texts("instances"), size, verbose))
        });
        let read = read.map_err(|failure| failure.detail.into_owned());
        let expected = expected.map(|(texts, size, verbose)| {
            let texts: Vec<_> = texts.iter().map(|text| (*text).to_owned()).collect();
            (texts, size, verbose)
        });
        assert_eq!(read, expected.map_err(str::to_owned), "{query}");
    }

    #[test]
    fn what_is_asked_is_read_in_both_spellings() {
        check("", Ok((&[], 0, false)));
        check("&&instances=A-H", Ok((&["A-H"], 0, false)));
        check(
            "instances=A&instances=B%2CC+D",
            Ok((&["A", "B,C D"], 0, false)),
        );
        check("page_size=3&verbose", Ok((&[], 3, true)));
        check("pageSize=3&verbose=true", Ok((&[], 3, true)));
        check("verbose=false", Ok((&[], 0, false)));
    }

    #[test]
    fn pairs_have_a_name_and_a_value_and_each_name_once() {
        let pairs = |query: &str| {
            let pairs = Asked::read(query, &KNOWN).unwrap().pairs("instances");
            let pairs = pairs.map_err(|failure| failure.detail.into_owned())?;
            let mut pairs: Vec<_> = pairs.into_iter().collect();
            pairs.sort_unstable();
            Ok::<_, String>(pairs)
        };
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(pairs("verbose"), Ok(vec![]));
        let told = pairs("instances=a=1%3D&instances=b%3D");
        assert_eq!(told, Ok(vec![pair("a", "1="), pair("b", "")]));
        let refused = |query: &str, what: &str| {
            assert_eq!(pairs(query), Err(format!("query instances: {what}")));
        };
        refused("instances=a", "expected NAME=VALUE");
        refused("instances=a=1&instances=a=2", "a name is there twice");
    }

    #[test]
    fn what_cannot_be_meant_is_refused_by_name() {
        check(
            "instance=A",
            Err("query instance: unknown name, did you mean instances?"),
        );
        check(
            "q=A",
            Err("query q: unknown name: known here are instances, pageSize, verbose"),
        );
        check("verbose=1", Err("query verbose: expected true or false"));
        check("verbose&verbose", Err("query verbose: is there twice"));
        check(
            "page_size=1&pageSize=2",
            Err("query pageSize: is there twice"),
        );
        check(
            "pageSize=x",
            Err("query pageSize: expected a whole number from 0 to 2147483647"),
        );
        check("instances=%ff", Err("query %ff: is not UTF-8"));
    }
}
