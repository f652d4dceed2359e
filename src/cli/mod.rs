//! The command line: one file per command. Data goes to standard output, everything else to standard error.

mod arguments;
mod completions;
mod config;
mod connection;
mod contract_json;
mod data_directory;
mod demo;
mod demo_session;
mod descriptors;
mod destination;
mod dial;
mod door;
mod drain;
mod exit;
mod explain;
mod failed_json;
mod failure_text;
mod fanout;
mod health;
mod instances;
mod journal;
mod json_output;
mod man;
mod output;
mod payload_source;
mod plain;
mod progress;
mod ready;
mod request_defaults;
mod route;
#[cfg(test)]
mod samples;
mod serve;
mod server_address;
mod session_attach;
mod session_leave;
mod session_output;
mod sessions;
mod sessions_send;
mod sessions_spawn;
mod table;
mod task_request;
mod words;

use std::process::ExitCode;

use clap::{CommandFactory as _, Parser, Subcommand};

use self::arguments::Format;
use self::exit::{EXIT_CODES_HELP, Error, Exit};

/// Hands work to named instances and brings back exactly one honest outcome for each.
#[derive(Debug, Parser)]
#[command(name = "orchestrator", version, after_help = EXIT_CODES_HELP)]
struct CommandLine {
    #[command(subcommand)]
    command: Command,
}

/// The command line of the program `openclaw`.
#[derive(Debug, Parser)]
#[command(name = "openclaw", version)]
struct OpenclawCommandLine {
    #[command(subcommand)]
    part: Part,
}

#[derive(Debug, Subcommand)]
enum Part {
    /// Hands work to named instances and brings back exactly one honest outcome for each.
    Orchestrator(CommandLine),
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run an orchestrator; eight built-in instances unless a config names others.
    Serve(serve::Arguments),
    /// Start the built-in fleet, use it once in every way, and show what happened.
    Demo(demo::Arguments),
    /// Give one task to the one instance, out of those named, that should have it.
    Route(route::Arguments),
    /// Give one task to every target and collect what comes back.
    Fanout(fanout::Arguments),
    /// Begin a session: an ordered, durable conversation with one instance.
    #[command(name = "sessions_spawn")]
    SessionsSpawn(sessions_spawn::Arguments),
    /// Send one message to a session and bring its reply.
    #[command(name = "sessions_send")]
    SessionsSend(sessions_send::Arguments),
    /// List, show, close or attach to sessions.
    Sessions(sessions::Arguments),
    /// Tell who is well, and why not.
    Health(health::Arguments),
    /// Tell whether an orchestrator takes calls, without a key.
    Ready(ready::Arguments),
    /// List the fleet.
    Instances(instances::Arguments),
    /// Check a config file, or print the schema of one.
    Config(config::Arguments),
    /// Check or copy the file that sessions live in.
    Journal(journal::Arguments),
    /// Give instances nothing new, and wait until they have nothing left.
    Drain(drain::Arguments),
    /// Give instances work again.
    Undrain(drain::Back),
    /// Print the contract as an encoded FileDescriptorSet.
    Descriptors(descriptors::Arguments),
    /// Print what a shell needs to complete the command line.
    Completions(completions::Arguments),
    /// Print or write the manual pages.
    Man(man::Arguments),
}

/// Runs the command that the process was started with.
pub fn run() -> ExitCode {
    run_typed(CommandLine::try_parse())
}

/// The same for the program `openclaw`: `openclaw orchestrator route …`.
pub fn run_openclaw() -> ExitCode {
    let typed = OpenclawCommandLine::try_parse();
    run_typed(typed.map(|typed| match typed.part {
        Part::Orchestrator(typed) => typed,
    }))
}

fn run_typed(typed: Result<CommandLine, clap::Error>) -> ExitCode {
    match typed {
        Ok(CommandLine { command }) => {
            let format = command.failure_format();
            dispatch(command)
                .unwrap_or_else(|error| report(&error, format))
                .into()
        }
        Err(error) => {
            // Help for a reader who has left, for example: there is nobody to tell.
            let _ = error.print();
            let usage = ExitCode::from(Exit::Usage);
            if error.use_stderr() {
                usage
            } else {
                Exit::Done.into()
            }
        }
    }
}

fn dispatch(command: Command) -> Result<Exit, Error> {
    match command {
        Command::Serve(arguments) => serve::run(&arguments),
        Command::Demo(arguments) => demo::run(&arguments),
        Command::Route(arguments) => route::run(&arguments),
        Command::Fanout(arguments) => fanout::run(&arguments),
        Command::SessionsSpawn(arguments) => sessions_spawn::run(&arguments),
        Command::SessionsSend(arguments) => sessions_send::run(&arguments),
        Command::Sessions(arguments) => sessions::run(&arguments),
        Command::Health(arguments) => health::run(&arguments),
        Command::Ready(arguments) => ready::run(&arguments),
        Command::Instances(arguments) => instances::run(&arguments),
        Command::Config(arguments) => config::run(&arguments),
        Command::Journal(arguments) => journal::run(&arguments),
        Command::Drain(arguments) => drain::run(&arguments),
        Command::Undrain(arguments) => drain::undrain(&arguments),
        Command::Descriptors(arguments) => descriptors::run(&arguments),
        Command::Completions(arguments) => completions::run(&arguments, CommandLine::command()),
        Command::Man(arguments) => man::run(&arguments, CommandLine::command()),
    }
}

impl Command {
    /// How its failures are shown on standard output; as text where that is its own affair, or nobody's.
    fn failure_format(&self) -> Format {
        match self {
            Self::Route(arguments) => arguments.format(),
            Self::SessionsSpawn(arguments) => arguments.format(),
            Self::SessionsSend(arguments) => arguments.format(),
            Self::Sessions(arguments) => arguments.format(),
            Self::Health(arguments) => arguments.format(),
            Self::Instances(arguments) => arguments.format(),
            Self::Drain(arguments) => arguments.format(),
            Self::Undrain(arguments) => arguments.format(),
            // A fan-out tells it after what has arrived.
            Self::Fanout(_)
            | Self::Serve(_)
            | Self::Demo(_)
            | Self::Ready(_)
            | Self::Config(_)
            | Self::Journal(_)
            | Self::Descriptors(_)
            | Self::Completions(_)
            | Self::Man(_) => Format::Table,
        }
    }
}

fn report(error: &Error, format: Format) -> Exit {
    // Nobody may read it.
    let _ = failed_json::show(error, format);
    failure_text::report(error);
    error.exit()
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        CommandLine::command().debug_assert();
        OpenclawCommandLine::command().debug_assert();
    }

    #[test]
    fn every_command_explains_itself_with_examples() {
        for command in CommandLine::command().get_subcommands() {
            let help = command.clone().render_long_help().to_string();
            let example = format!("orchestrator {}", command.get_name());
            assert!(
                help.contains("Examples:") && help.contains(&example),
                "{help}"
            );
            // A flag would show the key to everyone who may list processes.
            assert!(
                !help.contains("--key") && !help.contains("--api-key"),
                "{help}"
            );
        }
    }

    #[test]
    fn a_command_is_required_and_unknown_words_are_refused() {
        let check = |words: &str| CommandLine::try_parse_from(words.split(' ')).is_err();
        assert!(check("orchestrator"));
        assert!(check("orchestrator rout --instances A"));
        assert!(check("orchestrator route --instances A --api-key x"));
        let check = |words: &str| OpenclawCommandLine::try_parse_from(words.split(' ')).is_err();
        assert!(!check("openclaw orchestrator route --instances A"));
        assert!(check("openclaw"));
        assert!(check("openclaw route --instances A"));
        assert!(check("openclaw orchestrator rout --instances A"));
    }
}
