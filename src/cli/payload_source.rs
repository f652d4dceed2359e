//! Where the payload of a request comes from: the command line, a file, or standard input.

use std::fs::File;
use std::io::Read;

use bytes::Bytes;

use super::exit::Error;
use crate::domain::limit::ANSWER_BYTES_MAX;
use crate::payload_json;

/// JSON text may be a few times as long as what it becomes.
const TEXT_BYTES_MAX: u64 = ANSWER_BYTES_MAX as u64;

/// Reads `--payload` as typed.
pub(super) fn read(typed: &str, stdin: impl Read) -> Result<Bytes, Error> {
    match typed.strip_prefix('@').or((typed == "-").then_some("-")) {
        Some("-") => encode(&whole("standard input", stdin)?, "standard input"),
        Some(path) => {
            let file = File::open(path).map_err(|error| {
                Error::usage(
                    format!("cannot read the payload from `{path}`: {error}"),
                    "write --payload as JSON, @FILE, or - for standard input",
                )
            })?;
            encode(&whole(path, file)?, path)
        }
        None => encode(typed, "--payload"),
    }
}

/// Encodes JSON text that came from `origin`.
pub(super) fn encode(text: &str, origin: &str) -> Result<Bytes, Error> {
    let payload = payload_json::from_json(text).map_err(|bad| {
        let hint = match bad {
            payload_json::BadJson::Syntax { .. } if origin == "--payload" => {
                "quote the JSON for your shell: --payload '{\"data\": \"task\"}'"
            }
            payload_json::BadJson::Syntax { .. }
            | payload_json::BadJson::IntegerInexact { .. }
            | payload_json::BadJson::KeyTwice { .. }
            | payload_json::BadJson::TooDeep { .. }
            | payload_json::BadJson::Payload(_) => "",
        };
        Error::usage(format!("the payload from {origin} is refused: {bad}"), hint)
    })?;
    Ok(payload.into_encoded())
}

fn whole(origin: &str, source: impl Read) -> Result<String, Error> {
    let mut text = String::new();
    let read = source.take(TEXT_BYTES_MAX + 1).read_to_string(&mut text);
    read.map_err(|error| {
        Error::usage(
            format!("cannot read the payload from {origin}: {error}"),
            "",
        )
    })?;
    if TEXT_BYTES_MAX < text.len() as u64 {
        return Err(Error::usage(
            format!("the payload from {origin} is longer than {TEXT_BYTES_MAX} bytes"),
            "send less: put the data elsewhere and its address in the payload",
        ));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::cli::failure_text;

    fn check(typed: &str, stdin: &str, expected: Result<&str, &str>) {
        let found = match read(typed, stdin.as_bytes()) {
            Ok(encoded) => Ok(payload_json::to_json(&encoded).unwrap()),
            Err(error) => Err(failure_text::lines(&error)),
        };
        match (&found, expected) {
            (Err(found), Err(expected)) => assert!(found.contains(expected), "{typed}: {found}"),
            _ => assert_eq!(found.as_deref().ok(), expected.ok(), "{typed}"),
        }
    }

    #[test]
    fn a_payload_comes_from_the_command_line_a_file_or_standard_input() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(b"{\"from\": \"file\"}\n").unwrap();
        let file = format!("@{}", file.path().display());
        check("{\"data\": \"task\"}", "", Ok("{\"data\":\"task\"}"));
        check("-", "[1]", Ok("[1]"));
        check("@-", "[1]", Ok("[1]"));
        check("-1", "", Ok("-1"));
        check(&file, "", Ok("{\"from\":\"file\"}"));
    }

    #[test]
    fn a_payload_that_cannot_be_meant_is_refused() {
        check("{data: task}", "", Err("hint: quote the JSON"));
        check("[12345678901234567890]", "", Err("at $[0]: integer"));
        check("-", "", Err("from standard input is refused"));
        check(
            "@/nowhere/at/all",
            "",
            Err("cannot read the payload from `/nowhere/at/all`"),
        );
    }
}
