//! Damaged files are refused with a sentence that names the file, or read as far as they make sense: never a panic,
//! never much memory, never numbers that are none.
//!
//! Some hundred mutated files of every format; `tools/mutate-inputs` reads as many as one likes.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a panic is how a test fails

mod formats;
mod mutate;
mod rounds;

/// Mutated files of each format.
const ROUNDS: u64 = 200;

/// One test, since memory is measured for the whole process.
#[test]
fn damaged_files_are_refused_with_a_sentence() {
    let mut faults = Vec::new();
    for format in formats::ALL {
        let tally = rounds::run(format, 1, 0, ROUNDS);
        println!(
            "{}: {} read, {} refused, {} faults",
            format.name,
            tally.read,
            tally.refused,
            tally.faults.len()
        );
        faults.extend(tally.faults);
    }
    assert!(faults.is_empty(), "{} faults:\n{}", faults.len(), faults.join("\n"));
}
