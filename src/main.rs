//! The program: hands over to the command line.

use std::process::ExitCode;

/// Measured in benches/README.md: calls make many small allocations.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    orchestrator::cli::run()
}
