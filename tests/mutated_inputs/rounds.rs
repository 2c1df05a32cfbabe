//! One mutated folder after another, and what no reader may do with it.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use peak_alloc::PeakAlloc;
use rand::rngs::ChaCha8Rng;
use rand::{RngExt, SeedableRng};

use super::formats::{Files, Format};
use super::mutate::mutate;

#[global_allocator]
static ALLOCATOR: PeakAlloc = PeakAlloc;

/// What a reader of a sample of some kilobytes may allocate, in bytes.
const MEMORY: usize = 512 << 20;

/// How long it may take. A round that takes longer ends the program, since nothing else stops a loop.
const PATIENCE: Duration = Duration::from_secs(60);

/// How the rounds of a format went.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) read: u64,
    pub(crate) refused: u64,
    /// What no input may bring about, with the round that did.
    pub(crate) faults: Vec<String>,
}

/// Reads `rounds` mutated folders of a format, from round `first` on.
pub(crate) fn run(format: &Format, seed: u64, first: u64, rounds: u64) -> Tally {
    let whole = (format.files)();
    let mut tally = Tally::default();
    for (path, _) in &whole {
        let folder = write(&whole);
        let result = (format.read)(folder.path(), &folder.path().join(path));
        result.unwrap_or_else(|error| {
            panic!("{}: the whole {} is refused: {error}", format.name, path.display())
        });
    }
    for round in first..first + rounds {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        rng.set_stream(round);
        let mut files = whole.clone();
        let damaged = rng.random_range(0..files.len());
        mutate(&mut files[damaged].1, &mut rng);
        let folder = write(&files);
        let place = format!("{}, seed {seed}, round {round}: {}", format.name, files[damaged].0.display());
        match read(format, folder.path(), &folder.path().join(&files[damaged].0), &place) {
            Ok(()) => tally.read += 1,
            Err(Refusal::Sentence(sentence)) => {
                tally.refused += 1;
                if let Some(fault) = fault_of(&sentence, folder.path()) {
                    tally.faults.push(format!("{place}: {fault}: {sentence}"));
                }
            }
            Err(Refusal::Fault(fault)) => tally.faults.push(format!("{place}: {fault}")),
        }
    }
    if tally.read == rounds && format.refuses && rounds >= 100 {
        tally.faults.push(format!("{}: no damage was noticed in {rounds} rounds", format.name));
    }
    tally
}

fn write(files: &Files) -> tempfile::TempDir {
    let folder = tempfile::Builder::new().prefix("mutated-").tempdir().expect("a temporary folder");
    for (path, contents) in files {
        let path = folder.path().join(path);
        fs::create_dir_all(path.parent().expect("a folder")).expect("a new folder");
        fs::write(path, contents).expect("a new file");
    }
    folder
}

enum Refusal {
    Sentence(String),
    Fault(String),
}

fn read(format: &Format, folder: &Path, damaged: &Path, place: &str) -> Result<(), Refusal> {
    let (ended, end) = mpsc::channel::<()>();
    let watched = place.to_owned();
    let watch = std::thread::spawn(move || {
        if end.recv_timeout(PATIENCE) == Err(RecvTimeoutError::Timeout) {
            eprintln!("{watched}: still reading after {} s", PATIENCE.as_secs());
            std::process::abort();
        }
    });
    let before = ALLOCATOR.current_usage();
    ALLOCATOR.reset_peak_usage();
    let result = catch_unwind(AssertUnwindSafe(|| (format.read)(folder, damaged)));
    let peak = ALLOCATOR.peak_usage().saturating_sub(before);
    drop(ended);
    let _ = watch.join();
    if peak > MEMORY {
        return Err(Refusal::Fault(format!("took {} MiB", peak >> 20)));
    }
    match result {
        Ok(result) => result.map_err(Refusal::Sentence),
        Err(_) => Err(Refusal::Fault("panicked".to_owned())),
    }
}

/// What is wrong with an error's sentence, if anything is.
fn fault_of(sentence: &str, folder: &Path) -> Option<&'static str> {
    // An ellipsis may come before a semicolon, the full stop of another sentence may not.
    let text = sentence.replace("...", "");
    let is_raw =
        ["Custom {", "Os {", "Error(", "Some(", "None,", ".;"].iter().any(|mark| text.contains(mark));
    if sentence.contains("MISREAD") {
        Some("misread")
    } else if is_raw {
        Some("is not a sentence for people")
    } else if !sentence.contains(&*folder.to_string_lossy()) {
        Some("names no file")
    } else {
        None
    }
}
