//! NumPy's files: `.npy` with images, `.npz` with images and labels.
//!
//! Images are \[N, H, W\], \[N, H, W, C\] or \[N, C, H, W\], as 8 or 16 bits, or as floating point in \[0, 1\], in
//! \[-1, 1\] or in \[0, 255\]. They are held in memory.

use std::borrow::Cow;
use std::fs;
use std::io::{Cursor, Read};
use std::path::{Path, PathBuf};

use half::f16;

use super::array::Array;
use super::error::{MAX_DEFLATE_RATIO, open_regular_file};
use super::format::{Format, Pictures};
use super::picture::{Layout, Samples};
use super::{DataError, OpenOptions, Split, require_train};
use crate::output::split_npy;

pub(super) const FORMAT: Format = Format {
    description: "a NumPy file, .npy or .npz",
    recognises: |path| path.is_file() && (has_extension(path, "npy") || has_extension(path, "npz")),
    open,
};

/// What the images of an `.npz` may be called, by split; the first that is there is taken. The names are those of our
/// own documentation, of Keras, of MedMNIST, of guided-diffusion's batches and of `numpy.savez` without names.
const IMAGES: [(Split, &[&str]); 2] = [
    (Split::Train, &["images", "x_train", "train_images", "x", "data", "arr_0"]),
    (Split::Test, &["x_test", "test_images"]),
];
const LABELS: [(Split, &[&str]); 2] = [
    (Split::Train, &["labels", "y_train", "train_labels", "y", "arr_1"]),
    (Split::Test, &["y_test", "test_labels"]),
];

/// More classes than any dataset has.
const MAX_CLASSES: u64 = 1 << 20;
const AGAIN: &str = "the file may have been cut short: write it again";

fn has_extension(path: &Path, extension: &str) -> bool {
    path.extension().is_some_and(|found| found.eq_ignore_ascii_case(extension))
}

/// What is wrong: what was expected, what was found, what to do.
type Wrong = (String, String, &'static str);

fn open(path: &Path, options: &OpenOptions) -> Result<Box<dyn Pictures>, DataError> {
    let (_, length) = open_regular_file(path)?;
    let bytes = fs::read(path).map_err(|source| DataError::Io { path: path.to_owned(), source })?;
    let bad = |(expected, found, advice): Wrong| DataError::BadFile {
        path: path.to_owned(),
        expected,
        found,
        advice: advice.to_owned(),
    };
    let (images, labels) = if has_extension(path, "npy") {
        require_train(&path.display().to_string(), options.split, "give the file of the held-out images")?;
        (bytes, None)
    } else {
        unpack(&bytes, length, options.split).map_err(bad)?
    };
    let mut array = parse_images(&images, path).map_err(bad)?;
    if let Some(labels) = labels {
        array.labels = parse_labels(&labels, array.len()).map_err(bad)?;
        let classes = array.labels.iter().max().map_or(0, |&label| label + 1);
        array.classes = (0..classes).map(|class| class.to_string()).collect();
    }
    Ok(Box::new(array))
}

/// The images and the labels of an `.npz`, each as an `.npy`.
fn unpack(bytes: &[u8], length: u64, split: Split) -> Result<(Vec<u8>, Option<Vec<u8>>), Wrong> {
    let damaged = |error: String| ("a whole .npz file".to_owned(), error, AGAIN);
    let mut archive = zip::ZipArchive::new(Cursor::new(bytes)).map_err(|error| damaged(error.to_string()))?;
    let names: Vec<String> = archive.file_names().flatten().map(Cow::into_owned).collect();
    let find = |table: &[(Split, &[&str]); 2]| {
        let wanted = table.iter().find(|(known, _)| *known == split).map_or(&[][..], |(_, names)| names);
        wanted.iter().map(|name| format!("{name}.npy")).find(|name| names.contains(name))
    };
    let Some(images) = find(&IMAGES) else {
        let wanted: Vec<&str> = IMAGES
            .iter()
            .filter(|(known, _)| *known == split)
            .flat_map(|(_, names)| *names)
            .copied()
            .collect();
        let found = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
        let expected = format!("an array of images called {}", wanted.join(", "));
        return Err((expected, found, "save it with numpy.savez(path, images=..., labels=...)"));
    };
    let mut extract = |name: &str| {
        let mut file = archive.by_name(name).map_err(|error| damaged(error.to_string()))?;
        let size = file.size();
        if size > length.saturating_mul(MAX_DEFLATE_RATIO) {
            return Err(damaged(format!("{name} claims {size} bytes")));
        }
        let mut bytes = Vec::new();
        // at the end the reader compares the checksum
        file.read_to_end(&mut bytes).map_err(|error| damaged(format!("{name}: {error}")))?;
        Ok(bytes)
    };
    let labels = find(&LABELS).map(|name| extract(&name)).transpose()?;
    Ok((extract(&images)?, labels))
}

/// An array's shape, element type and data in C order.
fn split_array<'a>(bytes: &'a [u8], what: &str) -> Result<(Vec<usize>, String, &'a [u8]), Wrong> {
    let (header, data) =
        split_npy(bytes).map_err(|problem| (problem.expected.to_owned(), problem.found, problem.advice))?;
    if header.fortran_order {
        let expected = format!("{what} in C order");
        return Err((expected, "Fortran order".to_owned(), "save numpy.ascontiguousarray(x)"));
    }
    let size: usize = header.descr.get(2..).and_then(|size| size.parse().ok()).unwrap_or(0);
    let count = header.shape.iter().try_fold(1, |count: usize, &size| count.checked_mul(size));
    if size == 0 || count.and_then(|count| count.checked_mul(size)) != Some(data.len()) {
        let found = format!("{} bytes for the shape {:?} of {}", data.len(), header.shape, header.descr);
        return Err((format!("{what}, as many as their shape has"), found, AGAIN));
    }
    Ok((header.shape, header.descr, data))
}

fn parse_images(bytes: &[u8], path: &Path) -> Result<Array, Wrong> {
    let (shape, descr, data) = split_array(bytes, "images")?;
    let layout = |channels: usize| match channels {
        1 => Some(Layout::Grey),
        2 => Some(Layout::GreyAlpha),
        3 => Some(Layout::Rgb),
        4 => Some(Layout::Rgba),
        _ => None,
    };
    let found = match *shape.as_slice() {
        [n, h, w] => Some((n, h, w, Layout::Grey, false)),
        [n, a, b, c] => match (layout(c), layout(a)) {
            (Some(layout), _) => Some((n, a, b, layout, false)),
            (None, Some(layout)) => Some((n, b, c, layout, true)),
            (None, None) => None,
        },
        _ => None,
    };
    let found = found.filter(|&(n, height, width, ..)| n > 0 && height > 0 && width > 0);
    let Some((_, height, width, layout, planar)) = found else {
        let expected = "images (N, H, W), (N, H, W, C) or (N, C, H, W) with 1 to 4 channels";
        return Err((expected.to_owned(), format!("the shape {shape:?}"), "give the array that shape"));
    };
    let little = |pair: &[u8; 2]| u16::from_le_bytes(*pair);
    let values = match descr.as_str() {
        "|u1" => Samples::Eight(data.to_vec()),
        "|b1" => Samples::Eight(data.iter().map(|&value| if value == 0 { 0 } else { u8::MAX }).collect()),
        "<u2" => Samples::Sixteen(data.as_chunks().0.iter().map(little).collect()),
        "<f2" => floats(data.as_chunks().0.iter().map(|pair| f16::from_bits(little(pair)).to_f32()))?,
        "<f4" => floats(data.as_chunks().0.iter().map(|&bytes| f32::from_le_bytes(bytes)))?,
        "<f8" => floats(data.as_chunks().0.iter().map(|&bytes| f64::from_le_bytes(bytes) as f32))?,
        other => {
            let expected = "uint8, uint16, bool, float16, float32 or float64".to_owned();
            return Err((expected, format!("the dtype {other}"), "convert it with x.astype(\"uint8\")"));
        }
    };
    Ok(Array {
        files: vec![PathBuf::from(path)],
        classes: Vec::new(),
        height,
        width,
        layout,
        planar,
        values,
        labels: Vec::new(),
    })
}

/// Floating-point values brought to \[0, 1\]; which range they are in shows from the least and the largest of them.
fn floats(values: impl Iterator<Item = f32>) -> Result<Samples, Wrong> {
    let mut values: Vec<f32> = values.collect();
    let (mut least, mut largest) = (f32::INFINITY, f32::NEG_INFINITY);
    for &value in &values {
        if !value.is_finite() {
            return Err(("numbers".to_owned(), value.to_string(), "replace it"));
        }
        (least, largest) = (least.min(value), largest.max(value));
    }
    let (offset, scale) = match (least, largest) {
        (0.0.., ..=1.0) => (0.0, 1.0),
        (-1.0.., ..=1.0) => (1.0, 2.0),
        (0.0.., ..=255.0) => (0.0, 255.0),
        _ => {
            let expected = "values in [0, 1], in [-1, 1] or in [0, 255]".to_owned();
            return Err((expected, format!("{least} to {largest}"), "scale the images"));
        }
    };
    for value in &mut values {
        *value = (*value + offset) / scale;
    }
    Ok(Samples::Float(values))
}

fn parse_labels(bytes: &[u8], images: usize) -> Result<Vec<u32>, Wrong> {
    let (shape, descr, data) = split_array(bytes, "labels")?;
    if !matches!(*shape.as_slice(), [n] | [n, 1] if n == images) {
        let expected = format!("{images} labels, one for each image");
        return Err((expected, format!("the shape {shape:?}"), "give one number for each image"));
    }
    let size = data.len() / images;
    if !matches!(&descr[..2], "|u" | "|i" | "<u" | "<i") || size > 8 {
        let expected = "labels that are integers".to_owned();
        return Err((expected, format!("the dtype {descr}"), "convert them with y.astype(\"int64\")"));
    }
    data.chunks_exact(size)
        .map(|bytes| {
            let mut wide = [0; 8];
            wide[..size].copy_from_slice(bytes);
            let label = u64::from_le_bytes(wide);
            // a negative number is a large one here
            if label < MAX_CLASSES.min(1 << (8 * size - 1).min(63))
                || (descr.contains('u') && label < MAX_CLASSES)
            {
                Ok(label as u32)
            } else {
                let found = format!("the bytes {bytes:02x?}");
                Err(("labels from 0 up".to_owned(), found, "number the classes from 0"))
            }
        })
        .collect()
}

#[cfg(test)]
mod tests;
