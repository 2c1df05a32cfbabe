//! Images that a command is given, and the files that it writes them to.

use std::path::{Path, PathBuf};

use anyhow::bail;
use ddpm_gpu::data::{self, ArrayImages, Batch, OpenOptions};
use ddpm_gpu::output::{
    GridOptions, check_writable, describe_strips, nchw_to_nhwc, nhwc_to_nchw, read_npy, tile, write_npy,
};
use ddpm_gpu::sample::Images;

use super::dataset::doubts;

/// How the help text describes what [`read_images`] takes.
pub(super) const SOURCES: &str = "an image file, a folder of images, an .npy array [N, C, H, W] or [N, H, W, C], or \
    a data set's name or path. Floats of an array are taken as 0..1, as -1..1 where some are below 0, or as 0..255, \
    and whole numbers as 0..1, 0..255 or 0..65535, by the least and the largest of them; what ddpm-gpu wrote is taken \
    as it is";

/// Images of an image file, an .npy file, a folder or a data set: of the first `limit` images, where there are more.
///
/// Image files are cropped to the proportions of `size`, height and width, and resized to it; arrays must have it.
/// Without `channels`, a file has its own.
pub(super) fn read_images(
    source: &str,
    channels: Option<usize>,
    size: Option<[usize; 2]>,
    limit: usize,
) -> anyhow::Result<Images> {
    let path = Path::new(source);
    if path.extension().is_some_and(|found| found.eq_ignore_ascii_case("npy")) {
        let ArrayImages { shape: [n, h, w, c], mut data, understood, other_order } =
            data::read_array(path, channels, size)?;
        eprintln!("{source}: {understood}");
        if let Some(order) = other_order {
            eprintln!(
                "note: {source}: the shape of the array leaves the order of its axes open; if it is {order}, \
                 transpose it, such as by numpy.moveaxis"
            );
        }
        let n = n.min(limit);
        data.truncate(n * h * w * c);
        return Ok(Images { shape: [n, h, w, c], data });
    }
    if data::is_image(path) && !path.is_dir() {
        let (shape, data) = data::read_image(path, channels, size)?;
        return Ok(Images { shape: [1, shape.height, shape.width, shape.channels], data });
    }
    let options = OpenOptions { channels, image_size: size, ..OpenOptions::default() };
    let dataset = data::open(source, &options)?;
    for text in doubts(&*dataset) {
        eprintln!("{source}: {text}");
    }
    if let Some(understood) = dataset.understood() {
        eprintln!("{source}: {understood}");
    }
    let shape = dataset.image_shape();
    let count = dataset.len().min(limit);
    let data = Batch::read(&*dataset, 0..count)?.images;
    Ok(Images { shape: [count, shape.height, shape.width, shape.channels], data })
}

/// Numbers beyond this are no x_t: noise of a normal distribution stays far below it.
const LARGE: f32 = 20.0;

/// A batch `[N, C, H, W]` of floats, as the network takes them.
pub(super) fn read_floats(path: &Path) -> anyhow::Result<Images> {
    let ([n, c, h, w], data) = read_npy(path)?;
    let largest = data.iter().fold(0.0_f32, |largest, value| largest.max(value.abs()));
    if largest > LARGE {
        eprintln!(
            "warning: {}: the largest number is {largest}; the network is used to noise of standard deviation 1 and to \
             images of -1 to 1, and the numbers are given to it as they are",
            path.display()
        );
    }
    Ok(Images { shape: [n, h, w, c], data: nchw_to_nhwc(&data, [n, c, h, w]) })
}

/// Writes images as floats `[N, C, H, W]`.
pub(super) fn write_floats(path: &Path, images: &Images) -> anyhow::Result<()> {
    let [n, h, w, c] = images.shape;
    write_npy(path, [n, c, h, w], &nhwc_to_nchw(&images.data, images.shape))?;
    eprintln!("wrote {}", path.display());
    Ok(())
}

/// Writes a grid of images as a PNG, and says so.
pub(super) fn write_grid(path: &Path, images: &Images, columns: Option<usize>) -> anyhow::Result<()> {
    let options = GridOptions { columns, ..GridOptions::default() };
    tile(&images.data, images.shape, &options)?.write_png(path)?;
    wrote_grid(path, images.shape[3]);
    Ok(())
}

/// Says that a picture of images of so many channels was written, and what is seen in it.
pub(super) fn wrote_grid(path: &Path, channels: usize) {
    let strips = describe_strips(channels).map_or(String::new(), |strips| format!(": {strips}"));
    eprintln!("wrote {}{strips}", path.display());
}

/// Looks whether files can be written, before the work is done that is to be in them.
pub(super) fn check_outputs<'a>(paths: impl IntoIterator<Item = Option<&'a PathBuf>>) -> anyhow::Result<()> {
    let mut known: Vec<&Path> = Vec::new();
    for path in paths.into_iter().flatten() {
        if known.contains(&path.as_path()) {
            bail!(
                "{}: two results would be written to this file; give each a name of its own",
                path.display()
            );
        }
        check_writable(path)?;
        known.push(path);
    }
    Ok(())
}
