//! What a config points to: files beside it, and the environment. What is read here is never repeated.

use std::cell::RefCell;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use http::HeaderValue;

use super::place::Place;
use crate::config::CommandLine;
use crate::config::raw::Value;
use crate::domain::limit::{CREDENTIAL_BYTES_MAX, PEM_BYTES_MAX};
use crate::instance::Credential;

/// Where a config stands.
#[derive(Clone, Copy)]
pub(in crate::config) struct Surroundings<'a> {
    /// Names of files are relative to it.
    pub(in crate::config) folder: &'a Path,
    pub(in crate::config) environment: &'a dyn Fn(&str) -> Option<String>,
    pub(in crate::config) command_line: &'a CommandLine,
    /// Takes the files that are looked into, whether or not they can be read.
    pub(in crate::config) files: &'a RefCell<Vec<PathBuf>>,
}

impl Surroundings<'_> {
    pub(super) fn pem(&self, place: &Place<'_>) -> Option<Vec<u8>> {
        self.file(place, PEM_BYTES_MAX)
    }

    /// Where a file is that was read; nothing is noted.
    pub(super) fn path(&self, place: &Place<'_>) -> Option<PathBuf> {
        match place.value() {
            Value::Text(name) => Some(self.folder.join(&**name)),
            Value::Number(_)
            | Value::Truth(_)
            | Value::Null
            | Value::List(_)
            | Value::Object(_) => None,
        }
    }

    /// An object with either `bearer_file` or `bearer_env`.
    pub(super) fn credential(&self, place: &Place<'_>) -> Option<Credential> {
        let (place, token) = self.secret(place, &["bearer_file", "bearer_env"], "token")?;
        bearer(&place, &token)
    }

    /// An object with either `file` or `env`.
    pub(super) fn header(&self, place: &Place<'_>) -> Option<HeaderValue> {
        let (place, value) = self.secret(place, &["file", "env"], "value")?;
        let text = visible(&place, &value, "value")?;
        let mut header = HeaderValue::from_str(text).ok()?;
        header.set_sensitive(true);
        Some(header)
    }

    /// What stands in a file, or in an environment variable, and where that is named; `what` is what it is called.
    fn secret<'a>(
        &self,
        place: &Place<'a>,
        names: &'static [&'static str; 2],
        what: &str,
    ) -> Option<(Place<'a>, Vec<u8>)> {
        let [in_file, in_variable] = *names;
        let forms = format!("{{\"{in_file}\": FILE}} or {{\"{in_variable}\": VARIABLE}}");
        if let Value::Text(_) = place.value() {
            place.note(format!(
                "a secret never stands in the config itself: write {forms}"
            ));
            return None;
        }
        let fields = place.fields(names)?;
        match (fields.get(in_file), fields.get(in_variable)) {
            (Some(file), None) => {
                let secret = self.file(&file, CREDENTIAL_BYTES_MAX)?;
                Some((file, secret))
            }
            (None, Some(variable)) => {
                let name = variable.text("the name of an environment variable")?;
                let found = (self.environment)(name);
                if found.is_none() {
                    variable.note("the environment variable named here is not set, or is no text");
                }
                Some((variable, found?.into_bytes()))
            }
            (Some(_), Some(_)) => {
                place.note(format!("has both {in_file} and {in_variable}: keep one"));
                None
            }
            (None, None) => {
                fields.note_absent(names, &format!("names no {what}: write {forms}"));
                None
            }
        }
    }

    /// The mistake does not repeat the name: it may be the secret itself, written one step too early.
    fn file(&self, place: &Place<'_>, bytes_max: u64) -> Option<Vec<u8>> {
        let name = place.text("the name of a file")?;
        if name.contains("-----BEGIN") || name.contains('\n') {
            place.note("a secret never stands in the config itself: write the name of a file that holds it");
            return None;
        }
        let path = self.folder.join(name);
        self.files.borrow_mut().push(path.clone());
        match read(&path, bytes_max) {
            Ok(Some(bytes)) => Some(bytes),
            Ok(None) => {
                place.note(format!(
                    "the file named here has more than {bytes_max} bytes"
                ));
                None
            }
            Err(error) => {
                let folder = self.folder.display();
                let from = if self.folder.as_os_str().is_empty() {
                    String::new()
                } else {
                    format!(" (names are relative to {folder})")
                };
                place.note(format!("the file named here cannot be read: {error}{from}"));
                None
            }
        }
    }
}

/// `None` when there is more; a device or a pipe does not say so beforehand.
pub(in crate::config) fn read(path: &Path, bytes_max: u64) -> io::Result<Option<Vec<u8>>> {
    let mut bytes = Vec::new();
    File::open(path)?
        .take(bytes_max + 1)
        .read_to_end(&mut bytes)?;
    let fits = u64::try_from(bytes.len()).is_ok_and(|len| len <= bytes_max);
    Ok(fits.then_some(bytes))
}

fn bearer(place: &Place<'_>, token: &[u8]) -> Option<Credential> {
    Credential::bearer(visible(place, token, "token")?)
}

/// The text, which may go into a header; `what` is what it is called.
fn visible<'a>(place: &Place<'_>, secret: &'a [u8], what: &str) -> Option<&'a str> {
    let text = str::from_utf8(secret).unwrap_or("\0");
    // Editors and `echo` end files with a newline.
    let text = text.trim_end_matches(['\r', '\n']);
    if text.is_empty() {
        place.note(format!("the {what} named here is empty"));
        return None;
    }
    if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        place.note(format!(
            "the {what} named here holds something other than visible ASCII characters"
        ));
        return None;
    }
    Some(text)
}
