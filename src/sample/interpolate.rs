//! Interpolation between images by way of their noise (Song, Meng and Ermon 2021, section 5.3).

use super::draw::init_noise;
use super::{Images, SampleError, SampleProgress, SampleRequest, sample};
use crate::device::Device;
use crate::pipeline::Pipeline;
use crate::sampler;

/// The noise x_T `[1, H, W, C]` that a seed decides for its first image.
///
/// # Errors
/// [`SampleError::Model`] for a model without an image size.
pub fn noise_of_seed(pipeline: &Pipeline, seed: u64) -> Result<Images, SampleError> {
    let [h, w, c] = pipeline.denoiser()?.network.image()?;
    Ok(Images { shape: [1, h, w, c], data: init_noise(seed, 0, 1, h * w * c) })
}

/// The noise that the sampler `ddim` makes `images` of, by its inversion with the request's steps and classes.
///
/// Guidance is left out: with it, the way there and the way back differ.
///
/// # Errors
/// [`SampleError`] for images that do not fit the model, or trouble on the device.
pub async fn invert(
    device: &Device,
    pipeline: &Pipeline,
    images: &Images,
    request: &SampleRequest,
    progress: &mut (dyn FnMut(SampleProgress) + Send),
) -> Result<Images, SampleError> {
    let request = SampleRequest {
        num_images: images.shape[0],
        sampler: sampler::by_name("ddim_inverse")?,
        init_noise: Some(images.clone()),
        guidance: super::Guidance::default(),
        ..request.clone()
    };
    Ok(sample(device, pipeline, &request, progress).await?.images)
}

/// Spherical interpolation from `from` to `to`, both `[1, H, W, C]`, in `count` images with both ends, `[count, H, W, C]`.
///
/// Between two samples of high-dimensional noise this keeps the length that noise has; a straight line would pass through
/// noise too small for the network (Shoemake 1985; Song et al. 2021, appendix D.5).
pub fn slerp(from: &Images, to: &Images, count: usize) -> Images {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
    let (a, b) = (&from.data, &to.data);
    let cosine = dot(a, b) / (dot(a, a) * dot(b, b)).sqrt();
    let angle = cosine.clamp(-1.0, 1.0).acos();
    let [_, h, w, c] = from.shape;
    let mut data = Vec::with_capacity(count * a.len());
    for index in 0..count {
        let share = index as f64 / (count - 1).max(1) as f64;
        // Of two directions that are one, or opposite, there is no sphere to go along.
        let (of_a, of_b) = if angle.sin() > 1e-6 {
            (((1.0 - share) * angle).sin() / angle.sin(), (share * angle).sin() / angle.sin())
        } else {
            (1.0 - share, share)
        };
        data.extend(a.iter().zip(b).map(|(a, b)| (of_a * f64::from(*a) + of_b * f64::from(*b)) as f32));
    }
    Images { shape: [count, h, w, c], data }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_way_lies_on_the_sphere() {
        let images = |data: Vec<f32>| Images { shape: [1, 1, 2, 1], data };
        let (from, to) = (images(vec![2.0, 0.0]), images(vec![0.0, 2.0]));
        let way = slerp(&from, &to, 4);
        assert_eq!(way.shape, [4, 1, 2, 1]);
        for (index, point) in way.data.chunks(2).enumerate() {
            let angle = std::f32::consts::FRAC_PI_2 * index as f32 / 3.0;
            assert!(
                (point[0] - 2.0 * angle.cos()).abs() < 1e-6 && (point[1] - 2.0 * angle.sin()).abs() < 1e-6
            );
        }
        let same = slerp(&from, &from, 3);
        assert_eq!(same.data, [2.0, 0.0, 2.0, 0.0, 2.0, 0.0]);
    }
}
