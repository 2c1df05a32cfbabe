//! A folder of images, with class subfolders or without.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

use super::entries::{PassedOver, Rest, entries};
use super::error::open_regular_file;
use super::fingerprint::checksum_at;
use super::format::{Format, Pictures};
use super::picture::Picture;
use super::positioned::PositionedFile;
use super::{DataError, OpenOptions, codec, require_train};

pub(super) const FORMAT: Format = Format {
    description: "a folder of images, or of a subfolder of images for each class",
    recognises: |path| path.is_dir() && has_images(path, &mut HashSet::new(), 0),
    open,
};

/// Subfolders of subfolders that are looked into.
const MAX_DEPTH: usize = 32;
/// Folders that a message names.
const NAMED: usize = 3;

/// The images of a folder.
///
/// Images directly in the folder carry no labels. Images in subfolders, at any depth, belong to the class that the
/// subfolder of the dataset's folder names; the classes are numbered in the order of their names. Where no subfolder
/// has images directly in it, it is unclear at which depth the classes are, and the folder is refused. Names that start
/// with a dot are passed over.
struct Folder {
    path: PathBuf,
    classes: Vec<String>,
    /// Sorted by path, so that an index means the same image on every machine.
    images: Vec<ImageFile>,
    passed_over: Vec<PassedOver>,
}

struct ImageFile {
    path: PathBuf,
    /// Index into the classes.
    label: Option<u32>,
}

/// Whether there is an image in a folder, or below it.
fn has_images(folder: &Path, seen: &mut HashSet<PathBuf>, depth: usize) -> bool {
    let is_new = fs::canonicalize(folder).is_ok_and(|place| seen.insert(place));
    let Ok(paths) = entries(folder) else { return false };
    if !is_new || depth > MAX_DEPTH {
        return false;
    }
    paths.iter().any(|path| codec::is_image(path) && !path.is_dir())
        || paths.iter().any(|path| path.is_dir() && has_images(path, seen, depth + 1))
}

fn open(path: &Path, options: &OpenOptions) -> Result<Box<dyn Pictures>, DataError> {
    let name = path.display().to_string();
    let advice = "a folder is one split: give the path of a folder of held-out images";
    require_train(&name, options.split, advice)?;
    let Listed { direct, folders, rest } = list(path)?;
    let labelled: Vec<&Subfolder> = folders.iter().filter(|folder| folder.len() > 0).collect();
    match (direct.is_empty(), labelled.is_empty()) {
        (false, true) => {
            let images = direct.into_iter().map(|path| ImageFile { path, label: None }).collect();
            let path = path.to_owned();
            Ok(Box::new(Folder { path, classes: Vec::new(), images, passed_over: rest.sorted() }))
        }
        (false, false) => {
            let found = format!(
                "both, so that some images have a class and others have none: {} in the folder, {} in subfolders, such \
                 as {}",
                direct.len(),
                labelled.iter().map(|folder| folder.len()).sum::<usize>(),
                labelled[0].first().map_or(path, PathBuf::as_path).display()
            );
            Err(bad_folder(path, "images in the folder, or in class subfolders", found))
        }
        (true, true) => {
            let passed_over = rest.sorted();
            let found = match passed_over.first() {
                Some(most) => format!("other files, such as {}", most.example.display()),
                None => "none".to_owned(),
            };
            let expected = format!("images ({}) in the folder or in class subfolders", codec::names());
            Err(bad_folder(path, expected, found))
        }
        (true, false) if labelled.iter().all(|folder| folder.direct.is_empty()) => {
            Err(too_deep(path, &labelled))
        }
        (true, false) => {
            if let Some(empty) = folders.iter().find(|folder| folder.len() == 0) {
                return Err(bad_folder(&empty.path, "images, because its neighbours are classes", "none"));
            }
            let name = |folder: &Subfolder| {
                folder.path.file_name().unwrap_or_default().to_string_lossy().into_owned()
            };
            let classes = folders.iter().map(name).collect();
            let images = (0..)
                .zip(folders)
                .flat_map(|(label, folder)| {
                    let deeper = folder.deeper.into_iter().flat_map(|(_, paths)| paths);
                    let mut paths: Vec<PathBuf> = folder.direct.into_iter().chain(deeper).collect();
                    paths.sort_unstable();
                    paths.into_iter().map(move |path| ImageFile { path, label: Some(label) })
                })
                .collect();
            Ok(Box::new(Folder { path: path.to_owned(), classes, images, passed_over: rest.sorted() }))
        }
    }
}

/// Says where images lie, in a folder that has none at the depth where they are looked for.
fn too_deep(path: &Path, labelled: &[&Subfolder]) -> DataError {
    let deeper: Vec<&(PathBuf, Vec<PathBuf>)> = labelled.iter().flat_map(|folder| &folder.deeper).collect();
    let mut named: Vec<String> = deeper
        .iter()
        .take(NAMED)
        .map(|(folder, images)| format!("{} ({})", folder.display(), images.len()))
        .collect();
    if deeper.len() > NAMED {
        named.push(format!("{} more folders", deeper.len() - NAMED));
    }
    let count: usize = labelled.iter().map(|folder| folder.len()).sum();
    DataError::BadFile {
        path: path.to_owned(),
        expected: "images in the folder or directly in its subfolders".to_owned(),
        found: format!("none there, and {count} in deeper folders: {}", named.join(", ")),
        advice: format!(
            "give the folder whose subfolders are the classes, such as {0}; where {0} is a class itself, put its images \
             directly into it",
            labelled.first().map_or(path, |folder| &folder.path).display()
        ),
    }
}

impl Pictures for Folder {
    fn len(&self) -> usize {
        self.images.len()
    }

    fn classes(&self) -> &[String] {
        &self.classes
    }

    fn label(&self, index: usize) -> Option<u32> {
        self.images[index].label
    }

    fn decode(&self, index: usize) -> Result<Picture, DataError> {
        codec::decode_file(&self.images[index].path)
    }

    fn location(&self, index: usize) -> PathBuf {
        self.images[index].path.clone()
    }

    fn key(&self, index: usize) -> Option<String> {
        let path = &self.images[index].path;
        Some(path.strip_prefix(&self.path).ok()?.with_extension("").display().to_string())
    }

    fn files(&self) -> Vec<PathBuf> {
        self.images.iter().map(|image| image.path.clone()).collect()
    }

    fn checksum(&self, index: usize) -> Result<u32, DataError> {
        let path = &self.images[index].path;
        let (file, length) = open_regular_file(path)?;
        checksum_at(&PositionedFile::new(file, path.clone()), 0, length)
    }

    fn stored_bytes(&self) -> u64 {
        self.images.iter().filter_map(|image| fs::metadata(&image.path).ok()).map(|found| found.len()).sum()
    }

    fn passed_over(&self) -> &[PassedOver] {
        &self.passed_over
    }
}

/// What a dataset's folder holds, sorted by path.
#[derive(Default)]
struct Listed {
    /// Images in the folder itself.
    direct: Vec<PathBuf>,
    folders: Vec<Subfolder>,
    /// Files of other kinds.
    rest: Rest,
}

/// What a subfolder of a dataset's folder holds.
struct Subfolder {
    path: PathBuf,
    /// Images in the subfolder itself.
    direct: Vec<PathBuf>,
    /// Deeper folders with images in them.
    deeper: Vec<(PathBuf, Vec<PathBuf>)>,
}

impl Subfolder {
    fn len(&self) -> usize {
        self.direct.len() + self.deeper.iter().map(|(_, images)| images.len()).sum::<usize>()
    }

    fn first(&self) -> Option<&PathBuf> {
        self.direct.first().or_else(|| self.deeper.iter().find_map(|(_, images)| images.first()))
    }
}

fn list(path: &Path) -> Result<Listed, DataError> {
    let mut listed = Listed::default();
    let (direct, folders) = list_one(path, &mut listed.rest)?;
    listed.direct = direct;
    let mut seen = HashSet::from([canonical(path)?]);
    for folder in folders {
        let mut found = Vec::new();
        walk(&folder, 1, &mut seen, &mut found, &mut listed.rest)?;
        let mut found = found.into_iter();
        let direct = found.next().map_or_else(Vec::new, |(_, images)| images);
        let deeper = found.filter(|(_, images)| !images.is_empty()).collect();
        listed.folders.push(Subfolder { path: folder, direct, deeper });
    }
    Ok(listed)
}

/// Adds a folder and those below it, each with the images in it, to `found`.
///
/// A folder in `seen` is not read again, so that links to folders above end somewhere.
fn walk(
    folder: &Path,
    depth: usize,
    seen: &mut HashSet<PathBuf>,
    found: &mut Vec<(PathBuf, Vec<PathBuf>)>,
    rest: &mut Rest,
) -> Result<(), DataError> {
    if !seen.insert(canonical(folder)?) {
        rest.add_as("links to a folder that is read already", folder.to_owned());
        return Ok(());
    }
    if depth > MAX_DEPTH {
        rest.add_as(&format!("folders more than {MAX_DEPTH} deep"), folder.to_owned());
        return Ok(());
    }
    let (images, folders) = list_one(folder, rest)?;
    found.push((folder.to_owned(), images));
    folders.iter().try_for_each(|folder| walk(folder, depth + 1, seen, found, rest))
}

fn canonical(path: &Path) -> Result<PathBuf, DataError> {
    fs::canonicalize(path).map_err(|source| DataError::Io { path: path.to_owned(), source })
}

/// The images and the folders in a folder; other files are counted in `rest`.
fn list_one(path: &Path, rest: &mut Rest) -> Result<(Vec<PathBuf>, Vec<PathBuf>), DataError> {
    let (mut images, mut folders) = (Vec::new(), Vec::new());
    for path in entries(path)? {
        if path.is_dir() {
            folders.push(path);
        } else if codec::is_image(&path) {
            images.push(path);
        } else {
            rest.add(path);
        }
    }
    Ok((images, folders))
}

fn bad_folder(path: &Path, expected: impl Into<String>, found: impl Into<String>) -> DataError {
    DataError::BadFile {
        path: path.to_owned(),
        expected: expected.into(),
        found: found.into(),
        advice: "give a folder of images, or one with a subfolder of images for each class".to_owned(),
    }
}

#[cfg(test)]
mod tests;
