//! Batch after batch of images, from noise to the finished image.

use super::{Denoiser, Images, SampleError, SampleRequest, check_finite};
use crate::device::Device;
use crate::pipeline::Pipeline;
use crate::random::{Purpose, Stream, normals};
use crate::sampler::Measured;

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
    let image = pipeline.denoiser()?.network.image()?;
    let steps = request.sampler.start(&pipeline.scheduler, &request.options)?;
    let conditions = request.told(pipeline)?;
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
        denoiser.start(&x_t, &conditions.rows(first..first + count).resized(batch))?;
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
pub(super) fn init_noise(seed: u64, first: usize, count: usize, elements: usize) -> Vec<f32> {
    let stream = Purpose::InitialNoise.into();
    let of_image = |image: usize| Stream { seed, step: 0, stream, sample: image as u32 };
    (first..first + count).flat_map(|image| normals(of_image(image), elements)).collect()
}
