//! One written value while it is checked: what it is, what it is called, and where its mistakes go.

use std::collections::HashMap;

use crate::config::mistake::{Notes, shown};
use crate::config::raw::{Entry, Item, Value};
use crate::domain::nearest::nearest;

/// A written value. What cannot be read is noted, and `None` comes back.
#[derive(Clone)]
pub(super) struct Place<'a> {
    item: &'a Item<'a>,
    path: String,
    notes: &'a Notes<'a>,
    echo: Echo,
}

/// Whether a mistake may repeat what was written.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Echo {
    Yes,
    /// Somebody may have written the secret itself where its hash or its file belongs.
    Never,
}

/// What people call a secret that they write where only a way to one belongs.
const LITERALS: [&str; 10] = [
    "api_key",
    "apikey",
    "authorization",
    "bearer",
    "key",
    "passphrase",
    "password",
    "secret",
    "token",
    "value",
];

/// An object whose keys are known.
pub(super) struct Fields<'a> {
    /// The object itself.
    pub(super) place: Place<'a>,
    known: &'static [&'static str],
    entries: HashMap<&'static str, &'a Entry<'a>>,
    /// Those that were most likely meant by an unknown key.
    misspelt: Vec<&'static str>,
}

impl<'a> Place<'a> {
    pub(super) fn root(item: &'a Item<'a>, notes: &'a Notes<'a>) -> Self {
        Self {
            item,
            path: String::new(),
            notes,
            echo: Echo::Yes,
        }
    }

    /// The same value; neither it nor what is in it is ever repeated in a mistake.
    pub(super) fn hidden(self) -> Self {
        let echo = Echo::Never;
        Self { echo, ..self }
    }

    /// The same value, which holds no secret although it stands among them.
    pub(super) fn open(self) -> Self {
        let echo = Echo::Yes;
        Self { echo, ..self }
    }

    pub(super) fn value(&self) -> &'a Value<'a> {
        &self.item.value
    }

    pub(super) fn note(&self, what: impl AsRef<str>) {
        self.notes.note(self.item.at, &self.path, what.as_ref());
    }

    /// Notes that something else should stand here; says what was found.
    pub(super) fn expected<T>(&self, what: impl AsRef<str>) -> Option<T> {
        let found = match (&self.item.value, self.echo) {
            (Value::Text(text), Echo::Yes) => format!("the text \"{}\"", shown(text)),
            (Value::Text(_), Echo::Never) => "a text".to_owned(),
            (Value::Number(number), Echo::Yes) => format!("the number {}", shown(number)),
            (Value::Number(_), Echo::Never) => "a number".to_owned(),
            (Value::Truth(truth), _) => truth.to_string(),
            (Value::Null, _) => "null".to_owned(),
            (Value::List(_), _) => "a list".to_owned(),
            (Value::Object(_), _) => "an object".to_owned(),
        };
        self.note(format!("expected {}, found {found}", what.as_ref()));
        None
    }

    /// `what` says what the text is, as in "an address such as ...".
    pub(super) fn text(&self, what: &str) -> Option<&'a str> {
        if let Value::Text(text) = &self.item.value {
            return Some(text);
        }
        self.expected(what)
    }

    pub(super) fn truth(&self) -> Option<bool> {
        if let Value::Truth(truth) = &self.item.value {
            return Some(*truth);
        }
        self.expected("true or false")
    }

    /// Whether it is an object with this name in it, whatever stands there.
    pub(super) fn has(&self, name: &str) -> bool {
        match &self.item.value {
            Value::Object(entries) => entries.iter().any(|entry| entry.name == name),
            Value::Text(_) | Value::Number(_) | Value::Truth(_) | Value::Null | Value::List(_) => {
                false
            }
        }
    }

    pub(super) fn list(&self, len_max: usize) -> Option<Vec<Self>> {
        let Value::List(list) = &self.item.value else {
            return self.expected("a list");
        };
        if len_max < list.len() {
            let len = list.len();
            self.note(format!(
                "holds {len} entries, at most {len_max} are allowed"
            ));
            return None;
        }
        let inner = |(index, item)| self.inner(item, format!("{}[{index}]", self.path));
        Some(list.iter().enumerate().map(inner).collect())
    }

    /// An object with free names.
    pub(super) fn entries(&self, len_max: usize) -> Option<Vec<(&'a str, Self)>> {
        let Value::Object(entries) = &self.item.value else {
            return self.expected("an object");
        };
        if len_max < entries.len() {
            let len = entries.len();
            self.note(format!(
                "holds {len} entries, at most {len_max} are allowed"
            ));
            return None;
        }
        let mut first = HashMap::new();
        for entry in entries {
            self.note_if_repeated(&mut first, entry);
        }
        let inner = |entry: &'a Entry<'a>| {
            let name: &'a str = &entry.name;
            (name, self.inner(&entry.item, self.path_of(name)))
        };
        Some(entries.iter().map(inner).collect())
    }

    /// An object with these names and no others.
    pub(super) fn fields(&self, known: &'static [&'static str]) -> Option<Fields<'a>> {
        let Value::Object(written) = &self.item.value else {
            return self.expected(format!("an object with {}", known.join(", ")));
        };
        let mut first = HashMap::new();
        let mut entries = HashMap::new();
        let mut misspelt = Vec::new();
        for entry in written {
            let Some(name) = known.iter().find(|name| **name == entry.name) else {
                misspelt.extend(self.note_unknown(entry, known));
                continue;
            };
            self.note_if_repeated(&mut first, entry);
            entries.entry(*name).or_insert(entry);
        }
        Some(Fields {
            place: self.clone(),
            known,
            entries,
            misspelt,
        })
    }

    /// Returns what was meant, most likely.
    fn note_unknown(&self, entry: &Entry<'_>, known: &[&'static str]) -> Option<&'static str> {
        let path = match self.echo {
            Echo::Yes => self.path_of(&entry.name),
            Echo::Never => self.path.clone(),
        };
        let meant = nearest(&entry.name, known);
        let is_secret = self.echo == Echo::Never && LITERALS.contains(&&*entry.name.to_lowercase());
        let what = match meant {
            _ if is_secret => format!(
                "a secret never stands in the config itself; known here are {}",
                known.join(", ")
            ),
            Some(meant) => format!("unknown key, did you mean {meant}?"),
            None => format!("unknown key; known here are {}", known.join(", ")),
        };
        self.notes.note(entry.at, &path, &what);
        meant
    }

    fn note_if_repeated(&self, first: &mut HashMap<&'a str, usize>, entry: &'a Entry<'a>) {
        match first.get(&*entry.name) {
            Some(at) => {
                let line = self.notes.line(*at);
                let what = format!("is written twice, first in line {line}: keep one");
                self.notes.note(entry.at, &self.path_of(&entry.name), &what);
            }
            None => drop(first.insert(&entry.name, entry.at)),
        }
    }

    fn inner(&self, item: &'a Item<'a>, path: String) -> Self {
        let (notes, echo) = (self.notes, self.echo);
        Self {
            item,
            path,
            notes,
            echo,
        }
    }

    fn path_of(&self, name: &str) -> String {
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
        if name.is_empty() || !name.chars().all(plain) {
            format!("{}[\"{}\"]", self.path, shown(name))
        } else if self.path.is_empty() {
            shown(name)
        } else {
            format!("{}.{}", self.path, shown(name))
        }
    }

    /// The line where it stands, for mistakes that point from one value to another.
    pub(super) fn line(&self) -> usize {
        self.notes.line(self.item.at)
    }
}

impl<'a> Fields<'a> {
    pub(super) fn get(&self, name: &str) -> Option<Place<'a>> {
        debug_assert!(self.known.contains(&name), "{name} is not declared");
        let entry = self.entries.get(name)?;
        Some(self.place.inner(&entry.item, self.place.path_of(name)))
    }

    /// What stands there, and otherwise the object that should have it.
    pub(super) fn get_or_self(&self, name: &str) -> Place<'a> {
        self.get(name).unwrap_or_else(|| self.place.clone())
    }

    /// Notes that none of `names` is there, unless one of them seems to be misspelt, which was told already.
    pub(super) fn note_absent(&self, names: &[&str], what: &str) {
        if !names.iter().any(|name| self.misspelt.contains(name)) {
            self.place.note(what);
        }
    }

    /// Sets `target` when the key is there and can be read.
    pub(super) fn set<T>(
        &self,
        name: &str,
        target: &mut T,
        read: impl FnOnce(&Place<'a>) -> Option<T>,
    ) {
        if let Some(value) = self.get(name).as_ref().and_then(read) {
            *target = value;
        }
    }
}
