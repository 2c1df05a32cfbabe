//! `cifar10`: 60,000 colour images of 32 x 32 pixels, in the binary and in the Python version.
//!
//! A. Krizhevsky, "Learning Multiple Layers of Features from Tiny Images" (2009);
//! <https://www.cs.toronto.edu/~kriz/cifar.html>, sections "Dataset layout" and "Binary version".

use std::borrow::Cow;
use std::io::Read;
use std::path::{Path, PathBuf};

use super::array::Array;
use super::decoded::Decoded;
use super::error::open_regular_file;
use super::format::{Format, Pictures};
use super::picture::{Layout, Samples};
use super::{DataError, Dataset, OpenOptions, Source, Split};
use crate::pickle::{Id, Node, Pickle};

const NAME: &str = "cifar10";
const SIZE: usize = 32;
const PIXELS: usize = 3 * SIZE * SIZE;
/// A batch holds 10,000 images, 31 MB; a file of more than this is no batch.
const MAX_FILE_BYTES: u64 = 1 << 28;
const CLASSES: [&str; 10] =
    ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"];
const ADVICE: &str = "unpack cifar-10-binary.tar.gz or cifar-10-python.tar.gz of \
    https://www.cs.toronto.edu/~kriz/cifar.html, and give the folder as `data_path`";

pub(super) const SOURCE: Source = Source {
    name: NAME,
    description: "50,000 photographs (10,000 more held out), colour, 32x32, 10 classes",
    attribution: "CIFAR-10, A. Krizhevsky, 2009; https://www.cs.toronto.edu/~kriz/cifar.html",
    open: open_by_name,
};

pub(super) const FORMAT: Format = Format {
    description: "a folder of CIFAR-10's batches, binary or Python",
    recognises: |path| files(path, Split::Train).is_some() || files(path, Split::Test).is_some(),
    open,
};

/// How a batch is written.
#[derive(Clone, Copy, PartialEq)]
enum Version {
    Binary,
    Python,
}

fn open_by_name(options: &OpenOptions) -> Result<Box<dyn Dataset>, DataError> {
    let parent = options.data_path.clone().unwrap_or_else(|| "data/cifar10".into());
    let folders = [parent.clone(), parent.join("cifar-10-batches-bin"), parent.join("cifar-10-batches-py")];
    let folder = folders.iter().find(|folder| files(folder, options.split).is_some()).ok_or_else(|| {
        DataError::Missing {
            dataset: NAME.to_owned(),
            expected: "data_batch_1.bin to data_batch_5.bin, or data_batch_1 to data_batch_5".to_owned(),
            searched: folders.to_vec(),
            advice: ADVICE.to_owned(),
        }
    })?;
    let pictures = open(folder, options)?;
    Ok(Box::new(Decoded::new(NAME.to_owned(), folder, pictures, options)?))
}

/// The batches of a split that a folder holds.
fn files(folder: &Path, split: Split) -> Option<(Version, Vec<PathBuf>)> {
    let stems: Vec<String> = match split {
        Split::Train => (1..=5).map(|batch| format!("data_batch_{batch}")).collect(),
        Split::Test => vec!["test_batch".to_owned()],
    };
    let version = |version, extension| {
        let paths: Vec<PathBuf> =
            stems.iter().map(|stem| folder.join(format!("{stem}{extension}"))).collect();
        paths.iter().any(|path| path.is_file()).then_some((version, paths))
    };
    version(Version::Binary, ".bin").or_else(|| version(Version::Python, ""))
}

fn open(folder: &Path, options: &OpenOptions) -> Result<Box<dyn Pictures>, DataError> {
    let (version, files) = files(folder, options.split).ok_or_else(|| DataError::Missing {
        dataset: NAME.to_owned(),
        expected: "the batches of this split".to_owned(),
        searched: vec![folder.to_owned()],
        advice: ADVICE.to_owned(),
    })?;
    let (mut values, mut labels, mut count) = (Vec::new(), Vec::new(), None);
    for path in &files {
        let (mut file, length) = open_regular_file(path)?;
        if length > MAX_FILE_BYTES {
            return Err(bad(path, "a batch of 31 MB", format!("{length} bytes")));
        }
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(|source| DataError::Io { path: path.clone(), source })?;
        let (batch_values, batch_labels) = match version {
            Version::Binary => parse_binary(&bytes),
            Version::Python => parse_python(&bytes),
        }
        .map_err(|(expected, found)| bad(path, expected, found))?;
        if let Some(label) = batch_labels.iter().find(|&&label| label as usize >= CLASSES.len()) {
            return Err(bad(path, "labels from 0 to 9", label.to_string()));
        }
        // The binary version does not say how many records it has; but its batches are of one size.
        if *count.get_or_insert(batch_labels.len()) != batch_labels.len() {
            let found = format!("{}: one of the two is cut short", batch_labels.len());
            return Err(bad(path, &format!("as many images as {} has", files[0].display()), found));
        }
        values.extend(batch_values);
        labels.extend(batch_labels);
    }
    Ok(Box::new(Array {
        files,
        classes: CLASSES.map(str::to_owned).to_vec(),
        height: SIZE,
        width: SIZE,
        layout: Layout::Rgb,
        planar: true,
        values: Samples::Eight(values),
        understood: None,
        other_order: None,
        labels,
    }))
}

/// Pixels \[N, 3, 32, 32\] and labels \[N\]; or what was expected, and what was found.
type Parsed = Result<(Vec<u8>, Vec<u32>), (&'static str, String)>;

/// Records of a label and the pixels.
fn parse_binary(bytes: &[u8]) -> Parsed {
    let (records, rest) = bytes.as_chunks::<{ 1 + PIXELS }>();
    if records.is_empty() || !rest.is_empty() {
        return Err(("whole records of 3073 bytes", format!("{} bytes", bytes.len())));
    }
    let values = records.iter().flat_map(|record| &record[1..]).copied().collect();
    Ok((values, records.iter().map(|record| u32::from(record[0])).collect()))
}

/// A pickled dictionary with `data`, an array of bytes \[N, 3072\], and `labels`, a list.
fn parse_python(bytes: &[u8]) -> Parsed {
    let pickle = Pickle::read(bytes).map_err(|error| ("a pickled batch", error.to_string()))?;
    let root = pickle.root();
    if !matches!(pickle.node(root), Node::Dict(_)) {
        return Err(("a pickled dictionary", pickle.kind(root)));
    }
    // the keys are byte strings in Python 2, in which the originals were written
    let data = pickle.entry(root, "data").ok_or(("`data`, an array of bytes", "none".to_owned()))?;
    let values = array_of_bytes(&pickle, data)?;
    let labels = pickle.entry(root, "labels").ok_or(("`labels`, a list", "none".to_owned()))?;
    let Node::List(labels) = pickle.node(labels) else {
        return Err(("`labels`, a list", pickle.kind(labels)));
    };
    let mut numbers = Vec::with_capacity(labels.len());
    for (image, &label) in labels.iter().enumerate() {
        let number = match pickle.node(label) {
            &Node::Int(label) => u32::try_from(label).ok().filter(|&label| (label as usize) < CLASSES.len()),
            _ => None,
        };
        let wrong =
            || ("labels that are numbers from 0 to 9", format!("{} for image {image}", pickle.kind(label)));
        numbers.push(number.ok_or_else(wrong)?);
    }
    if numbers.is_empty() || values.len() != numbers.len() * PIXELS {
        let found = format!("{} bytes for {} labels", values.len(), numbers.len());
        return Err(("3072 bytes of pixels for each label", found));
    }
    Ok((values.into_owned(), numbers))
}

/// The data of a pickled array of bytes.
///
/// NumPy pickles an array as a call: up to protocol 4 with the state that the result takes on, from 5 on with the data
/// among the arguments.
fn array_of_bytes<'p>(pickle: &'p Pickle<'_>, id: Id) -> Result<Cow<'p, [u8]>, (&'static str, String)> {
    const EXPECTED: &str = "`data`, an array of bytes (uint8)";
    if let Some(bytes) = pickle.bytes(id) {
        return Ok(bytes);
    }
    let other = |id| (EXPECTED, pickle.kind(id));
    let call = pickle.call(id).ok_or_else(|| other(id))?;
    let state = call.state.map(|state| pickle.node(state));
    let (dtype, is_transposed, data) = match (call.name, state) {
        ("_reconstruct", Some(Node::Tuple(state))) => match state[..] {
            [_, _, dtype, fortran, data] => (dtype, *pickle.node(fortran) != Node::Bool(false), data),
            _ => return Err(other(id)),
        },
        ("_frombuffer", None) => match *call.arguments {
            [data, dtype, _, order] => {
                (dtype, !matches!(pickle.node(order), Node::Text(order) if order == "C"), data)
            }
            _ => return Err(other(id)),
        },
        _ => return Err((EXPECTED, format!("a call of {}.{}", call.module, call.name))),
    };
    let name = pickle.call(dtype).and_then(|dtype| dtype.arguments.first().copied());
    let name = match name.map(|name| pickle.node(name)) {
        Some(Node::Text(name)) => name.as_bytes(),
        Some(Node::Bytes(name)) => name,
        _ => return Err(other(dtype)),
    };
    if !matches!(name, b"u1" | b"|u1") {
        return Err((
            EXPECTED,
            format!("an array of the dtype {}", String::from_utf8_lossy(name).escape_default()),
        ));
    }
    if is_transposed {
        return Err((EXPECTED, "an array in Fortran order".to_owned()));
    }
    pickle.bytes(data).ok_or_else(|| other(data))
}

fn bad(path: &Path, expected: &str, found: String) -> DataError {
    DataError::BadFile {
        path: path.to_owned(),
        expected: expected.to_owned(),
        found,
        advice: "download CIFAR-10 and unpack it again".to_owned(),
    }
}

#[cfg(test)]
mod tests;
