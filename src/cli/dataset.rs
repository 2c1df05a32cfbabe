//! What commands that read a dataset have in common.

use std::path::PathBuf;

use ddpm_gpu::data::{ArrayOrder, Dataset, OpenOptions, PassedOver};
use ddpm_gpu::image_size::{are_swapped, in_words};

use super::bounds::{MOST, count_in};
use super::{cache_folder, one_of};

/// Names the folder of decoded images, in place of `ddpm-gpu/images` in the user's cache folder.
const FOLDER: &str = "DDPM_GPU_DATA_CACHE";

/// Where a dataset is, and what may be kept of it.
#[derive(clap::Args)]
pub(super) struct DatasetArgs {
    /// Where the files of a named data set are
    #[arg(long, value_name = "DIR")]
    data_path: Option<PathBuf>,
    /// Decoded images that may be kept in memory; those beyond it are kept in a file in the cache folder
    #[arg(long, value_name = "MIB", default_value_t = 1024, value_parser = count_in(0..=MOST))]
    data_memory: usize,
    /// Order of the axes of an .npy or .npz array of images: nchw or nhwc. By default the one in which the channels
    /// are those of the model, else 1, 3, 2 or 4, else the fewer; `data` says which was taken
    #[arg(long, value_name = "nchw|nhwc", value_parser = |name: &str| one_of("orders", &ArrayOrder::ALL, name))]
    array_order: Option<ArrayOrder>,
}

impl DatasetArgs {
    pub(super) fn options(&self) -> OpenOptions {
        OpenOptions {
            data_path: self.data_path.clone(),
            memory_budget: self.data_memory.saturating_mul(1 << 20),
            cache_folder: cache_folder(FOLDER, "images"),
            array_order: self.array_order,
            ..OpenOptions::default()
        }
    }
}

/// Says how many images there are, of how many classes, and what their numbers were taken for.
pub(super) fn describe(dataset: &dyn Dataset) -> String {
    let classes = match dataset.classes().len() {
        0 => "no classes".to_owned(),
        1 => "1 class".to_owned(),
        classes => format!("{classes} classes"),
    };
    let understood = dataset.understood().map_or(String::new(), |understood| format!("; {understood}"));
    format!("{}, {} images, {classes}{understood}", dataset.name(), dataset.len())
}

/// Says what may be otherwise than it was taken: the order of an array's axes, and which side is which.
pub(super) fn doubts(dataset: &dyn Dataset) -> Vec<String> {
    let mut doubts = Vec::new();
    if let Some(order) = dataset.other_order() {
        let name = ArrayOrder::ALL.iter().find(|(_, known)| *known == order).map_or("", |(name, _)| name);
        doubts.push(format!(
            "note: the axes were taken for {}, which the shape of the array leaves open; with --array-order {name} \
             they are {order}",
            order.other()
        ));
    }
    let shape = dataset.image_shape();
    if !dataset.is_empty()
        && let Ok(original) = dataset.original(0)
    {
        let (own, size) = ([original.height, original.width], [shape.height, shape.width]);
        if are_swapped(own, size) {
            doubts.push(format!(
                "note: the first image is {}, width x height, and is cropped to the proportions of {}: if its sides \
                 are swapped, exchange width and height",
                in_words(own),
                in_words(size)
            ));
        }
    }
    doubts
}

/// Says what lies beside the images and is not taken for one, where there is such.
pub(super) fn describe_passed_over(passed_over: &[PassedOver]) -> Option<String> {
    const NAMED: usize = 4;
    let count: usize = passed_over.iter().map(|kind| kind.count).sum();
    let named = passed_over.iter().take(NAMED);
    let mut kinds: Vec<String> = named
        .map(|PassedOver { kind, count, example }| format!("{count} {kind}, such as {}", example.display()))
        .collect();
    if passed_over.len() > NAMED {
        kinds.push(format!("{} more kinds", passed_over.len() - NAMED));
    }
    (count > 0).then(|| format!("passed over: {count} that are not taken ({})", kinds.join("; ")))
}
