//! The `ddpm-gpu` binary.

mod cli;

fn main() -> std::process::ExitCode {
    sigpipe::reset();
    cli::main()
}
