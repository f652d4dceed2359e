//! Which pages may call from a browser.

use std::time::Duration;

use http::HeaderName;

use super::place::Place;
use crate::domain::limit::{CORS_AGE_MAX, CORS_ENTRIES_MAX};
use crate::ingress::cors::{Cors, Origin, Origins};

/// What Chromium remembers at most.
const AGE_DEFAULT: Duration = Duration::from_secs(2 * 3600);

pub(super) fn cors(place: &Place<'_>) -> Option<Cors> {
    let fields = place.fields(&["origins", "allowed_headers", "max_age"])?;
    let listed = fields.get("origins");
    if listed.is_none() {
        let what = "names no origins: write those of your pages, such as \
                    [\"https://console.example.com\"], or [\"*\"] for all";
        fields.note_absent(&["origins"], what);
    }
    let mut headers = Vec::new();
    fields.set("allowed_headers", &mut headers, allowed_headers);
    let mut max_age = AGE_DEFAULT;
    fields.set("max_age", &mut max_age, |place| {
        place.duration(&(Duration::ZERO..=CORS_AGE_MAX))
    });
    Some(Cors::new(origins(&listed?)?, &headers, max_age))
}

fn origins(place: &Place<'_>) -> Option<Origins> {
    let list = place.list(CORS_ENTRIES_MAX)?;
    if list.is_empty() {
        place.note("is empty: name at least one origin, or leave cors out");
    }
    let form = "an origin such as \"https://console.example.com\", or \"*\" alone for all";
    let mut listed = Vec::new();
    for place in &list {
        match place.text(form) {
            Some("*") if list.len() == 1 => return Some(Origins::Any),
            Some("*") => place.note("stands for every origin: keep it alone, or leave it out"),
            Some(text) => match Origin::parse(text) {
                Ok(origin) => listed.push(origin),
                Err(bad) => place.note(bad.to_string()),
            },
            None => {}
        }
    }
    Some(Origins::Listed(listed))
}

fn allowed_headers(place: &Place<'_>) -> Option<Vec<HeaderName>> {
    let list = place.list(CORS_ENTRIES_MAX)?;
    let name = |place: &Place<'_>| {
        let form = "the name of a header such as \"x-tenant\"";
        let text = place.text(form)?;
        match HeaderName::from_bytes(text.as_bytes()) {
            // A star would stand for all but `authorization`: whoever writes it means something else.
            Ok(name) if name != "*" => Some(name),
            Ok(_) | Err(_) => place.expected(form),
        }
    };
    Some(list.iter().filter_map(name).collect())
}
