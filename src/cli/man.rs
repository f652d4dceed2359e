//! `orchestrator man`: the manual pages. What clap knows comes from it; examples, exit codes, environment and files
//! have sections of their own (man-pages(7)).

use std::io;
use std::path::PathBuf;

use clap::{Args, Command};
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, roman};

use super::exit::{EXIT_CODES_HELP, Error, Exit};
use super::output::Output;

const EXAMPLES: &str = "\
Examples:
  orchestrator man | man -l -
  orchestrator man --directory /usr/local/share/man/man1";

/// `man`, as typed.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Arguments {
    /// Write a page for each command into this folder, instead of the main page to standard output.
    #[arg(long, value_name = "FOLDER")]
    directory: Option<PathBuf>,
}

/// Runs the command. `command` is the whole command line.
pub(super) fn run(arguments: &Arguments, command: Command) -> Result<Exit, Error> {
    let pages = pages(command).map_err(Error::System)?;
    match &arguments.directory {
        Some(directory) => {
            for page in &pages {
                std::fs::write(directory.join(&page.file), &page.text).map_err(Error::System)?;
            }
        }
        None => {
            for page in pages.iter().take(1) {
                Output::stdout().text(&page.text)?;
            }
        }
    }
    Ok(Exit::Done)
}

/// A manual page.
struct Page {
    file: String,
    text: String,
}

/// What the environment says besides options that have a variable of their own.
const KEY: (&str, &str) = (
    "ORCHESTRATOR_API_KEY",
    "The key, or the token of a session, that goes with each call.",
);
const OF_SERVE: [(&str, &str); 6] = [
    (
        "ORCHESTRATOR_API_KEY",
        "A key with all rights, besides those of the config.",
    ),
    (
        "OTEL_EXPORTER_OTLP_ENDPOINT",
        "Where spans go when the config has traces and names no endpoint.",
    ),
    (
        "OTEL_EXPORTER_OTLP_HEADERS",
        "What goes with each batch of spans, as name=value, before what the config says.",
    ),
    (
        "OTEL_EXPORTER_OTLP_COMPRESSION",
        "gzip, for batches of spans.",
    ),
    (
        "OTEL_SERVICE_NAME",
        "Whose spans they are, unless the config says so.",
    ),
    (
        "NOTIFY_SOCKET",
        "Where systemd is told of the start, of reloads and of the stop.",
    ),
];
const DATA_HOME: (&str, &str) = (
    "XDG_DATA_HOME",
    "The data directory is orchestrator in there, unless it is named; without the variable, in ~/.local/share.",
);
const NO_COLOR: (&str, &str) = ("NO_COLOR", "Tables have no colours when it is not empty.");
const JOURNAL: (&str, &str) = (
    "DATA_DIRECTORY/journal.sqlite3",
    "The journal: sessions and their messages. The files beside it, with -wal and -shm, belong to it.",
);

/// The main page first.
fn pages(command: Command) -> io::Result<Vec<Page>> {
    let mut command = command.disable_help_subcommand(true);
    command.build();
    let mut pages = Vec::new();
    gather(&command, "", &mut pages)?;
    Ok(pages)
}

/// A command, and those in it; `told` is what the command above says below its options.
fn gather(command: &Command, told: &str, pages: &mut Vec<Page>) -> io::Result<()> {
    let own = command.get_after_help().map(ToString::to_string);
    let told = own.as_deref().unwrap_or(told);
    pages.push(page(command, told)?);
    let mut below = command
        .get_subcommands()
        .filter(|below| !below.is_hide_set());
    below.try_for_each(|below| gather(below, told, pages))
}

fn page(command: &Command, told: &str) -> io::Result<Page> {
    let name = command.get_display_name().unwrap_or(command.get_name());
    let version = concat!("orchestrator ", env!("CARGO_PKG_VERSION"));
    let man = Man::new(command.clone())
        .title(name.to_uppercase())
        .date(RELEASED)
        .source(version)
        .manual("User Commands");
    let mut bytes = Vec::new();
    man.render_title(&mut bytes)?;
    man.render_name_section(&mut bytes)?;
    man.render_synopsis_section(&mut bytes)?;
    man.render_description_section(&mut bytes)?;
    let notes = notes(told);
    if !notes.is_empty() {
        let mut roff = Roff::new();
        for note in notes {
            roff.control("PP", []);
            roff.text([roman(note)]);
        }
        roff.to_writer(&mut bytes)?;
    }
    if command.get_arguments().next().is_some() {
        man.render_options_section(&mut bytes)?;
    }
    if command.has_subcommands() {
        man.render_subcommands_section(&mut bytes)?;
    }
    ours(command, told).to_writer(&mut bytes)?;
    Ok(Page {
        file: man.get_filename(),
        text: plain(&String::from_utf8_lossy(&bytes)),
    })
}

/// The day of the release.
const RELEASED: &str = "2026-11-22";

fn ours(command: &Command, told: &str) -> Roff {
    let mut roff = Roff::new();
    let codes = exit_codes(EXIT_CODES_HELP);
    list(&mut roff, "EXIT STATUS", &codes);
    list(&mut roff, "ENVIRONMENT", &environment(command));
    if has(command, "data_dir") {
        list(&mut roff, "FILES", &[owned(JOURNAL)]);
    }
    let typed = command.get_bin_name().unwrap_or(command.get_name());
    let is_own = |line: &&str| line.contains(typed);
    let examples: Vec<_> = told
        .lines()
        .skip(1)
        .take_while(|line| !line.is_empty())
        .collect();
    if told.starts_with("Examples:") && examples.iter().any(is_own) {
        roff.control("SH", ["EXAMPLES"]);
        roff.control("nf", []);
        for line in examples
            .iter()
            .filter(|line| is_own(line) || !line.contains("orchestrator "))
        {
            roff.text([roman(line.trim_start())]);
        }
        roff.control("fi", []);
    }
    roff.control("SH", ["SEE ALSO"]);
    match command.get_name() {
        "orchestrator" => roff.text([roman(
            "The README, and docs/operations.md for whoever runs it.",
        )]),
        _command => roff.text([bold("orchestrator"), roman("(1)")]),
    };
    roff
}

/// Paragraphs that are no list of examples or exit codes, each as one line.
fn notes(told: &str) -> Vec<String> {
    let paragraphs = told.split("\n\n");
    let notes =
        paragraphs.filter(|text| !text.starts_with("Examples:") && *text != EXIT_CODES_HELP);
    notes.map(|text| text.replace('\n', " ")).collect()
}

/// Number and meaning, from the lines of the help.
fn exit_codes(help: &str) -> Vec<(String, String)> {
    let lines = help
        .lines()
        .filter_map(|line| line.trim_start().split_once("  "));
    lines
        .map(|(code, meaning)| (code.to_owned(), format!("{meaning}.")))
        .collect()
}

fn environment(command: &Command) -> Vec<(String, String)> {
    let own = command.get_arguments().filter_map(|argument| {
        let variable = argument.get_env()?.to_str()?;
        let flag = argument.get_long()?;
        Some((
            variable.to_owned(),
            format!("The same as --{flag}, which wins."),
        ))
    });
    let mut all: Vec<_> = own.collect();
    if has(command, "server") && command.get_name() != "ready" {
        all.push(owned(KEY));
    }
    if command.get_name() == "serve" {
        all.extend(OF_SERVE.map(owned));
    }
    if has(command, "data_dir") {
        all.push(owned(DATA_HOME));
    }
    if has(command, "output") {
        all.push(owned(NO_COLOR));
    }
    all
}

fn has(command: &Command, argument: &str) -> bool {
    command
        .get_arguments()
        .any(|other| other.get_id() == argument)
}

fn owned((name, meaning): (&str, &str)) -> (String, String) {
    (name.to_owned(), meaning.to_owned())
}

fn list(roff: &mut Roff, heading: &str, entries: &[(String, String)]) {
    if entries.is_empty() {
        return;
    }
    roff.control("SH", [heading]);
    for (name, meaning) in entries {
        roff.control("TP", []);
        roff.text([bold(name.as_str())]);
        roff.text([roman(meaning.as_str())]);
    }
}

/// Without what renderers complain of: blanks at the end of a line, and breaks around an empty one. The apostrophe is
/// defined once.
fn plain(text: &str) -> String {
    let mut lines: Vec<&str> = Vec::new();
    for line in text.lines().map(str::trim_end) {
        let is_definition = line.starts_with(".ie \\n(.g") || line.starts_with(".el .ds Aq");
        if is_definition && lines.contains(&line) {
            continue;
        }
        match (line, lines.last()) {
            (".br", Some(&".sp")) => {}
            ("", Some(&".br")) => {
                lines.pop();
                lines.push(".sp");
            }
            _other => lines.push(line),
        }
    }
    lines.join("\n") + "\n"
}

#[cfg(test)]
mod tests {
    use super::super::CommandLine;
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn every_page_has_its_sections_and_every_variable() {
        let pages = pages(CommandLine::command()).unwrap();
        assert!(pages[0].file == "orchestrator.1" && 20 < pages.len());
        for Page { file, text } in &pages {
            for section in [
                "NAME",
                "SYNOPSIS",
                "DESCRIPTION",
                "OPTIONS",
                "EXIT STATUS",
                "SEE ALSO",
            ] {
                // A section is quoted where it has two words.
                let found = text.lines().any(|line| {
                    line.strip_prefix(".SH ")
                        .is_some_and(|it| it.trim_matches('"') == section)
                });
                assert!(found, "{file}: {section}");
            }
            assert!(
                file == "orchestrator.1" || text.contains(".SH EXAMPLES"),
                "{file}"
            );
            assert!(
                !text.contains(".SH EXTRA") && !text.contains(" \n"),
                "{file}"
            );
            assert_eq!(text.matches(".ds Aq '").count(), 1, "{file}");
        }
        let of = |name: &str| {
            let file = format!("orchestrator-{name}.1");
            &pages.iter().find(|page| page.file == file).unwrap().text
        };
        for variable in ["ORCHESTRATOR\\_LOG", "OTEL", "XDG", "NOTIFY"] {
            let variable = variable.replace("\\_", "_");
            assert!(of("serve").contains(&variable), "{variable}");
        }
        assert!(of("route").contains("ORCHESTRATOR_API_KEY"));
        assert!(of("sessions-show").contains("sessions show"));
        assert!(!of("sessions-show").contains("sessions close"));
        assert!(!of("ready").contains("ORCHESTRATOR_API_KEY"));
    }
}
