//! A folder of images, with class subfolders or without.

use std::fs;
use std::path::{Path, PathBuf};

use super::format::{Format, Pictures};
use super::picture::Picture;
use super::{DataError, OpenOptions, codec, require_train};

pub(super) const FORMAT: Format = Format {
    description: "a folder of images, or of a subfolder of images for each class",
    recognises: Path::is_dir,
    open,
};

/// The images of a folder.
///
/// Images directly in the folder carry no labels. Images in subfolders belong to the class that the subfolder
/// names; the classes are numbered in the order of their names. Deeper folders, and names that start with a
/// dot, are passed over.
struct Folder {
    classes: Vec<String>,
    /// Sorted by path, so that an index means the same image on every machine.
    images: Vec<ImageFile>,
}

struct ImageFile {
    path: PathBuf,
    /// Index into the classes.
    label: Option<u32>,
}

fn open(path: &Path, options: &OpenOptions) -> Result<Box<dyn Pictures>, DataError> {
    let name = path.display().to_string();
    require_train(
        &name,
        options.split,
        "a folder is one split: give the path of a folder of held-out images",
    )?;
    let (classes, images) = list(path)?;
    Ok(Box::new(Folder { classes, images }))
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

    fn files(&self) -> Vec<PathBuf> {
        self.images.iter().map(|image| image.path.clone()).collect()
    }
}

/// The classes and the images of a folder, at least one image.
fn list(path: &Path) -> Result<(Vec<String>, Vec<ImageFile>), DataError> {
    let content = list_one(path, None)?;
    let mut subfolders = Vec::new();
    for (label, subfolder) in (0..).zip(&content.folders) {
        subfolders.push((subfolder, list_one(subfolder, Some(label))?));
    }

    let labelled = subfolders.iter().any(|(_, content)| !content.images.is_empty());
    match (content.images.is_empty(), labelled) {
        (false, false) => Ok((Vec::new(), content.images)),
        (false, true) => Err(bad_folder(
            path,
            "images in the folder, or in class subfolders",
            "both, so that some images have a class and others have none",
        )),
        (true, false) => {
            let found = match content.other {
                Some(file) => format!("other files, such as {}", file.display()),
                None => "none".to_owned(),
            };
            let expected = format!("images ({}) in the folder or in class subfolders", codec::names());
            Err(bad_folder(path, expected, found))
        }
        (true, true) => {
            if let Some((empty, _)) = subfolders.iter().find(|(_, content)| content.images.is_empty()) {
                return Err(bad_folder(empty, "images, because its neighbours are classes", "none"));
            }
            let classes = subfolders
                .iter()
                .map(|(folder, _)| folder.file_name().unwrap_or_default().to_string_lossy().into_owned())
                .collect();
            Ok((classes, subfolders.into_iter().flat_map(|(_, content)| content.images).collect()))
        }
    }
}

/// What a folder holds, sorted by path.
#[derive(Default)]
struct Content {
    images: Vec<ImageFile>,
    folders: Vec<PathBuf>,
    /// The first file of another kind.
    other: Option<PathBuf>,
}

fn list_one(path: &Path, label: Option<u32>) -> Result<Content, DataError> {
    let io_error = |source| DataError::Io { path: path.to_owned(), source };
    let entries: Result<Vec<_>, _> = fs::read_dir(path).map_err(io_error)?.collect();
    let mut paths: Vec<PathBuf> = entries.map_err(io_error)?.iter().map(fs::DirEntry::path).collect();
    paths.retain(|path| !path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b".")));
    paths.sort_unstable();

    let mut content = Content::default();
    for path in paths {
        if path.is_dir() {
            content.folders.push(path);
        } else if codec::is_image(&path) {
            content.images.push(ImageFile { path, label });
        } else if content.other.is_none() {
            content.other = Some(path);
        }
    }
    Ok(content)
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
