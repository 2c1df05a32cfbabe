//! The entries of a dataset's folder, and those that are passed over.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use super::DataError;

/// Files of one kind that belong to a dataset's folder or tar file and are not taken for images.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PassedOver {
    /// What they are, such as "`.txt` files".
    pub kind: String,
    /// How many there are.
    pub count: usize,
    /// The first of them.
    pub example: PathBuf,
}

/// Whether a name begins with a dot: what programs keep for themselves, as `.git`, `.DS_Store` and macOS's `._000.tar`.
///
/// Every format passes over entries with such names, in folders and in tar files.
pub(super) fn is_hidden(name: &[u8]) -> bool {
    name.starts_with(b".")
}

/// The paths of a folder's entries, sorted, without hidden ones.
pub(super) fn entries(folder: &Path) -> Result<Vec<PathBuf>, DataError> {
    let io_error = |source| DataError::Io { path: folder.to_owned(), source };
    let entries: Result<Vec<_>, _> = fs::read_dir(folder).map_err(io_error)?.collect();
    let mut paths: Vec<PathBuf> = entries.map_err(io_error)?.iter().map(fs::DirEntry::path).collect();
    paths.retain(|path| !path.file_name().is_some_and(|name| is_hidden(name.as_encoded_bytes())));
    paths.sort_unstable();
    Ok(paths)
}

/// Counts entries that are passed over, by kind.
#[derive(Default)]
pub(super) struct Rest {
    kinds: BTreeMap<String, PassedOver>,
}

impl Rest {
    /// Counts a file by its extension.
    pub(super) fn add(&mut self, path: PathBuf) {
        let kind = match path.extension() {
            Some(extension) => format!(".{} files", extension.to_string_lossy().to_lowercase()),
            None => "files without an extension".to_owned(),
        };
        self.add_as(&kind, path);
    }

    /// Counts a file as one of this kind.
    pub(super) fn add_as(&mut self, kind: &str, path: PathBuf) {
        let new = || PassedOver { kind: kind.to_owned(), count: 0, example: path };
        self.kinds.entry(kind.to_owned()).or_insert_with(new).count += 1;
    }

    /// All kinds, the most frequent first.
    pub(super) fn sorted(self) -> Vec<PassedOver> {
        let mut kinds: Vec<PassedOver> = self.kinds.into_values().collect();
        // kinds of one count stay in the order of their names
        kinds.sort_by_key(|kind| std::cmp::Reverse(kind.count));
        kinds
    }
}
