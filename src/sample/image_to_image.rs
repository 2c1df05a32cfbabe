//! Image-to-image: noise an image part of the way, and denoise it again (Meng et al. 2022, "SDEdit").

use super::forward_process::forward_noise;
use super::{Images, SampleError, SampleProgress, SampleRequest, Sampled, sample};
use crate::device::Device;
use crate::diffusion::Mixing;
use crate::pipeline::Pipeline;
use crate::sampler::{Process, Steps};

/// Draws `images` `[N, H, W, C]` anew from `options.strength` of the way to noise: near 0 they hardly change, at 1 little of
/// them is left.
///
/// The images are noised to the timestep at which the request's sampler begins. The request's `init_noise` is set here.
///
/// # Errors
/// [`SampleError`] for a strength that leaves no step, images that do not fit the model, or trouble on the device.
pub async fn image_to_image(
    device: &Device,
    pipeline: &Pipeline,
    images: &Images,
    request: &SampleRequest,
    progress: &mut (dyn FnMut(SampleProgress) + Send),
) -> Result<Sampled, SampleError> {
    let process = Process::new(request.sampler, &pipeline.scheduler, &request.options)?;
    let timestep = match request.sampler.start(&pipeline.scheduler, &request.options)? {
        Steps::Fixed(steps) => steps.iter().find_map(|step| step.timestep).unwrap_or(0.0),
        Steps::Adaptive(_) => (pipeline.scheduler.num_train_timesteps - 1) as f64 * request.options.strength,
    };
    let mixing = Mixing::at(process.noise_levels().at(timestep).alpha_cumprod);
    let elements: usize = images.shape[1..].iter().product();
    let noise = |index: usize| forward_noise(request.seed, index, elements);
    let noised = images.data.chunks(elements.max(1)).enumerate();
    let data = noised.flat_map(|(index, image)| mixing.mix(image, &noise(index))).collect();
    let request = SampleRequest {
        num_images: images.shape[0],
        init_noise: Some(Images { shape: images.shape, data }),
        ..request.clone()
    };
    sample(device, pipeline, &request, progress).await
}
