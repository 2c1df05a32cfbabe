//! Image-to-image: noise an image part of the way, and denoise it again (Meng et al. 2022, "SDEdit").

use super::forward_process::{add_noise, forward_noise};
use super::{Images, SampleError, SampleProgress, SampleRequest, Sampled, sample};
use crate::checkpoint::Pipeline;
use crate::device::Device;
use crate::sampler::{Sampler, Step, Steps};

/// The steps of a sampler that can begin anywhere: each evaluates the network once, at a whole timestep, and keeps nothing.
pub(super) fn independent_steps(sampler: &Sampler, steps: Steps) -> Result<Vec<Step>, SampleError> {
    let is_independent =
        |step: &Step| step.timestep.is_some_and(|t| t.fract() == 0.0) && step.update.keep.is_empty();
    match steps {
        Steps::Fixed(steps)
            if steps.iter().all(is_independent)
                && steps.windows(2).all(|pair| pair[0].timestep > pair[1].timestep) =>
        {
            Ok(steps)
        }
        _ => Err(SampleError::Request(format!(
            "the sampler `{}` cannot begin between noise and image; use ddpm or ddim",
            sampler.name
        ))),
    }
}

/// Draws `images` `[N, H, W, C]` anew from `strength` of the way to noise: near 0 they hardly change, at 1 little is left.
///
/// Of the request's steps the last `strength` share is taken, rounded down as diffusers does it, and the images are noised to
/// the timestep of the first of these. The request's `init_noise` and `first_step` are set here.
///
/// # Errors
/// [`SampleError`] for a sampler that cannot begin in between, a strength beyond 0 to 1 or one too small for a single step.
pub async fn image_to_image(
    device: &Device,
    pipeline: &Pipeline,
    images: &Images,
    strength: f64,
    request: &SampleRequest,
    progress: &mut (dyn FnMut(SampleProgress) + Send),
) -> Result<Sampled, SampleError> {
    if !(strength > 0.0 && strength <= 1.0) {
        return Err(SampleError::Request(format!(
            "the strength is {strength}; it must be above 0 and at most 1"
        )));
    }
    let steps = request.sampler.start(&pipeline.scheduler, &request.options)?;
    let steps = independent_steps(request.sampler, steps)?;
    let taken = ((steps.len() as f64 * strength) as usize).min(steps.len());
    let first_step = steps.len() - taken;
    let Some(timestep) = steps.get(first_step).and_then(|step| step.timestep) else {
        return Err(SampleError::Request(format!(
            "a strength of {strength} leaves none of {} steps; take more steps or a larger strength",
            steps.len()
        )));
    };
    let schedule = pipeline.scheduler.schedule().map_err(|error| SampleError::Sampler(error.into()))?;
    let alpha_cumprod = schedule.alphas_cumprod(timestep as usize);
    let elements: usize = images.shape[1..].iter().product();
    let noise = |index: usize| forward_noise(request.seed, index, elements);
    let noised = images.data.chunks(elements.max(1)).enumerate();
    let data = noised.flat_map(|(index, image)| add_noise(image, &noise(index), alpha_cumprod)).collect();
    let request = SampleRequest {
        num_images: images.shape[0],
        init_noise: Some(Images { shape: images.shape, data }),
        first_step,
        ..request.clone()
    };
    sample(device, pipeline, &request, progress).await
}
