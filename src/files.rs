//! Opening files that a user names.

use std::fs::{self, File, Metadata};
use std::io::{self, Read};
use std::path::Path;

/// Opens a regular file, through links, and returns it with its length in bytes.
///
/// # Errors
/// What the operating system says; and a sentence that names the kind where the path leads to a folder, a pipe, a
/// device or a socket, which could block for ever or have no end.
pub fn open_regular(path: &Path) -> io::Result<(File, u64)> {
    // Before opening, because opening a pipe waits for a writer; and after, because the path may lead elsewhere by
    // then.
    require_regular(&fs::metadata(path)?)?;
    let file = File::open(path)?;
    let metadata = file.metadata()?;
    require_regular(&metadata)?;
    Ok((file, metadata.len()))
}

/// Reads a regular file.
///
/// # Errors
/// As [`open_regular`], and what reading fails with.
pub fn read_regular(path: &Path) -> io::Result<Vec<u8>> {
    let (mut file, length) = open_regular(path)?;
    let mut bytes = Vec::new();
    bytes.try_reserve_exact(usize::try_from(length).unwrap_or(usize::MAX))?;
    file.read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Reads a regular file of text in UTF-8.
///
/// # Errors
/// As [`read_regular`], and where the text is not UTF-8.
pub fn read_regular_text(path: &Path) -> io::Result<String> {
    String::from_utf8(read_regular(path)?).map_err(|error| {
        let position = error.utf8_error().valid_up_to();
        io::Error::new(
            io::ErrorKind::InvalidData,
            format!("expected text in UTF-8, found another byte at position {position}"),
        )
    })
}

/// An error that [`open_regular`] gives for what is no regular file.
#[derive(Debug, thiserror::Error)]
#[error("expected a regular file, found {0}")]
pub(crate) struct NotRegular(pub(crate) &'static str);

fn require_regular(metadata: &Metadata) -> io::Result<()> {
    match kind(metadata) {
        None => Ok(()),
        Some(kind) => Err(io::Error::other(NotRegular(kind))),
    }
}

/// What a path leads to, where that is no regular file.
fn kind(metadata: &Metadata) -> Option<&'static str> {
    let kind = metadata.file_type();
    if kind.is_file() {
        return None;
    }
    if kind.is_dir() {
        return Some("a folder");
    }
    #[cfg(unix)]
    {
        use std::os::unix::fs::FileTypeExt;
        if kind.is_fifo() {
            return Some("a named pipe (FIFO)");
        }
        if kind.is_socket() {
            return Some("a socket");
        }
    }
    Some("a device")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(crate) mod tests {
    use super::*;

    /// Makes a named pipe, which nobody writes to.
    #[cfg(unix)]
    pub(crate) fn make_fifo(path: &Path) {
        assert!(std::process::Command::new("mkfifo").arg(path).status().unwrap().success());
    }

    #[test]
    fn a_regular_file_comes_with_its_length() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        fs::write(&path, "twelve bytes").unwrap();
        assert_eq!(open_regular(&path).unwrap().1, 12);
        assert_eq!(read_regular_text(&path).unwrap(), "twelve bytes");
        fs::write(&path, b"ab\xff").unwrap();
        assert_eq!(read_regular(&path).unwrap(), b"ab\xff");
        assert!(read_regular_text(&path).unwrap_err().to_string().contains("position 2"));
        assert_eq!(read_regular(&folder.path().join("none")).unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[cfg(unix)]
    #[test]
    fn other_kinds_are_named_also_behind_links() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        make_fifo(&at("pipe"));
        let _socket = std::os::unix::net::UnixListener::bind(at("socket")).unwrap();
        std::os::unix::fs::symlink("pipe", at("to-pipe")).unwrap();
        std::os::unix::fs::symlink("/dev/zero", at("to-device")).unwrap();
        std::os::unix::fs::symlink(".", at("to-folder")).unwrap();
        for (name, kind) in [
            ("pipe", "a named pipe"),
            ("to-pipe", "a named pipe"),
            ("socket", "a socket"),
            ("to-device", "a device"),
            ("to-folder", "a folder"),
        ] {
            let message = read_regular(&at(name)).unwrap_err().to_string();
            assert!(
                message.contains("expected a regular file") && message.contains(kind),
                "{name}: {message}"
            );
        }
    }
}
