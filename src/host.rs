//! What the engine takes of an operating system: a clock, and kernels to try out from a folder.
//!
//! Both are there with the feature `files` ([`system`]). Without it, as in a browser, there is neither: submissions keep
//! their first size, the tuner times nothing, and kernels are those in the program.

#[cfg(feature = "files")]
mod system;

#[cfg(feature = "files")]
pub(crate) use system::{clock, kernel};

/// A clock: seconds since some moment.
pub(crate) type Clock = fn() -> f64;

/// The clock, where there is one.
#[cfg(not(feature = "files"))]
pub(crate) fn clock() -> Option<Clock> {
    None
}

/// The text to take in place of the program's own for `kernels/<file>.wgsl`, or why it cannot be read; `None` where
/// the program's own is to be taken.
#[cfg(not(feature = "files"))]
pub(crate) fn kernel(_file: &str) -> Option<Result<String, String>> {
    None
}
