//! WebDataset: tar files in which files of the same name and different extensions make a sample.
//!
//! `dog/0001.jpg` and `dog/0001.cls` are the picture and the label of sample `dog/0001`. Labels are numbers or names in
//! `.cls`, or the member `label`, `cls` or `class` of the object in `.json`. Source: A. Aizman, G. Maltby and T. Breuel,
//! "High Performance I/O For Large Scale Deep Learning" (2019); <https://github.com/webdataset/webdataset>.
//!
//! The key of a sample is the name of its picture without the last extension: `shot.0000.png` and `shot.0001.png` are
//! two samples. (The webdataset library cuts names at the first dot, which would make one sample.) A label belongs to
//! the picture with the same key, anywhere in the tar file. Where there is no such picture, it belongs to the only
//! picture whose key continues its own with a dot: `0001.cls` to `0001.input.png`. Beside `0000.jpg`, a picture
//! `0000.depth.png` is passed over and counted. Two pictures with one key, and labels without a picture, are refused.

use std::cell::Cell;
use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use super::codec;
use super::entries::{PassedOver, Rest, entries, is_hidden};
use super::error::open_regular_file;
use super::fingerprint::checksum_at;
use super::format::{Format, Pictures};
use super::picture::Picture;
use super::positioned::PositionedFile;
use super::{DataError, MAX_CLASSES, OpenOptions, Skipped, require_train};

/// A member of a tar file starts at a multiple of this.
const BLOCK: u64 = 512;
/// A label that is longer is refused.
const MAX_LABEL_BYTES: u64 = 1 << 20;
/// A member whose header is longer, with all that extends it, is refused.
const MAX_HEADER_BYTES: u64 = 1 << 20;

pub(super) const FORMAT: Format = Format {
    description: "a WebDataset tar file, or a folder of them",
    recognises: |path| {
        is_tar(path)
            || is_gzipped(path)
            || (path.is_dir() && entries(path).is_ok_and(|paths| paths.iter().any(|path| is_tar(path))))
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

/// The pictures of some tar files, found by reading the headers of their members once.
struct Shards {
    files: Vec<PositionedFile>,
    samples: Vec<Sample>,
    classes: Vec<String>,
    /// \[number of samples\], or empty without labels.
    labels: Vec<u32>,
    skipped: Vec<Skipped>,
    passed_over: Vec<PassedOver>,
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
    let mut rest = Rest::default();
    let paths = if path.is_dir() {
        let (paths, others): (Vec<PathBuf>, Vec<PathBuf>) =
            entries(path)?.into_iter().partition(|path| is_tar(path));
        others.into_iter().filter(|other| other.is_file()).for_each(|other| rest.add(other));
        paths
    } else {
        vec![path.to_owned()]
    };
    let mut shards = Shards {
        files: Vec::new(),
        samples: Vec::new(),
        classes: Vec::new(),
        labels: Vec::new(),
        skipped: Vec::new(),
        passed_over: Vec::new(),
    };
    let mut labels = Vec::new();
    for path in paths {
        let (samples, faults) = index(&path, shards.files.len(), &mut rest)?;
        for fault in faults {
            if !options.skip_bad_images {
                return Err(fault);
            }
            shards.skipped.push(Skipped { path: path.clone(), reason: fault.reason() });
        }
        let (file, _) = open_regular_file(&path)?;
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
    shards.passed_over = rest.sorted();
    (shards.classes, shards.labels) = classes(path, &shards.samples, labels)?;
    Ok(Box::new(shards))
}

/// The pictures of a tar file with their labels, and the faults of other pictures and of the file.
type Indexed = (Vec<(Sample, Option<Label>)>, Vec<DataError>);

/// The members of a tar file that matter, by their keys, in the order of the file.
#[derive(Default)]
struct Members {
    pictures: Vec<(String, Sample)>,
    labels: Vec<(String, Written)>,
    /// Keys of the labels that cannot be read, with their faults.
    bad_labels: Vec<(String, DataError)>,
    /// Key of the last member of either kind.
    last: String,
}

/// A label and the name of the member that it was read from.
struct Written {
    label: Label,
    member: String,
}

fn index(path: &Path, shard: usize, rest: &mut Rest) -> Result<Indexed, DataError> {
    let mut members = Members::default();
    let damage = read_members(path, shard, &mut members, rest)?;
    if damage.is_some() {
        // the last sample of a file that breaks off may lack its label, or its picture
        let last = members.last.clone();
        members.pictures.retain(|(key, _)| *key != last);
        members.labels.retain(|(key, _)| *key != last);
    }
    let mut faults = Vec::new();
    for (bad_key, fault) in std::mem::take(&mut members.bad_labels) {
        // A picture whose label is bad is as bad; without it, it would count as one that has none.
        members.pictures.retain(|(key, _)| *key != bad_key && prefixes(key).all(|prefix| prefix != bad_key));
        members.labels.retain(|(key, _)| *key != bad_key);
        faults.push(fault);
    }
    faults.extend(damage);
    // Where a part of the file is missing, so may be pictures whose labels came first.
    let is_whole = faults.is_empty();
    Ok((join(path, members, is_whole, rest)?, faults))
}

/// Reads the headers of all members, and the labels; also gives the fault of a file that cannot be read to its end.
fn read_members(
    path: &Path,
    shard: usize,
    members: &mut Members,
    rest: &mut Rest,
) -> Result<Option<DataError>, DataError> {
    let (mut file, file_length) = open_regular_file(path)?;
    let io_error = |source| DataError::Io { path: path.to_owned(), source };
    let cut = |found: String| bad(path, "a whole tar file", found, "download or write it again");
    let left = Cell::new(MAX_HEADER_BYTES);
    let headers = Headers { file: file.try_clone().map_err(io_error)?, left: &left };
    let mut archive = tar::Archive::new(headers);
    let (mut label_file, _) = open_regular_file(path)?;
    for entry in archive.entries_with_seek().map_err(io_error)? {
        left.set(MAX_HEADER_BYTES);
        let member = || {
            let entry = entry.map_err(|error| cut(error.to_string()))?;
            let header = entry.header().entry_type();
            let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
            let (position, length) = (entry.raw_file_position(), entry.size());
            if position.saturating_add(length) > file_length {
                return Err(cut(format!("one that is cut short in {name}")));
            }
            if !header.is_file() || name.split('/').any(|part| part != "." && is_hidden(part.as_bytes())) {
                return Ok(());
            }
            let (key, extension) = split_name(&name);
            if codec::is_image(Path::new(&name)) {
                members.last = key.to_owned();
                members.pictures.push((key.to_owned(), Sample { shard, name, position, length }));
            } else if extension == "cls" || extension == "json" {
                members.last = key.to_owned();
                if length > MAX_LABEL_BYTES {
                    let fault = bad(path, "a short label", format!("{length} bytes in {name}"), "remove it");
                    members.bad_labels.push((key.to_owned(), fault));
                    return Ok(());
                }
                let mut text = vec![0; length as usize];
                label_file
                    .seek(SeekFrom::Start(position))
                    .and_then(|_| label_file.read_exact(&mut text))
                    .map_err(io_error)?;
                let found = if extension == "cls" { Some(parse_cls(&text)) } else { parse_json(&text) };
                let key = key.to_owned();
                match found {
                    Some(Ok(label)) => members.labels.push((key, Written { label, member: name })),
                    Some(Err(found)) => {
                        let expected = format!("a label in {name}");
                        let fault = bad(path, &expected, found, "correct it and write the tar file again");
                        members.bad_labels.push((key, fault));
                    }
                    None => {}
                }
            } else {
                rest.add(path.join(name));
            }
            Ok(())
        };
        if let Err(error) = member() {
            return Ok(Some(error));
        }
    }
    let mut end = [1; BLOCK as usize];
    let whole = file_length >= BLOCK
        && file.seek(SeekFrom::End(-(BLOCK as i64))).and_then(|_| file.read_exact(&mut end)).is_ok()
        && end == [0; BLOCK as usize];
    Ok((!whole).then(|| cut("no end mark: it is cut short".to_owned())))
}

/// Reads a tar file and limits the bytes of a header, since the crate reads long names whole.
struct Headers<'a> {
    file: File,
    /// Bytes that the header which is being read may still have.
    left: &'a Cell<u64>,
}

impl Read for Headers<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read(buffer)?;
        let left = self.left.get().checked_sub(count as u64).ok_or_else(|| {
            io::Error::other(format!("a header of a member that is longer than {MAX_HEADER_BYTES} bytes"))
        })?;
        self.left.set(left);
        Ok(count)
    }
}

impl Seek for Headers<'_> {
    fn seek(&mut self, position: SeekFrom) -> io::Result<u64> {
        self.file.seek(position)
    }
}

/// Finds the label of each picture, by the rule at the top of this file. A label without a picture is refused where the file
/// is whole.
fn join(
    path: &Path,
    members: Members,
    is_whole: bool,
    rest: &mut Rest,
) -> Result<Vec<(Sample, Option<Label>)>, DataError> {
    let Members { pictures, labels, .. } = members;
    let mut by_key: HashMap<&str, usize> = HashMap::new();
    for (position, (key, sample)) in pictures.iter().enumerate() {
        if let Some(other) = by_key.insert(key, position) {
            let found = format!("two, {} and {}", pictures[other].1.name, sample.name);
            let expected = format!("one picture of sample {key}");
            return Err(bad(path, &expected, found, "remove one of them, or give it another name"));
        }
    }
    // Beside `0000.jpg`, `0000.depth.png` is something else that is known of the sample.
    let plainer = |key: &str| prefixes(key).find_map(|prefix| by_key.get(prefix).copied());
    let mut longer: HashMap<&str, Vec<usize>> = HashMap::new();
    for (position, (key, _)) in pictures.iter().enumerate() {
        if plainer(key).is_none() {
            prefixes(key).for_each(|prefix| longer.entry(prefix).or_default().push(position));
        }
    }

    let mut found: Vec<Option<Written>> = pictures.iter().map(|_| None).collect();
    for (key, written) in labels {
        let exact = by_key.get(key.as_str()).copied().filter(|_| plainer(&key).is_none());
        let position = match (exact, longer.get(key.as_str()).map(Vec::as_slice)) {
            (Some(position), _) | (None, Some(&[position])) => position,
            (None, Some(&[first, second, ..])) => {
                let names = [first, second].map(|position| pictures[position].1.name.as_str());
                return Err(bad(
                    path,
                    &format!("one picture for the label {}", written.member),
                    format!("several, such as {} and {}", names[0], names[1]),
                    "give each picture a label of its own name",
                ));
            }
            (None, _) if !is_whole => continue,
            (None, _) => {
                let found = match (by_key.get(key.as_str()), plainer(&key)) {
                    (Some(&own), Some(plain)) => {
                        let [own, plain] = [own, plain].map(|position| pictures[position].1.name.as_str());
                        format!("{own}, which is passed over beside {plain}")
                    }
                    (None, Some(position)) => format!("none; the nearest is {}", pictures[position].1.name),
                    _ => "none".to_owned(),
                };
                let expected = format!("a picture for the label {}, with the same name", written.member);
                return Err(bad(path, &expected, found, "rename or remove the label, or add the picture"));
            }
        };
        match &found[position] {
            Some(other) if other.label != written.label => {
                let expected = format!("one label of {}", pictures[position].1.name);
                let found = format!("two that differ, in {} and {}", other.member, written.member);
                return Err(bad(path, &expected, found, "remove one of them"));
            }
            _ => found[position] = Some(written),
        }
    }

    let is_taken: Vec<bool> = pictures.iter().map(|(key, _)| plainer(key).is_none()).collect();
    let mut samples = Vec::new();
    for (((_, sample), written), is_taken) in pictures.into_iter().zip(found).zip(is_taken) {
        if is_taken {
            samples.push((sample, written.map(|written| written.label)));
        } else {
            rest.add_as("pictures beside one with a plainer name", path.join(sample.name));
        }
    }
    Ok(samples)
}

/// A member's key, which is its name without the last extension, and that extension in lower case.
fn split_name(name: &str) -> (&str, String) {
    let start = name.rfind('/').map_or(0, |slash| slash + 1);
    match name[start..].rfind('.') {
        None => (name, String::new()),
        Some(dot) => (&name[..start + dot], name[start + dot + 1..].to_lowercase()),
    }
}

/// The key up to each of the dots in its last part, the shortest first.
fn prefixes(key: &str) -> impl Iterator<Item = &str> {
    let start = key.rfind('/').map_or(0, |slash| slash + 1);
    key[start..].match_indices('.').map(move |(dot, _)| &key[..start + dot])
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
        .filter(|&label| label < MAX_CLASSES)
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
        codec::check_length(length, &self.location(index))?;
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

    fn checksum(&self, index: usize) -> Result<u32, DataError> {
        let Sample { shard, position, length, .. } = self.samples[index];
        checksum_at(&self.files[shard], position, length)
    }

    fn stored_bytes(&self) -> u64 {
        self.samples.iter().map(|sample| sample.length).sum()
    }

    fn skipped(&self) -> &[Skipped] {
        &self.skipped
    }

    fn passed_over(&self) -> &[PassedOver] {
        &self.passed_over
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
