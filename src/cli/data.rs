//! `ddpm-gpu data`

use std::path::PathBuf;

use anyhow::bail;
use ddpm_gpu::data::{self, Dataset, OpenOptions, Skipped, Split};
use ddpm_gpu::image_size::in_words;
use ddpm_gpu::network::SampleSize;
use ddpm_gpu::output;
use ddpm_gpu::sample::Images;

use super::bounds::{MOST, count_in, parse_image_size};
use super::dataset::{DatasetArgs, describe, describe_passed_over, doubts};
use super::images::write_grid;

/// Show what training sees in a data set
///
/// Every image is decoded. Counts by class, sizes and colour modes go to standard output, as do files that cannot be
/// read; --output draws some of the images as the model would get them.
#[derive(clap::Args)]
pub(super) struct Args {
    /// A folder of images (PNG, JPEG, WebP, GIF, BMP, TIFF, Netpbm), a .npy or .npz file, WebDataset tar files, a
    /// folder of CIFAR-10's or of MNIST's files; or a name: digits, fashion-mnist, cifar10
    #[arg(value_name = "NAME|PATH")]
    dataset: String,
    /// Contact sheet: a row for each of the first 16 classes, or 64 images that are spread over the data set
    #[arg(long, value_name = "FILE.png")]
    output: Option<PathBuf>,
    /// Size of the images on the sheet, a model's: WIDTHxHEIGHT, such as 64x32, or one number for a square; by
    /// default that of the first image
    #[arg(long, value_name = "N|WxH", value_parser = parse_image_size)]
    image_size: Option<SampleSize>,
    /// Channels of the images on the sheet, a model's in_channels; by default the data set's own
    #[arg(long, value_name = "N", value_parser = count_in(1..=MOST))]
    channels: Option<usize>,
    /// Look at the held-out images instead of those for training
    #[arg(long)]
    test: bool,
    #[command(flatten)]
    data: DatasetArgs,
}

/// Images in a row of the sheet.
const COLUMNS: usize = 8;
/// Rows of the sheet for a data set with many classes.
const MAX_ROWS: usize = 16;
/// Sizes, modes and files that are listed.
const LISTED: usize = 20;

pub(super) fn run(args: &Args) -> anyhow::Result<()> {
    if let Some(path) = &args.output {
        output::check_writable(path)?;
    }
    let options = OpenOptions {
        image_size: args.image_size.map(SampleSize::sides),
        channels: args.channels,
        skip_bad_images: true,
        split: if args.test { Split::Test } else { Split::Train },
        ..args.data.options()
    };
    let dataset = data::open(&args.dataset, &options)?;
    let survey = data::survey(dataset.as_ref());
    let shape = dataset.image_shape();
    println!("{}", describe(dataset.as_ref()));
    for text in doubts(dataset.as_ref()) {
        println!("{text}");
    }

    if !dataset.classes().is_empty() {
        println!("\nclasses:");
        let width = survey.counts.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
        for (label, (name, count)) in survey.counts.iter().enumerate() {
            println!("  {label:4}  {name:width$}  {count:7}");
        }
    }
    println!("\nsizes in the files, width x height:");
    let sizes = survey.sizes.iter().map(|(&[width, height], &count)| (in_words([height, width]), count));
    list(sizes.collect());
    println!("\ncolour in the files:");
    list(survey.modes.into_iter().collect());
    println!("\nas read: {}, {}", in_words([shape.height, shape.width]), shape.mode());
    print_bad(&survey.bad);
    if let Some(text) = describe_passed_over(dataset.passed_over()) {
        println!("{text}");
    }

    if let Some(path) = &args.output {
        draw(dataset.as_ref(), path)?;
    }
    Ok(())
}

/// Prints counts, the most frequent first.
fn list(mut counts: Vec<(String, usize)>) {
    counts.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    let width = counts.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    for (name, count) in counts.iter().take(LISTED) {
        println!("  {name:width$}  {count:7}");
    }
    if let Some(rest) = counts.get(LISTED..).filter(|rest| !rest.is_empty()) {
        let images: usize = rest.iter().map(|(_, count)| count).sum();
        println!("  {} others, {images} images", rest.len());
    }
}

fn print_bad(bad: &[Skipped]) {
    if bad.is_empty() {
        println!("\nno bad files");
        return;
    }
    println!("\nbad files: {} (train stops at them, or leaves them out with --skip-bad-images)", bad.len());
    for file in bad.iter().take(LISTED) {
        println!("  {}: {}", file.path.display(), file.reason);
    }
    if bad.len() > LISTED {
        println!("  and {} more", bad.len() - LISTED);
    }
}

/// Draws the contact sheet.
fn draw(dataset: &dyn Dataset, path: &std::path::Path) -> anyhow::Result<()> {
    let spread = |indices: &[usize], count: usize| -> Vec<usize> {
        let count = count.min(indices.len());
        (0..count).map(|i| indices[i * indices.len() / count]).collect()
    };
    let classes = dataset.classes().len();
    // `None` is an empty place at the end of a class's row
    let places: Vec<Option<usize>> = if classes == 0 {
        let all: Vec<usize> = (0..dataset.len()).collect();
        spread(&all, COLUMNS * COLUMNS).into_iter().map(Some).collect()
    } else {
        (0..classes.min(MAX_ROWS) as u32)
            .flat_map(|class| {
                let members: Vec<usize> =
                    (0..dataset.len()).filter(|&index| dataset.label(index) == Some(class)).collect();
                let mut row: Vec<_> = spread(&members, COLUMNS).into_iter().map(Some).collect();
                row.resize(COLUMNS, None);
                row
            })
            .collect()
    };
    let shape = dataset.image_shape();
    let mut pixels = vec![0.0; places.len() * shape.elements()];
    for (place, pixels) in places.iter().zip(pixels.chunks_exact_mut(shape.elements())) {
        if let Some(index) = place {
            dataset.read(*index, pixels)?;
        }
    }
    if pixels.is_empty() {
        bail!("there are no images to draw");
    }
    let shape = [places.len(), shape.height, shape.width, shape.channels];
    let columns = output::columns_for(COLUMNS, shape[3]);
    write_grid(path, &Images { shape, data: pixels }, Some(columns))
}
