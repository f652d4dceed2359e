//! What was meant by a name that does not exist.

/// How much alike two names must be, up to 1, so that one was meant by the other.
const ALIKE: f64 = 0.8;

/// The known name that was meant, most likely.
#[must_use]
pub fn nearest<'k>(written: &str, known: &[&'k str]) -> Option<&'k str> {
    let written: String = written.chars().take(64).collect();
    let written = written.to_lowercase();
    let alike = |name: &&str| strsim::jaro_winkler(&written, &name.to_lowercase());
    let nearest = known
        .iter()
        .copied()
        .max_by(|one, other| alike(one).total_cmp(&alike(other)))?;
    (ALIKE <= alike(&nearest)).then_some(nearest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_name_is_meant_when_it_is_near() {
        let known = &[
            "bearer_file",
            "bearer_env",
            "connections",
            "ca_file",
            "fail",
            "flap",
        ];
        let check = |written: &str, expected: Option<&str>| {
            assert_eq!(nearest(written, known), expected, "{written}");
        };
        check("bearerFile", Some("bearer_file"));
        check("bearer", Some("bearer_env"));
        check("onnections", Some("connections"));
        check("ca", Some("ca_file"));
        check("FAIL", Some("fail"));
        check("port", None);
        check("", None);
        check(&"x".repeat(100_000), None);
    }
}
