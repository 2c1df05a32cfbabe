//! WebDataset: tar files in which files of the same name and different extensions make a sample.
//!
//! `dog/0001.jpg` and `dog/0001.cls` are the picture and the label of sample `dog/0001`. Labels are numbers or names in
//! `.cls`, or the member `label`, `cls` or `class` of the object in `.json`. Source: A. Aizman, G. Maltby and T. Breuel,
//! "High Performance I/O For Large Scale Deep Learning" (2019); <https://github.com/webdataset/webdataset>.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use super::codec;
use super::error::open_regular_file;
use super::format::{Format, Pictures};
use super::picture::Picture;
use super::positioned::PositionedFile;
use super::{DataError, OpenOptions, Skipped, require_train};

/// A member of a tar file starts at a multiple of this.
const BLOCK: u64 = 512;
/// A picture or a label that is longer is refused.
const MAX_MEMBER_BYTES: u64 = 1 << 30;
const MAX_LABEL_BYTES: u64 = 1 << 20;

pub(super) const FORMAT: Format = Format {
    description: "a WebDataset tar file, or a folder of them",
    recognises: |path| {
        is_tar(path)
            || is_gzipped(path)
            || (path.is_dir() && shards(path).is_ok_and(|shards| !shards.is_empty()))
    },
    open,
};

fn is_tar(path: &Path) -> bool {
    path.is_file() && path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("tar"))
}

fn is_gzipped(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
    path.is_file() && (name.ends_with(".tar.gz") || name.ends_with(".tgz"))
}

/// The tar files of a folder, sorted by name.
fn shards(folder: &Path) -> Result<Vec<PathBuf>, DataError> {
    let io_error = |source| DataError::Io { path: folder.to_owned(), source };
    let entries: Result<Vec<_>, _> = fs::read_dir(folder).map_err(io_error)?.collect();
    let mut paths: Vec<PathBuf> = entries.map_err(io_error)?.iter().map(fs::DirEntry::path).collect();
    paths.retain(|path| is_tar(path));
    paths.sort_unstable();
    Ok(paths)
}

/// The pictures of some tar files, found by reading the headers of their members once.
struct Shards {
    files: Vec<PositionedFile>,
    samples: Vec<Sample>,
    classes: Vec<String>,
    /// \[number of samples\], or empty without labels.
    labels: Vec<u32>,
    skipped: Vec<Skipped>,
}

struct Sample {
    /// Index into the files.
    shard: usize,
    /// Name of the picture in the tar file.
    name: String,
    /// Where its bytes start, and how many there are.
    position: u64,
    length: u64,
}

/// A label as it is written.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Label {
    Number(u32),
    Name(String),
}

fn open(path: &Path, options: &OpenOptions) -> Result<Box<dyn Pictures>, DataError> {
    let name = path.display().to_string();
    require_train(&name, options.split, "give the path of the tar files of held-out images")?;
    if is_gzipped(path) {
        return Err(bad(
            path,
            "an uncompressed tar file, in which images are found at once",
            "a gzipped one",
            "gunzip it",
        ));
    }
    let paths = if path.is_dir() { shards(path)? } else { vec![path.to_owned()] };
    let mut shards = Shards {
        files: Vec::new(),
        samples: Vec::new(),
        classes: Vec::new(),
        labels: Vec::new(),
        skipped: Vec::new(),
    };
    let mut labels = Vec::new();
    for path in paths {
        let (samples, damage) = index(&path, shards.files.len())?;
        match damage {
            Some(damage) if options.skip_bad_images => {
                shards.skipped.push(Skipped { path: path.clone(), reason: damage.reason() });
            }
            Some(damage) => return Err(damage),
            None => {}
        }
        let file = File::open(&path).map_err(|source| DataError::Io { path: path.clone(), source })?;
        shards.files.push(PositionedFile::new(file, path));
        for (sample, label) in samples {
            shards.samples.push(sample);
            labels.push(label);
        }
    }
    if shards.samples.is_empty() {
        let expected = format!("images ({})", codec::names());
        return Err(bad(path, &expected, "none", "give a tar file with images in it"));
    }
    (shards.classes, shards.labels) = classes(path, &shards.samples, labels)?;
    Ok(Box::new(shards))
}

/// The pictures of a tar file with their labels, and what is wrong with the rest of it.
type Indexed = (Vec<(Sample, Option<Label>)>, Option<DataError>);

fn index(path: &Path, shard: usize) -> Result<Indexed, DataError> {
    let (mut file, file_length) = open_regular_file(path)?;
    let io_error = |source| DataError::Io { path: path.to_owned(), source };
    let cut = |found: String| bad(path, "a whole tar file", found, "download or write it again");

    let mut samples: Vec<(Sample, Option<Label>)> = Vec::new();
    // label and picture of the sample that is being read; its files stand next to each other
    let (mut key, mut label, mut picture) = (String::new(), None, None);
    let mut damage = None;
    let mut archive = tar::Archive::new(file.try_clone().map_err(io_error)?);
    let mut label_file = File::open(path).map_err(io_error)?;
    for entry in archive.entries_with_seek().map_err(io_error)? {
        let member = || {
            let entry = entry.map_err(|error| cut(error.to_string()))?;
            let header = entry.header().entry_type();
            let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
            let (position, length) = (entry.raw_file_position(), entry.size());
            if position.saturating_add(length) > file_length {
                return Err(cut(format!("one that is cut short in {name}")));
            }
            let (member_key, extension) = split_name(&name);
            if !header.is_file() || member_key.is_empty() {
                return Ok(());
            }
            if member_key != key {
                samples.extend(picture.take().map(|picture| (picture, label.take())));
                (key, label) = (member_key.to_owned(), None);
            }
            if extension == "cls" || extension == "json" {
                if length > MAX_LABEL_BYTES {
                    return Err(bad(path, "a short label", format!("{length} bytes in {name}"), "remove it"));
                }
                let mut text = vec![0; length as usize];
                label_file
                    .seek(SeekFrom::Start(position))
                    .and_then(|_| label_file.read_exact(&mut text))
                    .map_err(io_error)?;
                let found = if extension == "cls" { Some(parse_cls(&text)) } else { parse_json(&text) };
                label = found
                    .transpose()
                    .map_err(|found: String| {
                        let expected = format!("a label in {name}");
                        bad(path, &expected, found, "correct it and write the tar file again")
                    })?
                    .or(label.take());
            } else if picture.is_none() && codec::is_image(Path::new(&name)) {
                if length > MAX_MEMBER_BYTES {
                    return Err(bad(path, "an image", format!("{length} bytes in {name}"), "remove it"));
                }
                picture = Some(Sample { shard, name, position, length });
            }
            Ok(())
        };
        if let Err(error) = member() {
            damage = Some(error);
            break;
        }
    }
    // the last sample of a file that breaks off may lack its label
    if damage.is_none() {
        samples.extend(picture.map(|picture| (picture, label)));
        let mut end = [1; BLOCK as usize];
        let whole = file_length >= BLOCK
            && file.seek(SeekFrom::End(-(BLOCK as i64))).and_then(|_| file.read_exact(&mut end)).is_ok()
            && end == [0; BLOCK as usize];
        if !whole {
            damage = Some(cut("no end mark: it is cut short".to_owned()));
        }
    }
    Ok((samples, damage))
}

/// The sample's name and the extension in lower case, which begins at the first dot of the file's name; names that start
/// with a dot belong to no sample.
fn split_name(name: &str) -> (&str, String) {
    let start = name.rfind('/').map_or(0, |slash| slash + 1);
    match name[start..].find('.') {
        Some(0) | None => ("", String::new()),
        Some(dot) => (&name[..start + dot], name[start + dot + 1..].to_lowercase()),
    }
}

/// The text of a `.cls` file.
fn parse_cls(text: &[u8]) -> Result<Label, String> {
    let text = std::str::from_utf8(text).map_err(|_| "bytes that are no text".to_owned())?.trim();
    if text.is_empty() {
        return Err("nothing".to_owned());
    }
    match text.parse::<i64>() {
        Ok(number) => number_label(number),
        Err(_) => Ok(Label::Name(text.to_owned())),
    }
}

fn number_label(number: i64) -> Result<Label, String> {
    u32::try_from(number)
        .ok()
        .filter(|&label| label < 1 << 20)
        .map(Label::Number)
        .ok_or_else(|| number.to_string())
}

/// The label in a `.json` file, if it has one.
fn parse_json(text: &[u8]) -> Option<Result<Label, String>> {
    let value: serde_json::Value = match serde_json::from_slice(text) {
        Ok(value) => value,
        Err(error) => return Some(Err(error.to_string())),
    };
    let label = ["label", "cls", "class"].iter().find_map(|key| value.get(key))?;
    Some(match label {
        serde_json::Value::Number(number) => {
            number.as_i64().map_or_else(|| Err(number.to_string()), number_label)
        }
        serde_json::Value::String(name) => Ok(Label::Name(name.clone())),
        other => Err(other.to_string()),
    })
}

/// Names of the classes, and the label of each sample; both empty if no sample has one.
fn classes(
    path: &Path,
    samples: &[Sample],
    labels: Vec<Option<Label>>,
) -> Result<(Vec<String>, Vec<u32>), DataError> {
    if labels.iter().all(Option::is_none) {
        return Ok((Vec::new(), Vec::new()));
    }
    if let Some(position) = labels.iter().position(Option::is_none) {
        return Err(bad(
            path,
            "a label for every image, or for none",
            format!("none for {}", samples[position].name),
            "add the missing .cls files, or leave all of them out",
        ));
    }
    let labels: Vec<Label> = labels.into_iter().flatten().collect();
    let distinct: BTreeSet<&Label> = labels.iter().collect();
    // numbers sort before names
    match (distinct.first(), distinct.last()) {
        (Some(Label::Number(_)), Some(Label::Number(last))) => {
            let numbers =
                labels.iter().map(|label| if let Label::Number(label) = label { *label } else { 0 });
            Ok(((0..=*last).map(|class| class.to_string()).collect(), numbers.collect()))
        }
        (Some(Label::Name(_)), _) => {
            let names: Vec<&Label> = distinct.into_iter().collect();
            let number = |label: &Label| names.binary_search(&label).unwrap_or_default() as u32;
            let classes = names
                .iter()
                .map(|name| if let Label::Name(name) = name { name.clone() } else { String::new() })
                .collect();
            let numbers = labels.iter().map(number).collect();
            Ok((classes, numbers))
        }
        _ => Err(bad(path, "labels that are all numbers or all names", "both", "write them one way")),
    }
}

impl Pictures for Shards {
    fn len(&self) -> usize {
        self.samples.len()
    }

    fn classes(&self) -> &[String] {
        &self.classes
    }

    fn label(&self, index: usize) -> Option<u32> {
        self.labels.get(index).copied()
    }

    fn decode(&self, index: usize) -> Result<Picture, DataError> {
        let Sample { shard, position, length, .. } = self.samples[index];
        let file = &self.files[shard];
        let mut bytes = vec![0; length as usize];
        file.read_exact_at(&mut bytes, position)
            .map_err(|source| DataError::Io { path: self.location(index), source })?;
        codec::decode(&bytes, &self.location(index))
    }

    fn location(&self, index: usize) -> PathBuf {
        let Sample { shard, name, .. } = &self.samples[index];
        self.files[*shard].path().join(name)
    }

    fn files(&self) -> Vec<PathBuf> {
        self.files.iter().map(|file| file.path().to_owned()).collect()
    }

    fn skipped(&self) -> &[Skipped] {
        &self.skipped
    }
}

fn bad(path: &Path, expected: &str, found: impl Into<String>, advice: &str) -> DataError {
    DataError::BadFile {
        path: path.to_owned(),
        expected: expected.to_owned(),
        found: found.into(),
        advice: advice.to_owned(),
    }
}

#[cfg(test)]
mod tests;
