//! Images that a command is given, and the files that it writes them to.

use std::path::Path;

use anyhow::bail;
use ddpm_gpu::data::{self, Batch, OpenOptions};
use ddpm_gpu::output::{nchw_to_nhwc, nhwc_to_nchw, read_npy, write_npy};
use ddpm_gpu::sample::Images;

/// How the help text describes what [`read_images`] takes.
pub(super) const SOURCES: &str =
    "an image file, a folder of images, floats [N, C, H, W] in -1..1 as .npy, or a data set's name or path";

/// Images of an image file, an .npy file, a folder or a data set: of the first `limit` images, where there are more.
///
/// Image files are cropped to a square and resized to `size`; arrays must have it. Without `channels`, a file has its own.
pub(super) fn read_images(
    source: &str,
    channels: Option<usize>,
    size: Option<usize>,
    limit: usize,
) -> anyhow::Result<Images> {
    let path = Path::new(source);
    if path.extension().is_some_and(|found| found.eq_ignore_ascii_case("npy")) {
        let ([n, c, h, w], data) = read_npy(path)?;
        if channels.is_some_and(|channels| channels != c) || size.is_some_and(|size| [size; 2] != [h, w]) {
            let wanted = |size: Option<usize>| size.map_or("any".to_owned(), |size| size.to_string());
            let (channels, size) = (wanted(channels), wanted(size));
            bail!(
                "{source} is [N, C, H, W] = [{n}, {c}, {h}, {w}]; expected [N, {channels}, {size}, {size}]"
            );
        }
        let data = nchw_to_nhwc(&data, [n, c, h, w]);
        let n = n.min(limit);
        return Ok(Images { shape: [n, h, w, c], data: data[..n * h * w * c].to_vec() });
    }
    if data::is_image(path) && !path.is_dir() {
        let (shape, data) = data::read_image(path, channels, size)?;
        return Ok(Images { shape: [1, shape.height, shape.width, shape.channels], data });
    }
    let options = OpenOptions { channels, image_size: size, ..OpenOptions::default() };
    let dataset = data::open(source, &options)?;
    let shape = dataset.image_shape();
    let count = dataset.len().min(limit);
    let data = Batch::read(&*dataset, 0..count)?.images;
    Ok(Images { shape: [count, shape.height, shape.width, shape.channels], data })
}

/// Writes images as floats `[N, C, H, W]`.
pub(super) fn write_floats(path: &Path, images: &Images) -> anyhow::Result<()> {
    let [n, h, w, c] = images.shape;
    write_npy(path, [n, c, h, w], &nhwc_to_nchw(&images.data, images.shape))?;
    eprintln!("wrote {}", path.display());
    Ok(())
}
