//! What commands that read a dataset have in common.

use std::path::PathBuf;

use ddpm_gpu::data::{Dataset, OpenOptions, PassedOver};

use super::bounds::{MOST, count_in};
use super::cache_folder;

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
}

impl DatasetArgs {
    pub(super) fn options(&self) -> OpenOptions {
        OpenOptions {
            data_path: self.data_path.clone(),
            memory_budget: self.data_memory.saturating_mul(1 << 20),
            cache_folder: cache_folder(FOLDER, "images"),
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
