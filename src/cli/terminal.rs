//! What the program prints, in one place: results on standard output, all else on standard error.
//!
//! `println!`, `print!` and `eprintln!` of the standard library panic where a stream is full or closed. In this program these
//! names are macros of this file, which never do:
//!
//! - A result that cannot be written is an error at the end of the command, which has written its files by then. A pipe whose
//!   reader has gone (`| head`) ends the program without a word, but no command that goes on to write files.
//! - What goes to standard error is dropped where it cannot be written.
//! - Text may come from files: names, labels, values of a config. Characters that steer a terminal are shown escaped.

use std::borrow::Cow;
use std::fmt::{Arguments, Write as _};
use std::io::{self, ErrorKind, Write};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use clap::error::{ContextKind, ContextValue};

use super::hints::Flags;

/// A line on standard error, as far as it can be written.
macro_rules! eprintln {
    ($($text:tt)*) => { $crate::cli::terminal::note(format_args!($($text)*)) };
}

/// A line of the results.
macro_rules! println {
    () => { $crate::cli::terminal::result(format_args!("\n")) };
    ($text:literal $($rest:tt)*) => {
        $crate::cli::terminal::result(format_args!("{}\n", format_args!($text $($rest)*)))
    };
}

/// A part of the results.
macro_rules! print {
    ($($text:tt)*) => { $crate::cli::terminal::result(format_args!($($text)*)) };
}

/// How a shell reports a program that ended because nobody reads its output.
const BROKEN_PIPE: i32 = 141;

/// Whether the program goes on when nobody reads its results.
static OUTLIVES_READER: AtomicBool = AtomicBool::new(false);

/// The first error in writing results.
static FAILURE: Mutex<Option<io::Error>> = Mutex::new(None);

/// Lets the program go on when nobody reads its results any more: what it writes to files is worth more than its lines.
pub(super) fn outlive_reader() {
    OUTLIVES_READER.store(true, Ordering::Relaxed);
}

/// Writes a part of the results.
pub(super) fn result(text: Arguments<'_>) {
    let text = text.to_string();
    bytes(escaped(&text).as_bytes());
}

/// Writes a part of the results that is no text for a terminal.
pub(super) fn bytes(bytes: &[u8]) {
    let mut failure = FAILURE.lock().unwrap_or_else(PoisonError::into_inner);
    // After the first error the output has a gap; nothing behind it is of use.
    if failure.is_none()
        && let Err(error) = io::stdout().write_all(bytes)
    {
        *failure = end_without_reader(error);
    }
}

/// Ends the program where the error is that nobody reads.
fn end_without_reader(error: io::Error) -> Option<io::Error> {
    match error.kind() == ErrorKind::BrokenPipe {
        false => Some(error),
        true if OUTLIVES_READER.load(Ordering::Relaxed) => None,
        true => std::process::exit(BROKEN_PIPE),
    }
}

/// Writes a line to standard error.
pub(super) fn note(text: Arguments<'_>) {
    let line = format!("{text}\n");
    let _ = io::stderr().write_all(escaped(&line).as_bytes());
}

/// Writes a line to standard error; on a terminal in place of a progress bar, which then draws itself again.
pub(super) fn note_over_bar(text: &str) {
    let is_terminal = io::IsTerminal::is_terminal(&io::stderr());
    let clear = if is_terminal { "\r\x1b[2K" } else { "" };
    let _ = io::stderr().write_all(format!("{clear}{}\n", escaped(text)).as_bytes());
}

/// Ends the program: says what went wrong, if anything did, and which flags may help.
pub(super) fn end(outcome: anyhow::Result<()>, flags: &Flags) -> ExitCode {
    let unwritten = {
        let mut failure = FAILURE.lock().unwrap_or_else(PoisonError::into_inner);
        failure.take().or_else(|| io::stdout().flush().err().and_then(end_without_reader))
    };
    let text = match (outcome, unwritten) {
        (Ok(()), None) => return ExitCode::SUCCESS,
        (Err(error), _) => match flags.hints(&error) {
            Some(hints) => format!("{}\nhint: {hints}", describe(&error)),
            None => describe(&error),
        },
        (Ok(()), Some(error)) => {
            format!("the results cannot be written to standard output: {error}; see where it leads")
        }
    };
    note(format_args!("error: {text}"));
    ExitCode::FAILURE
}

/// An error of clap with the words that it quotes escaped: a shell takes names of files for words, and `--config` values.
pub(super) fn escape_words(mut error: clap::Error) -> clap::Error {
    let escape = |text: &String| escaped(text).into_owned();
    let quoted: Vec<(ContextKind, ContextValue)> = error
        .context()
        .filter_map(|(kind, value)| match value {
            ContextValue::String(text) => Some((kind, ContextValue::String(escape(text)))),
            ContextValue::Strings(texts) => {
                Some((kind, ContextValue::Strings(texts.iter().map(escape).collect())))
            }
            _ => None,
        })
        .collect();
    for (kind, value) in quoted {
        error.insert(kind, value);
    }
    error
}

/// An error and what caused it; the library's errors quote most causes themselves.
fn describe(error: &anyhow::Error) -> String {
    error.chain().skip(1).fold(error.to_string(), |text, cause| {
        let cause = cause.to_string();
        if text.contains(&cause) { text } else { format!("{text}: {cause}") }
    })
}

/// Text with the characters escaped that steer a terminal or turn the direction of writing; line ends and tabs stay.
pub(super) fn escaped(text: &str) -> Cow<'_, str> {
    let steers = |char: char| {
        let turns = matches!(char, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        let breaks = matches!(char, '\u{2028}' | '\u{2029}');
        (char.is_control() && !matches!(char, '\n' | '\t')) || turns || breaks
    };
    if !text.contains(steers) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len() + 16);
    for char in text.chars() {
        match char {
            // Writing to a string never fails.
            _ if !steers(char) => shown.push(char),
            _ if char.is_ascii() => _ = write!(shown, "\\x{:02x}", u32::from(char)),
            _ => _ = write!(shown, "\\u{{{:x}}}", u32::from(char)),
        }
    }
    Cow::Owned(shown)
}

#[cfg(test)]
mod tests {
    use super::escaped;

    #[test]
    fn what_steers_a_terminal_is_escaped() {
        for (text, shown) in [
            ("plain text, ünïcode 画像\n\tnext", "plain text, ünïcode 画像\n\tnext"),
            ("\u{1b}]0;title\u{7}", "\\x1b]0;title\\x07"),
            ("a\rb\u{7f}c", "a\\x0db\\x7fc"),
            ("\u{9b}2J", "\\u{9b}2J"),
            ("cat\u{202e}gpj.exe", "cat\\u{202e}gpj.exe"),
        ] {
            assert_eq!(escaped(text), shown);
        }
    }
}
