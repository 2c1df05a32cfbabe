//! A folder that keeps the tuner's choices, one file for each adapter and driver.

use std::fs;
use std::io::{self, Write};
use std::path::PathBuf;

use crate::device::TuningStore;
use crate::files::read_regular;
use crate::output::write_atomically;

/// The folder; it is made when there is something to keep.
pub struct TuningFolder(pub PathBuf);

impl TuningStore for TuningFolder {
    fn place(&self, name: &str) -> String {
        self.0.join(name).display().to_string()
    }

    fn read(&self, name: &str) -> Result<Option<Vec<u8>>, String> {
        match read_regular(&self.0.join(name)) {
            Ok(text) => Ok(Some(text)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error.to_string()),
        }
    }

    fn write(&self, name: &str, text: &[u8]) -> Result<(), String> {
        fs::create_dir_all(&self.0).map_err(|error| format!("{}: {error}", self.0.display()))?;
        write_atomically(&self.0.join(name), |file| file.write_all(text)).map_err(|error| error.to_string())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn texts_come_back_and_the_folder_is_made() {
        let folder = tempfile::tempdir().unwrap();
        let store = TuningFolder(folder.path().join("not/there yet"));
        assert_eq!(store.read("a.json"), Ok(None));
        store.write("a.json", b"one").unwrap();
        store.write("a.json", b"two").unwrap();
        assert_eq!(store.read("a.json"), Ok(Some(b"two".to_vec())));
        assert_eq!(store.read("b.json"), Ok(None));
        assert!(store.place("a.json").ends_with("a.json"));
    }

    #[test]
    fn a_folder_that_cannot_be_made_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        fs::write(&file, "in the way").unwrap();
        let error = TuningFolder(file.join("tuning")).write("a.json", b"").unwrap_err();
        assert!(error.contains(file.to_str().unwrap()), "{error}");
        assert!(TuningFolder(folder.path().to_owned()).read(".").unwrap_err().contains("a folder"));
    }
}
