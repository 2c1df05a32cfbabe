//! What to draw, and whether the model can.

use super::{Denoiser, Guidance, Images, LowResolution, SampleError};
use crate::conditions::{CLASS_LABELS, CONDITION_IMAGE, Conditions};
use crate::device::Device;
use crate::diffusion::SchedulerConfig;
use crate::image_size::in_words;
use crate::memory;
use crate::network::{Network, Precision};
use crate::pipeline::Pipeline;
use crate::sampler::{Sampler, SamplerOptions};
use crate::setting::SettingError;

/// Most numbers of the images, and of their frames, that one call draws: 8 GiB.
const MOST_NUMBERS: usize = 1 << 31;

/// What to draw.
#[derive(Clone, Debug)]
pub struct SampleRequest {
    /// Number of images.
    pub num_images: usize,
    /// How.
    pub sampler: &'static Sampler,
    /// The sampler's options.
    pub options: SamplerOptions,
    /// What the model is told of each image, such as its class; nothing for an unconditional one.
    pub conditions: Conditions,
    /// Decides x_T and the noise of every step. The noise of image i depends on the seed and i alone, so the image is
    /// the same in any batch but for rounding: matrix products of other sizes may add up in another order.
    pub seed: u64,
    /// Images denoised together.
    pub batch_size: usize,
    /// How activations are stored.
    pub precision: Precision,
    /// x_T `[N, H, W, C]` in place of drawn noise.
    pub init_noise: Option<Images>,
    /// What steers towards the classes.
    pub guidance: Guidance,
    /// The smaller images that a super-resolution model enlarges.
    pub low_resolution: Option<LowResolution>,
    /// How many x_t to keep along the way, for an animation.
    pub frames: usize,
}

impl SampleRequest {
    /// 16 images with seed 0, of a model with this scheduler config.
    pub fn new(sampler: &'static Sampler, config: &SchedulerConfig) -> Self {
        Self {
            num_images: 16,
            sampler,
            options: SamplerOptions::new(config),
            conditions: Conditions::default(),
            seed: 0,
            batch_size: 64,
            precision: Precision::F32,
            init_noise: None,
            guidance: Guidance::default(),
            low_resolution: None,
            frames: 0,
        }
    }

    /// Refuses what makes no sense or does not fit the model.
    ///
    /// # Errors
    /// [`SampleError::Request`] in one sentence.
    pub fn check(&self, pipeline: &Pipeline) -> Result<(), SampleError> {
        check(pipeline, self)
    }

    /// Refuses more images than the host has memory for, with as many `frames` of each.
    ///
    /// # Errors
    /// [`SampleError::Memory`], or [`SampleError::Request`] for more than any call draws.
    pub fn check_memory(pipeline: &Pipeline, num_images: usize, frames: usize) -> Result<(), SampleError> {
        let size = pipeline.denoiser()?.network.image()?;
        let size_in_words = in_words([size[0], size[1]]);
        let product = |factor: usize| {
            size.iter().fold(num_images.saturating_mul(factor), |product, &size| product.saturating_mul(size))
        };
        if product(frames.max(1)) > MOST_NUMBERS {
            let along = if frames > 0 { format!(" with {frames} frames of each") } else { String::new() };
            return Err(SampleError::Request(format!(
                "{num_images} images of {size_in_words}{along} are more than {MOST_NUMBERS} numbers, the most that are \
                 drawn at once; draw fewer images at a time"
            )));
        }
        // The images, a copy in another order, and the frames.
        let bytes = product(2 + frames).saturating_mul(4);
        Ok(memory::check(bytes, || format!("{num_images} images of {size_in_words}"))?)
    }

    /// The model, prepared to draw these images; for other steps of the same sampler, too.
    pub(crate) async fn denoiser(
        &self,
        device: &Device,
        pipeline: &Pipeline,
    ) -> Result<Denoiser, SampleError> {
        let batch = self.batch_size.min(self.num_images);
        let (sampler, clip) = (self.sampler, self.options.clip);
        Denoiser::new(device, pipeline, batch, self.precision, sampler, clip, &self.guidance).await
    }

    /// What the model is told of all images; of low-resolution images, as the model takes them.
    pub(super) fn told(&self, pipeline: &Pipeline) -> Result<Conditions, SampleError> {
        let conditions = self.conditions.clone();
        match &self.low_resolution {
            Some(low) => Ok(conditions.with(CONDITION_IMAGE, low.prepare(pipeline, self.seed)?)),
            None => Ok(conditions),
        }
    }
}

pub(super) fn check(pipeline: &Pipeline, request: &SampleRequest) -> Result<(), SampleError> {
    let network = &pipeline.denoiser()?.network;
    let image = network.image()?;
    let fault = |text: String| Err(SampleError::Request(text));
    pipeline.check_timesteps(network.as_ref()).map_err(SampleError::Request)?;
    SampleRequest::check_memory(pipeline, request.num_images, request.frames)?;
    if request.num_images == 0 || request.batch_size == 0 {
        return fault("the number of images and the batch size must be at least 1".to_owned());
    }
    if request.sampler.inverts && request.init_noise.is_none() {
        let message = format!(
            "the sampler `{}` leads from images to noise; give it the images as the initial noise",
            request.sampler.name
        );
        return Err(SettingError::new(&["init_noise"], message).into());
    }
    let (channels, outputs) = (image[2], network.out_channels()?);
    let expected = pipeline.scheduler.variance_type.output_channels(channels);
    if ![expected, 2 * channels].contains(&outputs) {
        return fault(format!(
            "the model has {outputs} output channels for {channels} input channels; its scheduler config asks for \
             {expected}: see variance_type"
        ));
    }
    request.guidance.check(pipeline)?;
    match (network.super_resolution(), &request.low_resolution) {
        (Some(model), None) => {
            let size = in_words(model.low_size.sides());
            let message = format!("the model enlarges images of {size}: give low-resolution images");
            return Err(SettingError::new(&["low_resolution"], message).into());
        }
        (_, Some(low)) if low.images.shape[0] != request.num_images => {
            return fault(format!(
                "there are {} low-resolution images for {} images",
                low.images.shape[0], request.num_images
            ));
        }
        _ => {}
    }
    // A classifier may guide a network that knows no classes: then they are the classifier's alone.
    let mut conditions = request.conditions.clone();
    if let Some((classifier, _)) = &request.guidance.classifier {
        check_classes(classifier.classifier()?.network.as_ref(), &conditions, request.num_images)?;
        if !network.takes(CLASS_LABELS) {
            conditions = conditions.without(CLASS_LABELS);
        }
    }
    network.check_conditions(&conditions, request.num_images).map_err(SampleError::Request)?;
    if let Some(noise) = &request.init_noise {
        let [h, w, c] = image;
        let expected = [request.num_images, h, w, c];
        if noise.shape != expected {
            let nchw = |[n, h, w, c]: [usize; 4]| format!("{:?}", [n, c, h, w]);
            return fault(format!("the initial noise is {}, expected {}", nchw(noise.shape), nchw(expected)));
        }
    }
    Ok(())
}

/// Refuses what a guiding classifier does not know as classes.
fn check_classes(network: &dyn Network, conditions: &Conditions, images: usize) -> Result<(), SampleError> {
    let fault = |text: String| Err(SampleError::Request(text));
    let Some(labels) = conditions.class_labels() else {
        return fault("a classifier guides towards classes: say which class to draw".to_owned());
    };
    let classes = network.classes_told()?;
    if labels.len() != images {
        return fault(format!("there are {} class labels for {images} images", labels.len()));
    }
    match labels.iter().find(|&&label| label as usize >= classes) {
        Some(label) => {
            fault(format!("there is no class {label}; the classifier knows classes 0 to {}", classes - 1))
        }
        None => Ok(()),
    }
}
