//! The program `openclaw`, of which the orchestrator is one command: for scripts that call it by that name. It is
//! built on request only, since an unrelated tool has the same name.

use std::process::ExitCode;

/// As in the main program.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    orchestrator::cli::run_openclaw()
}
