//! How much memory the host has to spare: asked before much of it is allocated, since a program that takes more than
//! there is is ended by the system without a word.

use std::sync::OnceLock;

static FREE: OnceLock<fn() -> Option<usize>> = OnceLock::new();

/// Requests of fewer bytes are not worth a question to the operating system.
const SMALL: usize = 32 << 20;

/// More memory was asked for than there is.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what} would take {}; {}", mib(*.bytes), available(.free))]
pub struct TooLarge {
    /// What it was asked for.
    pub what: String,
    /// Bytes asked for; `usize::MAX` for as many or more.
    pub bytes: usize,
    /// Bytes that are free, where that is known.
    pub free: Option<usize>,
}

/// Lets the library ask `free` how many bytes are free whenever it is about to allocate many. Where nothing is set, or
/// `free` does not know, only what no program can address is refused.
pub fn set_free(free: fn() -> Option<usize>) {
    // The first one stays.
    let _ = FREE.set(free);
}

/// Bytes that are free, where that is known.
pub fn free() -> Option<usize> {
    FREE.get().and_then(|free| free())
}

/// Refuses to allocate `bytes` for what `what` says, where fewer are free.
///
/// # Errors
/// [`TooLarge`]
pub(crate) fn check(bytes: usize, what: impl FnOnce() -> String) -> Result<(), TooLarge> {
    if bytes < SMALL {
        return Ok(());
    }
    compare(bytes, free(), what)
}

fn compare(bytes: usize, free: Option<usize>, what: impl FnOnce() -> String) -> Result<(), TooLarge> {
    if bytes <= free.unwrap_or(isize::MAX as usize) {
        return Ok(());
    }
    Err(TooLarge { what: what(), bytes, free })
}

fn mib(bytes: usize) -> String {
    match bytes {
        usize::MAX => "more memory than any machine has".to_owned(),
        bytes => format!("{} MiB of memory", bytes.div_ceil(1 << 20)),
    }
}

fn available(free: &Option<usize>) -> String {
    match free {
        Some(free) => format!("{} MiB are free", free >> 20),
        None => "a program cannot address that".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_there_is_refused() {
        let images = || "the images".to_owned();
        assert_eq!(compare(5 << 20, Some(5 << 20), images), Ok(()));
        assert_eq!(compare(1 << 40, None, images), Ok(()));
        let said = |bytes, free| compare(bytes, free, images).map_err(|error| error.to_string());
        assert_eq!(
            said((5 << 20) + 1, Some(5 << 20)),
            Err("the images would take 6 MiB of memory; 5 MiB are free".to_owned())
        );
        assert_eq!(
            said(usize::MAX, None),
            Err("the images would take more memory than any machine has; a program cannot address that"
                .to_owned())
        );
    }
}
