//! Progress: a bar on a terminal, plain lines elsewhere.

use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use super::table::duration;
use super::terminal::escaped;

/// Progress towards a number of steps.
pub(super) struct Progress {
    bar: Option<ProgressBar>,
    total: u64,
    first: u64,
    started: Instant,
    printed: Option<Instant>,
}

/// Plain lines come at most this often.
const LINE_EVERY: Duration = Duration::from_secs(5);

impl Progress {
    /// Progress from `first` to `total` steps.
    pub(super) fn new(first: u64, total: u64) -> Self {
        let is_terminal = std::io::IsTerminal::is_terminal(&std::io::stderr());
        let bar = is_terminal.then(|| {
            let template = "{bar:30} {pos}/{len} {msg} {eta} left";
            let style =
                ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
            ProgressBar::new(total).with_style(style).with_position(first)
        });
        if let Some(bar) = &bar {
            bar.reset_eta();
        }
        Self { bar, total, first, started: Instant::now(), printed: None }
    }

    /// Shows that `done` steps are done.
    pub(super) fn set(&mut self, done: u64, message: &str) {
        if let Some(bar) = &self.bar {
            bar.set_position(done);
            bar.set_message(escaped(message).into_owned());
            return;
        }
        let is_due = self.printed.is_none_or(|printed| printed.elapsed() >= LINE_EVERY);
        if is_due || done == self.total {
            let steps = done.saturating_sub(self.first).max(1);
            let left = self.started.elapsed().as_secs_f64() / steps as f64 * (self.total - done) as f64;
            let space = if message.is_empty() { "" } else { "  " };
            eprintln!("step {done}/{}{space}{message}  {} left", self.total, duration(left));
            self.printed = Some(Instant::now());
        }
    }

    /// Prints a line without disturbing the bar.
    pub(super) fn line(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.println(escaped(text)),
            None => eprintln!("{text}"),
        }
    }

    /// Ends the bar and leaves it standing.
    pub(super) fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.abandon();
        }
    }
}
