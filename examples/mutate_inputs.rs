//! `tools/mutate-inputs`: reads mutated files of every format, as many as one likes.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a tool for ourselves: what goes wrong may end it

#[path = "../tests/mutated_inputs/formats.rs"]
mod formats;
#[path = "../tests/mutated_inputs/mutate.rs"]
mod mutate;
#[path = "../tests/mutated_inputs/rounds.rs"]
mod rounds;

use std::process::ExitCode;

use clap::Parser;

/// Damages files of every format that the program reads, and reads them.
///
/// A reader may refuse a file with a sentence that names it, or read what is there. It may not panic, allocate much
/// more than the file has, go on for ever, or deliver numbers that are none. Exit status: 0 no fault, 1 some, 2 wrong
/// usage.
#[derive(Parser)]
#[command(name = "tools/mutate-inputs", max_term_width = 110)]
struct Args {
    /// Formats, by name; all if none is given
    formats: Vec<String>,
    /// Mutated files of each format
    #[arg(long, default_value_t = 1000)]
    rounds: u64,
    /// Decides the mutations: a round of a seed is always the same
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// The first round, to repeat one of them: --first 17 --rounds 1
    #[arg(long, default_value_t = 0)]
    first: u64,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let known: Vec<&str> = formats::ALL.iter().map(|format| format.name).collect();
    if let Some(unknown) = args.formats.iter().find(|name| !known.contains(&name.as_str())) {
        eprintln!("there is no format {unknown}; there is: {}", known.join(", "));
        return ExitCode::from(2);
    }
    let mut count = 0;
    for format in formats::ALL {
        if !args.formats.is_empty() && !args.formats.iter().any(|name| name == format.name) {
            continue;
        }
        let tally = rounds::run(format, args.seed, args.first, args.rounds);
        println!(
            "{}: {} read, {} refused, {} faults",
            format.name,
            tally.read,
            tally.refused,
            tally.faults.len()
        );
        tally.faults.iter().for_each(|fault| println!("  {fault}"));
        count += tally.faults.len();
    }
    if count == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
