//! A folder of images, with class subfolders or without.

use std::fs;
use std::panic::catch_unwind;
use std::path::{Path, PathBuf};

use rayon::prelude::*;

use super::picture::Picture;
use super::{
    DataError, Dataset, ImageShape, OpenOptions, Skipped, png_file, require, require_read, require_train,
};

/// Decodes a file into a picture.
type Decode = fn(&Path) -> Result<Picture, DataError>;

/// The file name extensions that are images, in lower case; other files are passed over.
const FORMATS: &[(&str, Decode)] = &[("png", png_file::decode)];

/// The largest image size in pixels; it keeps the products of sizes far from overflow.
const MAX_SIZE: usize = 8192;

/// The images of a folder, decoded when they are read.
///
/// Images directly in the folder carry no labels. Images in subfolders belong to the class that the subfolder
/// names; the classes are numbered in the order of their names. Deeper folders, and names that start with a
/// dot, are passed over.
#[derive(Debug)]
pub(super) struct Folder {
    name: String,
    shape: ImageShape,
    classes: Vec<String>,
    /// Sorted by path, so that an index means the same image on every machine.
    images: Vec<ImageFile>,
    skipped: Vec<Skipped>,
}

#[derive(Debug)]
struct ImageFile {
    path: PathBuf,
    decode: Decode,
    /// Index into the classes.
    label: Option<u32>,
}

impl ImageFile {
    /// Decodes the file. The decoders are other people's: if a hostile file makes one panic, that is a bad file.
    fn decode(&self) -> Result<Picture, DataError> {
        catch_unwind(|| (self.decode)(&self.path)).unwrap_or_else(|_| {
            Err(DataError::BadFile {
                path: self.path.clone(),
                expected: "an image".to_owned(),
                found: "content that makes the decoder panic".to_owned(),
                advice: "remove the file, or pass --skip-bad-images; please report it as a bug".to_owned(),
            })
        })
    }
}

impl Folder {
    /// Lists the images of a folder.
    ///
    /// Without a wanted size, it is the short side of the first image; without wanted channels, 3. Under
    /// `skip_bad_images` every image is decoded once here, and those that fail are left out.
    pub(super) fn open(path: &Path, options: &OpenOptions) -> Result<Self, DataError> {
        let name = path.display().to_string();
        require(&name, "channels", options.channels, &[1, 3], "in_channels")?;
        let advice = "a folder is one split: give the path of a folder of held-out images";
        require_train(&name, options.split, advice)?;
        if !path.is_dir() {
            return Err(bad_folder(path, "a folder of images or the name of a dataset", "a file"));
        }

        let (classes, mut images) = list(path)?;
        let mut skipped = Vec::new();
        if options.skip_bad_images {
            (images, skipped) = validate(images);
        }
        let Some(first) = images.first() else {
            let found = format!("only damaged ones, {} of them", skipped.len());
            return Err(bad_folder(path, "images that can be decoded", found));
        };
        let size = match options.image_size {
            Some(size @ 1..=MAX_SIZE) => size,
            Some(size) => {
                return Err(DataError::Unfit {
                    dataset: name,
                    what: "image size",
                    expected: format!("1 to {MAX_SIZE}"),
                    found: size.to_string(),
                    advice: "choose a model with another sample_size".to_owned(),
                });
            }
            None => {
                let picture = first.decode()?;
                picture.width.min(picture.height).min(MAX_SIZE)
            }
        };
        let shape = ImageShape { channels: options.channels.unwrap_or(3), height: size, width: size };
        Ok(Self { name, shape, classes, images, skipped })
    }
}

impl Dataset for Folder {
    fn name(&self) -> &str {
        &self.name
    }

    fn len(&self) -> usize {
        self.images.len()
    }

    fn image_shape(&self) -> ImageShape {
        self.shape
    }

    fn classes(&self) -> &[String] {
        &self.classes
    }

    fn read(&self, index: usize, pixels: &mut [f32]) -> Result<Option<u32>, DataError> {
        require_read(self, index, pixels)?;
        let image = &self.images[index];
        image.decode()?.write(self.shape, pixels);
        Ok(image.label)
    }

    fn skipped(&self) -> &[Skipped] {
        &self.skipped
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
            Err(bad_folder(path, "PNG images in the folder or in class subfolders", found))
        }
        (true, true) => {
            if let Some((empty, _)) = subfolders.iter().find(|(_, content)| content.images.is_empty()) {
                return Err(bad_folder(empty, "PNG images, because its neighbours are classes", "none"));
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
        } else if let Some(decode) = decoder(&path) {
            content.images.push(ImageFile { path, decode, label });
        } else if content.other.is_none() {
            content.other = Some(path);
        }
    }
    Ok(content)
}

/// The decoder for a file, by its extension.
fn decoder(path: &Path) -> Option<Decode> {
    let extension = path.extension()?;
    FORMATS.iter().find(|(known, _)| extension.eq_ignore_ascii_case(known)).map(|&(_, decode)| decode)
}

/// Decodes every image once, and parts those that can be decoded from those that cannot; both keep their order.
fn validate(images: Vec<ImageFile>) -> (Vec<ImageFile>, Vec<Skipped>) {
    let checked: Vec<Result<ImageFile, Skipped>> = images
        .into_par_iter()
        .map(|image| match image.decode() {
            Ok(_) => Ok(image),
            Err(error) => {
                let reason = match error {
                    DataError::BadFile { expected, found, .. } => {
                        format!("expected {expected}, found {found}")
                    }
                    DataError::Io { source, .. } => source.to_string(),
                    other => other.to_string(),
                };
                Err(Skipped { path: image.path, reason })
            }
        })
        .collect();
    let (mut good, mut skipped) = (Vec::new(), Vec::new());
    for image in checked {
        match image {
            Ok(image) => good.push(image),
            Err(image) => skipped.push(image),
        }
    }
    (good, skipped)
}

fn bad_folder(path: &Path, expected: impl Into<String>, found: impl Into<String>) -> DataError {
    DataError::BadFile {
        path: path.to_owned(),
        expected: expected.into(),
        found: found.into(),
        advice: "give a folder of PNG files, or one with a subfolder of PNG files for each class".to_owned(),
    }
}

#[cfg(test)]
mod tests;
