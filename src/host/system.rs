//! What an operating system gives: see [`host`](super).

use std::path::Path;
use std::sync::LazyLock;
use std::time::Instant;

use super::Clock;
use crate::files::read_regular_text;

/// Names a folder to read `<op>.wgsl` and `shared/<module>.wgsl` from, in place of the text in the program: for trying
/// out a changed kernel without a build.
const KERNELS_FOLDER: &str = "DDPM_GPU_KERNELS";

/// When the clock was first looked at.
static START: LazyLock<Instant> = LazyLock::new(Instant::now);

/// The clock.
#[allow(clippy::unnecessary_wraps)] // not everywhere is one
pub(crate) fn clock() -> Option<Clock> {
    Some(|| START.elapsed().as_secs_f64())
}

/// The text of `<file>.wgsl` in the folder of [`KERNELS_FOLDER`], or why it cannot be read; `None` where no folder is
/// named.
pub(crate) fn kernel(file: &str) -> Option<Result<String, String>> {
    let folder = std::env::var_os(KERNELS_FOLDER)?;
    let file = Path::new(&folder).join(file).with_extension("wgsl");
    let text = read_regular_text(&file);
    Some(text.map_err(|error| format!("{} ({KERNELS_FOLDER} names the folder): {error}", file.display())))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_goes_on_in_seconds() {
        let clock = clock().unwrap();
        let (start, before) = (Instant::now(), clock());
        std::thread::sleep(std::time::Duration::from_millis(2));
        let (seconds, whole) = (clock() - before, start.elapsed().as_secs_f64());
        assert!((0.002..=whole).contains(&seconds), "{seconds} of {whole}");
    }
}
