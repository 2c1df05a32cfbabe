//! Whole files or none.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::Path;

use super::OutputError;

/// Beginning and end of the names of temporary files.
const PREFIX: &str = ".ddpm-gpu-";
const SUFFIX: &str = ".part";

/// Writes a file through `contents`, under a temporary name in the same folder, then renames it to `path`.
pub(crate) fn write_atomically(
    path: &Path,
    contents: impl FnOnce(&mut BufWriter<&mut File>) -> io::Result<()>,
) -> Result<(), OutputError> {
    check_place(path)?;
    write(path, contents).map_err(|source| OutputError::Write { path: path.to_owned(), source })
}

/// Writes a text file, whole or not at all.
///
/// # Errors
/// [`OutputError`] if it cannot be written.
pub fn write_text(path: &Path, text: &str) -> Result<(), OutputError> {
    write_atomically(path, |file| file.write_all(text.as_bytes()))
}

/// Checks that a file can be written at `path`, so that long work is not done in vain; leaves nothing behind.
///
/// # Errors
/// What writing the file would fail with.
pub fn check_writable(path: &Path) -> Result<(), OutputError> {
    check_place(path)?;
    builder()
        .tempfile_in(folder(path))
        .map(drop)
        .map_err(|source| OutputError::Write { path: path.to_owned(), source })
}

fn check_place(path: &Path) -> Result<(), OutputError> {
    // Renaming onto /dev/null or a pipe would replace it.
    if fs::metadata(path).is_ok_and(|metadata| !metadata.is_file()) || path.file_name().is_none() {
        return Err(OutputError::NoFile { path: path.to_owned() });
    }
    Ok(())
}

fn folder(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    }
}

/// Removes temporary files that a program which was killed left in a folder.
pub(crate) fn remove_leftovers(folder: &Path) {
    // What cannot be read or removed does no harm.
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_name().to_str().is_some_and(|name| name.starts_with(PREFIX) && name.ends_with(SUFFIX)) {
            let _ = fs::remove_file(entry.path());
        }
    }
}

fn builder() -> tempfile::Builder<'static, 'static> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(PREFIX).suffix(SUFFIX);
    // Temporary files are private; this one is to end up with the permissions of any other new file.
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    builder
}

fn write(path: &Path, contents: impl FnOnce(&mut BufWriter<&mut File>) -> io::Result<()>) -> io::Result<()> {
    let mut file = builder().tempfile_in(folder(path))?;

    let mut writer = BufWriter::new(file.as_file_mut());
    contents(&mut writer)?;
    writer.flush()?;
    drop(writer);
    file.as_file().sync_all()?;
    file.persist(path)?;
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_leaves_the_old_file_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.txt");
        write_atomically(&path, |file| file.write_all(b"old")).unwrap();
        let failed = write_atomically(&path, |file| {
            file.write_all(b"half of the n")?;
            Err(io::Error::other("no more"))
        });
        let message = failed.unwrap_err().to_string();
        assert!(message.contains("a.txt: cannot be written: no more"), "{message}");
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 1);
    }

    #[test]
    fn only_leftovers_are_removed() {
        let folder = tempfile::tempdir().unwrap();
        for name in [".ddpm-gpu-Xk2.part", "a.part", ".ddpm-gpu-notes"] {
            fs::write(folder.path().join(name), "").unwrap();
        }
        remove_leftovers(folder.path());
        remove_leftovers(&folder.path().join("none"));
        assert!(!folder.path().join(".ddpm-gpu-Xk2.part").exists());
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 2);
    }

    #[test]
    fn names_what_stands_in_the_way() {
        let folder = tempfile::tempdir().unwrap();
        let nothing = |path: &Path| write_atomically(path, |_| Ok(())).unwrap_err().to_string();
        assert!(nothing(folder.path()).contains("is a folder"));
        assert!(nothing(&folder.path().join("none/a.png")).contains("check that the folder exists"));
        #[cfg(unix)]
        assert!(nothing(Path::new("/dev/null")).contains("device"));
    }

    #[cfg(unix)]
    #[test]
    fn has_the_permissions_of_a_new_file() {
        use std::os::unix::fs::PermissionsExt;

        let folder = tempfile::tempdir().unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode();
        let (ours, plain) = (folder.path().join("ours"), folder.path().join("plain"));
        write_atomically(&ours, |_| Ok(())).unwrap();
        fs::write(&plain, "").unwrap();
        assert_eq!(mode(&ours), mode(&plain));
    }
}
