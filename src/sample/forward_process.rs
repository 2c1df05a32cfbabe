//! The forward process on the host: images with noise, to look at and to start from.

use super::Images;
use crate::diffusion::{Mixing, Schedule};
use crate::random::{Purpose, Stream, normals};

/// The noise of image `index`, `elements` standard normals: a function of the seed and the index alone.
pub(super) fn forward_noise(seed: u64, index: usize, elements: usize) -> Vec<f32> {
    let stream = Purpose::ForwardNoise.into();
    normals(Stream { seed, step: 0, stream, sample: index as u32 }, elements)
}

/// The forward process of images `[N, H, W, C]` at chosen timesteps `[T]`: `[N T, H, W, C]`, an image's timesteps together.
///
/// An image has the same eps at all its timesteps, so that the strip shows one way from the image to noise. A timestep is as
/// the network counts it: 0 has one step's noise.
///
/// # Panics
/// If a timestep is not below the schedule's length.
pub fn forward_process(images: &Images, schedule: &Schedule, timesteps: &[usize], seed: u64) -> Images {
    let [n, h, w, c] = images.shape;
    let mut data = Vec::with_capacity(images.data.len() * timesteps.len());
    // Images without a pixel are none.
    for (index, image) in images.data.chunks((h * w * c).max(1)).enumerate() {
        let eps = forward_noise(seed, index, image.len());
        for &t in timesteps {
            data.extend(Mixing::at(schedule.alphas_cumprod(t)).mix(image, &eps));
        }
    }
    Images { shape: [n * timesteps.len(), h, w, c], data }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::diffusion::SchedulerConfig;

    #[test]
    fn an_image_at_a_timestep_has_the_share_and_the_variance_of_the_schedule() {
        let schedule = SchedulerConfig::default().schedule().unwrap();
        let images = Images { shape: [2, 64, 48, 3], data: [vec![0.5; 9216], vec![-0.25; 9216]].concat() };
        let timesteps = [0, 250, 999];
        let noised = forward_process(&images, &schedule, &timesteps, 7);
        assert_eq!(noised.shape, [6, 64, 48, 3]);
        for (index, image) in noised.data.chunks(9216).enumerate() {
            let abar = schedule.alphas_cumprod(timesteps[index % 3]);
            let x_start = [0.5, -0.25][index / 3];
            let mean = image.iter().map(|&x| f64::from(x)).sum::<f64>() / 9216.0;
            let variance = image.iter().map(|&x| (f64::from(x) - mean).powi(2)).sum::<f64>() / 9216.0;
            // Five standard errors.
            let bound = 5.0 * ((1.0 - abar) / 9216.0).sqrt();
            assert!((mean - abar.sqrt() * x_start).abs() < bound, "image {index}: mean {mean}");
            assert!((variance / (1.0 - abar) - 1.0).abs() < 5.0 * (2.0f64 / 9216.0).sqrt(), "image {index}");
        }
        assert_ne!(noised.data[..9216], forward_process(&images, &schedule, &timesteps, 8).data[..9216]);
    }
}
