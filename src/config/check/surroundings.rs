//! What a config points to: files beside it, and the environment. What is read here is never repeated.

use std::cell::RefCell;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use super::place::Place;
use crate::config::raw::Value;
use crate::domain::limit::{CREDENTIAL_BYTES_MAX, PEM_BYTES_MAX};
use crate::instance::Credential;

/// Where a config stands.
#[derive(Clone, Copy)]
pub(in crate::config) struct Surroundings<'a> {
    /// Names of files are relative to it.
    pub(in crate::config) folder: &'a Path,
    pub(in crate::config) environment: &'a dyn Fn(&str) -> Option<String>,
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
        if let Value::Text(_) = place.value() {
            place.note(
                "a secret never stands in the config itself: write {\"bearer_file\": FILE} or {\"bearer_env\": VARIABLE}",
            );
            return None;
        }
        let fields = place.fields(&["bearer_file", "bearer_env"])?;
        match (fields.get("bearer_file"), fields.get("bearer_env")) {
            (Some(file), None) => {
                let token = self.file(&file, CREDENTIAL_BYTES_MAX)?;
                bearer(&file, &token)
            }
            (None, Some(variable)) => {
                let name = variable.text("the name of an environment variable")?;
                match (self.environment)(name) {
                    Some(token) => bearer(&variable, token.as_bytes()),
                    None => {
                        variable
                            .note("the environment variable named here is not set, or is no text");
                        None
                    }
                }
            }
            (Some(_), Some(_)) => {
                place.note("has both bearer_file and bearer_env: keep one");
                None
            }
            (None, None) => {
                fields.note_absent(
                    &["bearer_file", "bearer_env"],
                    "names no token: write {\"bearer_file\": FILE} or {\"bearer_env\": VARIABLE}",
                );
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
    let text = str::from_utf8(token).unwrap_or("\0");
    // Editors and `echo` end files with a newline.
    let text = text.trim_end_matches(['\r', '\n']);
    if text.is_empty() {
        place.note("the token named here is empty");
        return None;
    }
    let visible = text.bytes().all(|byte| byte.is_ascii_graphic());
    let credential = Credential::bearer(text).filter(|_| visible);
    if credential.is_none() {
        place.note("the token named here holds something other than visible ASCII characters");
    }
    credential
}
