//! Images that a model is given beside those that it draws: `--condition-image`.

use std::sync::Arc;

use anyhow::bail;
use ddpm_gpu::conditions::{CONDITION_IMAGE, Condition, Conditions, Numbers};
use ddpm_gpu::data::{self, Dataset, OpenOptions, Paired};
use ddpm_gpu::network::{Network, SampleSize, UNetConfig};
use ddpm_gpu::sample::Images;

use super::bounds::count_in;
use super::images::{SOURCES, read_images};
use super::training::{DataArgs, report};

/// Most channels of a condition image.
const MOST_CHANNELS: usize = 4;

/// The condition images of a run.
#[derive(clap::Args)]
pub(super) struct PairArgs {
    /// Train a model that is given an image beside the one that it draws: to colourise, restore, fill in, or draw what
    /// a map of segments says (Saharia et al. 2022, Palette). PATH has an image for each of --dataset: a folder, paired
    /// by the names of the files without their endings, or an array, paired in its order. The network gets the image as
    /// further channels
    #[arg(long, value_name = "PATH", conflicts_with = "super_resolution")]
    condition_image: Option<String>,
    /// Channels of the condition images: 1 grey, 3 colour, 2 and 4 with alpha; by default as the model has them, or
    /// their files
    #[arg(long, value_name = "N", requires = "condition_image", value_parser = count_in(1..=MOST_CHANNELS))]
    condition_channels: Option<usize>,
}

impl PairArgs {
    /// The images of a data set, with their condition images where these are given.
    pub(super) fn pair(
        &self,
        dataset: Arc<dyn Dataset>,
        model: &UNetConfig,
        data: &DataArgs,
    ) -> anyhow::Result<Arc<dyn Dataset>> {
        let Some(path) = &self.condition_image else { return Ok(dataset) };
        if let (Some(asked), Some(has)) = (self.condition_channels, model.condition_channels)
            && asked != has
        {
            bail!("--condition-channels {asked}: the model has condition images of {has} channels");
        }
        let options = OpenOptions {
            channels: self.condition_channels.or(model.condition_channels),
            image_size: model.sample_size.map(SampleSize::sides),
            skip_bad_images: data.skip_bad_images,
            ..data.files.options()
        };
        let conditions = data::open(path, &options)?;
        report("condition images", conditions.as_ref());
        let paired = Paired::new(dataset, conditions.into())?;
        eprintln!("pairs: {}", paired.len());
        if let Some(text) = paired.unused() {
            eprintln!("note: {text}");
        }
        Ok(Arc::new(paired))
    }
}

/// Gives a network the channels that the condition images of a data set have.
pub(super) fn fit(config: &mut UNetConfig, dataset: &dyn Dataset) {
    if let (Some(shape), None) = (dataset.condition_image(), config.condition_channels) {
        config.in_channels += shape.channels;
        config.condition_channels = Some(shape.channels);
    }
}

/// The condition images of what is drawn.
#[derive(clap::Args)]
pub(super) struct ConditionImageArgs {
    #[arg(long, value_name = "IMAGES", help = format!(
        "The images that a model of train --condition-image is given, one for each image to be drawn, or one for all: {SOURCES}"
    ))]
    condition_image: Option<String>,
}

impl ConditionImageArgs {
    /// The images that the flag names, of the network's size; `None` where it takes none.
    ///
    /// # Errors
    /// For a network that takes none and is given some, and the other way round.
    pub(super) fn read(
        &self,
        network: &dyn Network,
        num_images: Option<usize>,
    ) -> anyhow::Result<Option<Images>> {
        let taken = network.input(CONDITION_IMAGE).ok().filter(|_| network.super_resolution().is_none());
        match (taken, &self.condition_image) {
            (None, None) => Ok(None),
            (None, Some(_)) => {
                bail!("--condition-image: the model is given no image beside those that it draws")
            }
            (Some(_), None) => {
                bail!(
                    "the model is given an image beside each one that it draws: name these by --condition-image"
                )
            }
            (Some(input), Some(source)) => {
                let size = [input.shape[0], input.shape[1]];
                let limit = num_images.unwrap_or(DEFAULT_IMAGES);
                let images = read_images(source, Some(input.shape[2]), Some(size), limit)?;
                Ok(Some(images))
            }
        }
    }
}

/// Images that are read where nothing says how many are to be drawn.
const DEFAULT_IMAGES: usize = 64;

/// The condition of so many images; one image is that of all.
pub(super) fn condition(images: Option<Images>, num_images: usize) -> anyhow::Result<Conditions> {
    let Some(Images { shape: [n, h, w, c], data }) = images else { return Ok(Conditions::default()) };
    let data = match n {
        1 => data.repeat(num_images),
        n if n == num_images => data,
        n => {
            bail!("--condition-image has {n} images for {num_images} to be drawn; give one, or one for each")
        }
    };
    let condition = Condition::new(h * w * c, Numbers::Floats(data));
    Ok(condition.map_or_else(Conditions::default, |image| Conditions::default().with(CONDITION_IMAGE, image)))
}
