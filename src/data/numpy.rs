//! NumPy's files: `.npy` with images, `.npz` with images and labels.
//!
//! Images are \[N, H, W\], \[N, H, W, C\] or \[N, C, H, W\], which `axes` tells apart, of integers, truth values or
//! floats, in the ranges of `value_range`. They are read piece by piece and held in memory once.

use std::borrow::Cow;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use super::array::Array;
use super::axes::{ArrayOrder, Axes, Wanted};
use super::error::{most_decompressed, open_regular_file};
use super::format::{Format, Pictures};
use super::picture::{Layout, Samples};
use super::value_range::{Elements, Scale, Unclear, ValueRange};
use super::{DataError, MAX_CLASSES, OpenOptions, Split, require_train};
use crate::image_size::{are_swapped, in_words};
use crate::output::nchw_to_nhwc;
use crate::output::npy::{Header, Kind, Problem, WHOLE, floats, in_c_order, integers, problem, reserve};

pub(super) const FORMAT: Format = Format {
    description: "a NumPy file, .npy or .npz",
    recognises: |path| path.is_file() && (has_extension(path, "npy") || has_extension(path, "npz")),
    open,
};

/// Names of the images in an `.npz`, by split; the first that is there is taken. The names are those of our
/// own documentation, of Keras, of MedMNIST, of guided-diffusion's batches and of `numpy.savez` without names.
const IMAGES: [(Split, &[&str]); 2] = [
    (Split::Train, &["images", "x_train", "train_images", "x", "data", "arr_0"]),
    (Split::Test, &["x_test", "test_images"]),
];
const LABELS: [(Split, &[&str]); 2] = [
    (Split::Train, &["labels", "y_train", "train_labels", "y", "arr_1"]),
    (Split::Test, &["y_test", "test_labels"]),
];

const TO_NUMBERS: &str = "make it one array of numbers, such as by numpy.stack(list(x)).astype(\"uint8\")";
const NUMBER_CLASSES: &str =
    "number the classes from 0, such as by numpy.unique(labels, return_inverse=True)[1]";

fn has_extension(path: &Path, extension: &str) -> bool {
    path.extension().is_some_and(|found| found.eq_ignore_ascii_case(extension))
}

fn bad_file(path: &Path, Problem { expected, found, advice }: Problem) -> DataError {
    DataError::BadFile { path: path.to_owned(), expected, found, advice: advice.to_owned() }
}

fn open(path: &Path, options: &OpenOptions) -> Result<Box<dyn Pictures>, DataError> {
    let (file, length) = open_regular_file(path)?;
    let file = BufReader::new(file);
    let array = if has_extension(path, "npy") {
        require_train(&path.display().to_string(), options.split, "give the file of the held-out images")?;
        read_images(file, length).and_then(|images| pictures(images, path, options))
    } else {
        unpack(file, length, options, path)
    };
    Ok(Box::new(array.map_err(|problem| bad_file(path, problem))?))
}

/// The images and the labels of an `.npz`.
fn unpack(
    mut file: BufReader<File>,
    length: u64,
    options: &OpenOptions,
    path: &Path,
) -> Result<Array, Problem> {
    let split = options.split;
    if !file.fill_buf().map_err(|error| damaged(error.into()))?.starts_with(b"PK") {
        return Err(problem(
            "a .npz file",
            "another format",
            "save it with numpy.savez(path, images=..., labels=...)",
        ));
    }
    let mut archive = zip::ZipArchive::new(file).map_err(damaged)?;
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
        return Err(problem(expected, found, "save it with numpy.savez(path, images=..., labels=...)"));
    };
    let labels = find(&LABELS);
    let named = |name: String| {
        move |problem: Problem| Problem { found: format!("{} in {name}", problem.found), ..problem }
    };
    let (reader, size) = member(&mut archive, &images, length)?;
    let images = read_images(reader, size)
        .and_then(|images| pictures(images, path, options))
        .map_err(named(images))?;
    let Some(labels) = labels else { return Ok(images) };
    let (reader, size) = member(&mut archive, &labels, length)?;
    let labels = read_labels(reader, size, images.len()).map_err(named(labels))?;
    let classes = labels.iter().max().map_or(0, |&label| label + 1);
    Ok(Array { labels, classes: (0..classes).map(|class| class.to_string()).collect(), ..images })
}

fn damaged(error: zip::result::ZipError) -> Problem {
    problem("a whole .npz file", error.to_string(), WHOLE)
}

/// An array of an `.npz` of `length` bytes, and the number of bytes that it claims.
fn member<'a>(
    archive: &'a mut zip::ZipArchive<BufReader<File>>,
    name: &str,
    length: u64,
) -> Result<(impl Read + 'a, u64), Problem> {
    let member = archive.by_name(name).map_err(damaged)?;
    let (size, most) = (member.size(), most_decompressed(length));
    if size > most {
        let expected = format!("arrays of at most {most} bytes in a file of {length}");
        let advice = "if that is what they are, save them with numpy.savez rather than savez_compressed";
        return Err(problem(expected, format!("{name} of {size} bytes"), advice));
    }
    Ok((BufReader::new(member), size))
}

/// An array of images in C order, and what its numbers stand for.
struct Images {
    shape: Vec<usize>,
    /// Integers are scaled to the whole range of their type; floats are as the file has them.
    values: Samples,
    range: ValueRange,
    /// The order of the axes, where the file is known to have it.
    order: Option<ArrayOrder>,
}

/// Reads the images of an `.npy` of `length` bytes.
fn read_images(mut reader: impl Read, length: u64) -> Result<Images, Problem> {
    let reader = &mut reader;
    let header = Header::read(reader, "images", TO_NUMBERS)?;
    let count = header.count(length, "images")?;
    if count == 0 {
        let found = format!("the shape {:?}", header.shape);
        return Err(problem("at least one image", found, "write the file again with images in it"));
    }
    let unclear = |Unclear { expected, found, advice }| {
        problem(expected, format!("{found} of the dtype {}", header.dtype.name), advice)
    };
    let elements = match (header.dtype.kind, header.dtype.size) {
        (Kind::Bool, _) => Elements::Bool,
        (Kind::Unsigned, 1) => Elements::Byte,
        (Kind::Unsigned | Kind::Signed, _) => Elements::Integer,
        (Kind::Float, _) if header.is_own => Elements::OwnFloat,
        (Kind::Float, _) => Elements::Float,
    };
    let (values, range) = match elements {
        Elements::Float | Elements::OwnFloat => {
            let values = floats(reader, &header, count)?;
            let least = values.iter().copied().fold(f32::INFINITY, f32::min);
            let largest = values.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            (Samples::Float(values), ValueRange::of(elements, least, largest).map_err(unclear)?)
        }
        Elements::Bool | Elements::Byte => {
            let mut values: Vec<u8> = reserve(count)?;
            integers(reader, &header, count, |_, value| {
                values.push(value as u8);
                Ok(())
            })?;
            let (least, largest) = extremes(&values);
            let range = ValueRange::of(elements, least.into(), largest.into()).map_err(unclear)?;
            if range.scale == Scale::Unit {
                values.iter_mut().for_each(|value| *value *= u8::MAX);
            }
            (Samples::Eight(in_c_order(values, &header)), range)
        }
        Elements::Integer => {
            let mut values: Vec<u16> = reserve(count)?;
            integers(reader, &header, count, |place, value| {
                let value = u16::try_from(value).map_err(|_| {
                    let found = format!("{value} at index {:?}", header.index(place));
                    problem("whole numbers from 0 to 65535", found, "scale the images to 0..255")
                })?;
                values.push(value);
                Ok(())
            })?;
            let (least, largest) = extremes(&values);
            let range = ValueRange::of(elements, least.into(), largest.into()).map_err(unclear)?;
            let values = in_c_order(values, &header);
            let bytes = |factor| Samples::Eight(values.iter().map(|&value| value as u8 * factor).collect());
            let values = match range.scale {
                Scale::Unit => bytes(u8::MAX),
                Scale::Words => Samples::Sixteen(values),
                Scale::Bytes | Scale::Signed => bytes(1),
            };
            (values, range)
        }
    };
    let order = header.is_own.then_some(ArrayOrder::ChannelsFirst);
    Ok(Images { shape: header.shape, values, range, order })
}

fn extremes<T: Copy + Ord + Default>(values: &[T]) -> (T, T) {
    let least = values.iter().copied().min().unwrap_or_default();
    (least, values.iter().copied().max().unwrap_or_default())
}

/// What was taken for what, for people.
fn understood(range: &ValueRange, axes: &Axes) -> String {
    match axes.order {
        Some(order) => {
            let channels = if axes.channels == 1 { "channel" } else { "channels" };
            format!("{range}; axes {order}, {} {channels} of {}", axes.channels, in_words(axes.size))
        }
        None => range.to_string(),
    }
}

/// The images of a dataset.
///
/// A model that takes one or three channels gets grey or colour, with alpha over white where the array has a channel
/// more; others get the channels as they are.
fn pictures(images: Images, path: &Path, options: &OpenOptions) -> Result<Array, Problem> {
    let Images { shape, mut values, range, order } = images;
    let wanted =
        Wanted { channels: options.channels, size: options.image_size, order: options.array_order.or(order) };
    let Some(axes) = Axes::of(&shape, wanted) else {
        let expected = "images (N, H, W), (N, H, W, C) or (N, C, H, W)";
        return Err(problem(expected, format!("the shape {shape:?}"), "give the array that shape"));
    };
    let is_colour = options.channels.is_some_and(|channels| [1, 3].contains(&channels));
    let (layout, alpha) = match axes.channels {
        1 => (Layout::Grey, ""),
        2 if is_colour => (Layout::GreyAlpha, ", taken as grey and alpha, over white"),
        3 => (Layout::Rgb, ""),
        4 if is_colour => (Layout::Rgba, ", taken as colour and alpha, over white"),
        channels => (Layout::Planes(channels), ""),
    };
    if let Samples::Float(values) = &mut values {
        values.iter_mut().for_each(|value| *value = range.to_unit(*value));
    }
    let [height, width] = axes.size;
    Ok(Array {
        files: vec![PathBuf::from(path)],
        classes: Vec::new(),
        height,
        width,
        layout,
        planar: axes.order == Some(ArrayOrder::ChannelsFirst),
        values,
        understood: Some(understood(&range, &axes) + alpha),
        other_order: axes.order.filter(|_| axes.is_guess).map(ArrayOrder::other),
        labels: Vec::new(),
    })
}

/// Images of an array.
#[derive(Clone, Debug, PartialEq)]
pub struct ArrayImages {
    /// `[N, H, W, C]`
    pub shape: [usize; 4],
    /// Values in -1..1; of a file that this program wrote, as it wrote them.
    pub data: Vec<f32>,
    /// What the file's numbers and axes were taken for, for people.
    pub understood: String,
    /// The order that the axes may have instead, where the one that was taken is a guess.
    pub other_order: Option<ArrayOrder>,
}

/// Reads the images of an `.npy` file as they are, in the ranges that a dataset may have.
///
/// The shape is \[N, C, H, W\] or \[N, H, W, C\], by the rule of datasets, and must have `channels` and `size`,
/// height and width, where these are given; \[N, H, W\] and \[H, W\] are grey.
///
/// # Errors
/// When the file cannot be read, has another shape, or its numbers have no clear range.
pub fn read_array(
    path: &Path,
    channels: Option<usize>,
    size: Option<[usize; 2]>,
) -> Result<ArrayImages, DataError> {
    let (file, length) = open_regular_file(path)?;
    let bad = |problem| bad_file(path, problem);
    let Images { shape, values, range, order } = read_images(BufReader::new(file), length).map_err(bad)?;
    let of_images = if let [h, w] = shape[..] { vec![1, h, w] } else { shape.clone() };
    let found = Axes::of(&of_images, Wanted { channels, size, order });
    let fits = |axes: &Axes| {
        channels.is_none_or(|channels| channels == axes.channels) && size.is_none_or(|size| size == axes.size)
    };
    let Some(axes) = found.filter(fits) else {
        let channels = channels.map_or("C".to_owned(), |channels| channels.to_string());
        let [h, w] = size.map_or(["H".to_owned(), "W".to_owned()], |size| size.map(|side| side.to_string()));
        let is_swapped = size.zip(found).is_some_and(|(size, axes)| are_swapped(size, axes.size));
        let advice = match is_swapped {
            true => "height and width are swapped: exchange these axes, such as by numpy.swapaxes",
            false => "crop or resize them before they are saved, or make the channels fit",
        };
        let expected = format!("images [N, C, H, W] = [N, {channels}, {h}, {w}], or with the channels last");
        return Err(bad(problem(expected, format!("the shape {shape:?}"), advice)));
    };
    let data: Vec<f32> = match values {
        Samples::Eight(values) => values.into_iter().map(|v| 2.0 * (f32::from(v) / 255.0) - 1.0).collect(),
        Samples::Sixteen(values) => {
            values.into_iter().map(|v| 2.0 * (f32::from(v) / 65535.0) - 1.0).collect()
        }
        Samples::Float(mut values) => {
            values.iter_mut().for_each(|value| *value = range.to_signed(*value));
            values
        }
    };
    let (n, c, [h, w]) = (of_images[0], axes.channels, axes.size);
    let is_planar = c > 1 && axes.order == Some(ArrayOrder::ChannelsFirst);
    let data = if is_planar { nchw_to_nhwc(&data, [n, c, h, w]) } else { data };
    Ok(ArrayImages {
        shape: [n, h, w, c],
        data,
        understood: understood(&range, &axes),
        other_order: axes.order.filter(|_| axes.is_guess).map(ArrayOrder::other),
    })
}

/// Reads the labels of an `.npy` of `length` bytes.
fn read_labels(mut reader: impl Read, length: u64, images: usize) -> Result<Vec<u32>, Problem> {
    let reader = &mut reader;
    let header = Header::read(reader, "labels", NUMBER_CLASSES)?;
    if !matches!(*header.shape.as_slice(), [n] | [n, 1] if n == images) {
        let advice = match header.shape[..] {
            [n, _] if n == images => {
                "give one number for each image; of one-hot rows, numpy.argmax(labels, axis=1)"
            }
            _ => "give one number for each image",
        };
        let found = format!("the shape {:?}", header.shape);
        return Err(problem(format!("{images} labels, one for each image"), found, advice));
    }
    if header.dtype.kind == Kind::Float {
        let found = format!("the dtype {}", header.dtype.name);
        return Err(problem(
            "labels that are whole numbers",
            found,
            "convert them with labels.astype(\"int64\")",
        ));
    }
    let count = header.count(length, "labels")?;
    let mut labels = reserve(count)?;
    integers(reader, &header, count, |image, value| {
        let label = u32::try_from(value).ok().filter(|&label| label < MAX_CLASSES);
        let wrong = || {
            let expected = format!("labels from 0 to {}", MAX_CLASSES - 1);
            problem(expected, format!("{value} for image {image}"), NUMBER_CLASSES)
        };
        labels.push(label.ok_or_else(wrong)?);
        Ok(())
    })?;
    Ok(labels)
}

#[cfg(test)]
mod tests;
