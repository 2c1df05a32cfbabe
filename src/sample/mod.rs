//! Sampling: a trained model, a sampler's steps, images.

mod denoiser;
mod evaluation;
mod forward_process;
mod guidance;
mod image_to_image;
mod inpaint;
mod interpolate;
mod low_resolution;

pub use denoiser::Denoiser;
pub use evaluation::Conditions;
pub use forward_process::forward_process;
pub use guidance::Guidance;
pub use image_to_image::image_to_image;
pub use inpaint::{Inpainting, inpaint};
pub use interpolate::{invert, noise_of_seed, slerp};
pub use low_resolution::LowResolution;

use crate::SettingError;
use crate::checkpoint::Pipeline;
use crate::device::{Device, DeviceError, Executor};
use crate::diffusion::SchedulerConfig;
use crate::graph::{Graph, GraphError, TensorType, ValueId};
use crate::memory::{self, TooLarge};
use crate::model::{ModelError, Precision, UNetInputs, WeightsError, from_tensors};
use crate::ops::philox::{Stream, normals};
use crate::output::OutputError;
use crate::sampler::{Measured, Sampler, SamplerError, SamplerOptions};
use evaluation::CLASSIFIER;

/// Stream of x_T; the nodes of a graph count from 1.
const INIT_NOISE_STREAM: u32 = 0;

/// Sampling that cannot be done.
#[derive(Debug, thiserror::Error)]
pub enum SampleError {
    /// The request does not fit the model.
    #[error("{0}")]
    Request(String),
    /// A setting makes no sense or does not fit the model.
    #[error(transparent)]
    Setting(#[from] SettingError),
    /// The sampler cannot do what it is asked to.
    #[error(transparent)]
    Sampler(#[from] SamplerError),
    /// The device cannot go on.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// The graph cannot be built.
    #[error(transparent)]
    Graph(#[from] GraphError),
    /// The model cannot be built.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The weights are of another model.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// A picture cannot be written.
    #[error(transparent)]
    Output(#[from] OutputError),
    /// Numbers that are not finite.
    #[error(
        "{what} came out with NaN or infinity: look for such numbers in the weights and in what was given, for images far \
         beyond -1..1, and, with activations of 16 bits, for values above 65504"
    )]
    NotFinite {
        /// Which result.
        what: String,
    },
    /// The host has no memory for the images.
    #[error("{0}; draw fewer images at a time")]
    Memory(#[from] TooLarge),
}

/// Most numbers of the images, and of their frames, that one call draws: 8 GiB.
const MOST_NUMBERS: usize = 1 << 31;

/// Refuses results that are not finite; `what` names them, given the number of the first image that is wrong.
fn check_finite(data: &[f32], elements: usize, what: impl Fn(usize) -> String) -> Result<(), SampleError> {
    match data.iter().position(|value| !value.is_finite()) {
        Some(at) => Err(SampleError::NotFinite { what: what(at / elements.max(1)) }),
        None => Ok(()),
    }
}

/// Images in memory.
#[derive(Clone, Debug, PartialEq)]
pub struct Images {
    /// `[N, H, W, C]`
    pub shape: [usize; 4],
    /// Values, mostly in -1..1.
    pub data: Vec<f32>,
}

/// What to draw.
#[derive(Clone, Debug)]
pub struct SampleRequest {
    /// Number of images.
    pub num_images: usize,
    /// How.
    pub sampler: &'static Sampler,
    /// The sampler's options.
    pub options: SamplerOptions,
    /// The class of each image; `None` for unconditional models.
    pub class_labels: Option<Vec<u32>>,
    /// Decides x_T and the noise of every step. The noise of image i depends on the seed and i alone, so the image is the
    /// same in any batch but for rounding: matrix products of other sizes may add up in another order.
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
            class_labels: None,
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
        let [height, width] = pipeline.unet.image_size()?;
        check(pipeline, self, [height, width, pipeline.unet.image_channels()])
    }

    /// Refuses more images than the host has memory for, with as many `frames` of each.
    ///
    /// # Errors
    /// [`SampleError::Memory`], or [`SampleError::Request`] for more than any call draws.
    pub fn check_memory(pipeline: &Pipeline, num_images: usize, frames: usize) -> Result<(), SampleError> {
        let [height, width] = pipeline.unet.image_size()?;
        let size = [height, width, pipeline.unet.image_channels()];
        let product = |factor: usize| {
            size.iter().fold(num_images.saturating_mul(factor), |product, &size| product.saturating_mul(size))
        };
        if product(frames.max(1)) > MOST_NUMBERS {
            let along = if frames > 0 { format!(" with {frames} frames of each") } else { String::new() };
            return Err(SampleError::Request(format!(
                "{num_images} images of {width}x{height}{along} are more than {MOST_NUMBERS} numbers, the most that are \
                 drawn at once; draw fewer images at a time"
            )));
        }
        // The images, a copy in another order, and the frames.
        let bytes = product(2 + frames).saturating_mul(4);
        Ok(memory::check(bytes, || format!("{num_images} images of {width}x{height}"))?)
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

    /// The classes of images `first..first + count`, filled up to a whole batch.
    fn batch_labels(&self, first: usize, count: usize, batch: usize) -> Option<Vec<u32>> {
        let mut labels = self.class_labels.as_ref()?[first..first + count].to_vec();
        labels.resize(batch, 0);
        Some(labels)
    }
}

/// What [`sample`] drew.
#[derive(Clone, Debug, PartialEq)]
pub struct Sampled {
    /// The finished images.
    pub images: Images,
    /// x_t along the way, evenly spaced from x_T to the finished images; empty unless asked for.
    pub frames: Vec<Images>,
}

/// How far sampling is.
#[derive(Clone, Copy, Debug)]
pub struct SampleProgress {
    /// Steps done, over all batches; hundredths of the way with a sampler that finds its steps on the way.
    pub done: usize,
    /// Steps in all.
    pub total: usize,
}

/// Draws images with the averaged weights of `pipeline`; `progress` is called after every step.
///
/// # Errors
/// [`SampleError`] for a request that does not fit the model, or trouble on the device.
pub async fn sample(
    device: &Device,
    pipeline: &Pipeline,
    request: &SampleRequest,
    progress: &mut (dyn FnMut(SampleProgress) + Send),
) -> Result<Sampled, SampleError> {
    request.check(pipeline)?;
    request.sampler.start(&pipeline.scheduler, &request.options)?;
    let mut denoiser = request.denoiser(device, pipeline).await?;
    sample_with(&mut denoiser, pipeline, request, progress).await
}

/// As [`sample`], by a denoiser of [`SampleRequest::denoiser`] that may have drawn other images before.
pub(crate) async fn sample_with(
    denoiser: &mut Denoiser,
    pipeline: &Pipeline,
    request: &SampleRequest,
    progress: &mut (dyn FnMut(SampleProgress) + Send),
) -> Result<Sampled, SampleError> {
    let [height, width] = pipeline.unet.image_size()?;
    let image = [height, width, pipeline.unet.image_channels()];
    let steps = request.sampler.start(&pipeline.scheduler, &request.options)?;
    let low_resolution = match &request.low_resolution {
        Some(low) => Some(low.prepare(pipeline, request.seed)?),
        None => None,
    };
    let batch = request.batch_size.min(request.num_images);
    let elements: usize = image.iter().product();
    let batches = request.num_images.div_ceil(batch);
    let mut frames = vec![Vec::new(); request.frames];
    let mut data = Vec::with_capacity(request.num_images * elements);
    for (number, first) in (0..request.num_images).step_by(batch).enumerate() {
        let count = batch.min(request.num_images - first);
        let mut x_t = match &request.init_noise {
            Some(noise) => noise.data[first * elements..(first + count) * elements].to_vec(),
            None => init_noise(request.seed, first, count, elements),
        };
        // The last batch may be short: the rest of it is denoised from zeros and thrown away.
        x_t.resize(batch * elements, 0.0);
        let labels = request.batch_labels(first, count, batch);
        let low = low_resolution.as_ref().map(|low| {
            let mut low = low[first * elements..(first + count) * elements].to_vec();
            low.resize(batch * elements, 0.0);
            low
        });
        let conditions = Conditions { class_labels: labels.as_deref(), low_resolution: low.as_deref() };
        denoiser.start(&x_t, conditions)?;
        let mut run = steps.run(count);
        let mut frame = 0;
        let mut measured: Vec<Measured> = vec![Measured::default(); count];
        loop {
            // Frame f shows the first x_t after that share of the steps; frame 0 is x_T, the last one the image.
            let is_due =
                |frame: usize| run.progress() * (request.frames - 1).max(1) as f64 >= frame as f64 - 1e-9;
            if frame < request.frames && is_due(frame) {
                let x_t = denoiser.images().await?;
                while frame < request.frames && is_due(frame) {
                    frames[frame].extend_from_slice(&x_t[..count * elements]);
                    frame += 1;
                }
            }
            let Some(step) = run.next(&measured)? else { break };
            denoiser.step(&step, request.seed, first as u32)?;
            if step.iter().any(|step| step.measure.is_some()) {
                measured = denoiser.measured().await?;
            }
            let done = (run.progress() * run.total() as f64).round() as usize;
            progress(SampleProgress { done: number * run.total() + done, total: batches * run.total() });
        }
        let x_0 = denoiser.images().await?;
        let x_0 = &x_0[..count * elements];
        check_finite(x_0, elements, |image| {
            format!("image {} of {}", first + image + 1, request.num_images)
        })?;
        data.extend_from_slice(x_0);
    }
    let [h, w, c] = image;
    let images = |data: Vec<f32>| Images { shape: [request.num_images, h, w, c], data };
    Ok(Sampled { images: images(data), frames: frames.into_iter().map(images).collect() })
}

/// x_T of images `first..first + count`.
fn init_noise(seed: u64, first: usize, count: usize, elements: usize) -> Vec<f32> {
    let stream = |sample: usize| Stream { seed, step: 0, stream: INIT_NOISE_STREAM, sample: sample as u32 };
    (first..first + count).flat_map(|sample| normals(stream(sample), elements)).collect()
}

fn check(pipeline: &Pipeline, request: &SampleRequest, image: [usize; 3]) -> Result<(), SampleError> {
    let fault = |text: String| Err(SampleError::Request(text));
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
    let (channels, outputs) = (image[2], pipeline.unet.out_channels);
    let expected = pipeline.scheduler.variance_type.output_channels(channels);
    if ![expected, 2 * channels].contains(&outputs) {
        return fault(format!(
            "the model has {outputs} output channels for {channels} input channels; its scheduler config asks for \
             {expected}: see variance_type"
        ));
    }
    request.guidance.check(pipeline)?;
    match (&pipeline.unet.super_resolution, &request.low_resolution) {
        (Some(model), None) => {
            let size = model.low_size;
            return fault(format!("the model enlarges images of {size}x{size}: give low-resolution images"));
        }
        (_, Some(low)) if low.images.shape[0] != request.num_images => {
            return fault(format!(
                "there are {} low-resolution images for {} images",
                low.images.shape[0], request.num_images
            ));
        }
        _ => {}
    }
    let labels = request.class_labels.as_deref();
    if let Some((classifier, _)) = &request.guidance.classifier {
        match labels {
            Some(labels) => check_label_range(classifier.config.num_classes, labels, request.num_images)?,
            None => return fault("a classifier guides towards classes: say which class to draw".to_owned()),
        }
    }
    if request.guidance.classifier.is_none() || pipeline.unet.num_class_embeds.is_some() {
        check_labels(pipeline, labels, request.num_images)?;
    }
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

fn check_labels(pipeline: &Pipeline, labels: Option<&[u32]>, images: usize) -> Result<(), SampleError> {
    let fault = |text: String| Err(SampleError::Request(text));
    match (pipeline.unet.num_class_embeds, labels) {
        (None, Some(_)) => fault("the model is unconditional; leave the class labels out".to_owned()),
        (Some(_), None) => {
            let classes = pipeline.unet.classes().unwrap_or_default();
            fault(format!("the model is conditional on {classes} classes; say which class to draw"))
        }
        // The class that means none can be drawn as well.
        (Some(embeds), Some(labels)) => check_label_range(embeds, labels, images),
        (None, None) => Ok(()),
    }
}

fn check_label_range(classes: usize, labels: &[u32], images: usize) -> Result<(), SampleError> {
    let fault = |text: String| Err(SampleError::Request(text));
    if labels.len() != images {
        return fault(format!("there are {} class labels for {images} images", labels.len()));
    }
    match labels.iter().find(|&&label| label as usize >= classes) {
        Some(label) => {
            fault(format!("there is no class {label}; the model has classes 0 to {}", classes - 1))
        }
        None => Ok(()),
    }
}

/// An executor of `graph` that holds the weights of `pipeline` and keeps `keep` to be read.
async fn prepare_with_weights(
    device: &Device,
    graph: &Graph,
    pipeline: &Pipeline,
    guidance: &Guidance,
    keep: &[ValueId],
) -> Result<Executor, SampleError> {
    let mut tensors = pipeline.weights.clone();
    if let Some((classifier, _)) = &guidance.classifier {
        let named = classifier.weights.iter();
        tensors.extend(named.map(|(name, tensor)| (format!("{CLASSIFIER}.{name}"), tensor.clone())));
    }
    let weights = from_tensors(graph, &tensors)?;
    let mut executor = device.prepare(graph, keep).await?;
    for (parameter, data) in graph.parameters().iter().zip(&weights) {
        executor.write(parameter.value, data)?;
    }
    Ok(executor)
}

/// One forward pass: the network's output `[N, H, W, out_channels]` for `x_t` and a timestep for each image, with
/// activations of `precision`.
///
/// # Errors
/// [`SampleError`] for inputs that do not fit the model, or trouble on the device.
pub async fn predict(
    device: &Device,
    pipeline: &Pipeline,
    x_t: &Images,
    timesteps: &[f32],
    class_labels: Option<&[u32]>,
    precision: Precision,
) -> Result<Images, SampleError> {
    let [n, h, w, c] = x_t.shape;
    let [height, width] = pipeline.unet.image_size()?;
    if [h, w, c] != [height, width, pipeline.unet.in_channels] {
        return Err(SampleError::Request(format!(
            "the input is [N, C, H, W] = {:?}, the model takes {:?}",
            [n, c, h, w],
            [n, pipeline.unet.in_channels, height, width]
        )));
    }
    if timesteps.len() != n {
        return Err(SampleError::Request(format!("there are {} timesteps for {n} images", timesteps.len())));
    }
    if let Some(timestep) = timesteps.iter().find(|timestep| !timestep.is_finite()) {
        return Err(SampleError::Request(format!(
            "a timestep is {timestep}; timesteps must be finite numbers"
        )));
    }
    check_labels(pipeline, class_labels, n)?;
    let mut graph = Graph::new();
    let inputs = UNetInputs {
        sample: graph.input("sample", TensorType::f32(x_t.shape)),
        timesteps: graph.input("timesteps", TensorType::f32([n])),
        class_labels: class_labels.map(|_| graph.input("class_labels", TensorType::u32([n]))),
        key_step_sample: None,
    };
    let output = precision.unet(&mut graph, &pipeline.unet, inputs)?;
    let mut executor =
        prepare_with_weights(device, &graph, pipeline, &Guidance::default(), &[output]).await?;
    executor.write(inputs.sample, &x_t.data)?;
    executor.write(inputs.timesteps, timesteps)?;
    if let (Some(id), Some(labels)) = (inputs.class_labels, class_labels) {
        executor.write(id, labels)?;
    }
    executor.run()?;
    let data = executor.read(output).await?;
    let elements = h * w * pipeline.unet.out_channels;
    check_finite(&data, elements, |image| format!("the network's output for image {} of {n}", image + 1))?;
    Ok(Images { shape: [n, h, w, pipeline.unet.out_channels], data })
}
