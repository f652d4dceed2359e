//! Where the journal is unless the command line says it: the XDG Base Directory Specification 0.8.

use std::path::PathBuf;

use clap::Args;

use super::exit::Error;

/// Where sessions are kept, as typed.
#[derive(Debug, Clone, Args)]
pub(super) struct DataArguments {
    /// Where sessions are kept [default: $XDG_DATA_HOME/orchestrator or ~/.local/share/orchestrator; for serve, sessions.data_directory of its config before these]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
}

impl DataArguments {
    /// The directory; it need not be there. `configured` is what the config says.
    pub(super) fn directory(&self, configured: Option<PathBuf>) -> Result<PathBuf, Error> {
        let given = self.data_dir.clone().or(configured);
        let found = given.or_else(|| default(path("XDG_DATA_HOME"), path("HOME")));
        found.ok_or_else(|| {
            let hint = "name the data directory with --data-dir";
            Error::usage("there is no home directory to keep sessions in", hint)
        })
    }
}

#[allow(
    clippy::disallowed_methods,
    reason = "the command line is where the environment is read"
)]
fn path(name: &str) -> Option<PathBuf> {
    std::env::var_os(name).map(PathBuf::from)
}

/// A path that is not absolute is to be ignored.
fn default(data_home: Option<PathBuf>, home: Option<PathBuf>) -> Option<PathBuf> {
    let data_home = data_home.filter(|path| path.is_absolute());
    let home = home.filter(|path| path.is_absolute());
    let data_home = data_home.or_else(|| Some(home?.join(".local/share")));
    data_home.map(|path| path.join("orchestrator"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_data_directory_is_where_people_expect_it() {
        let check = |data_home: &str, home: &str, expected: Option<&str>| {
            let some = |text: &str| (!text.is_empty()).then(|| PathBuf::from(text));
            let found = default(some(data_home), some(home));
            assert_eq!(found, expected.map(PathBuf::from), "{data_home} {home}");
        };
        check("/data", "/home/a", Some("/data/orchestrator"));
        check("", "/home/a", Some("/home/a/.local/share/orchestrator"));
        check("data", "/home/a", Some("/home/a/.local/share/orchestrator"));
        check("", "", None);
        check("data", "home", None);
    }
}
