//! What a super-resolution model is given: smaller images, enlarged and noised.

use super::forward_process::forward_noise;
use super::{Images, SampleError};
use crate::conditions::{Condition, Numbers};
use crate::diffusion::Mixing;
use crate::pipeline::Pipeline;

/// The smaller images that a super-resolution model enlarges.
#[derive(Clone, Debug, PartialEq)]
pub struct LowResolution {
    /// `[N, h, w, C]`, of the model's `low_size`
    pub images: Images,
    /// Steps of the forward process by which they are noised (conditioning augmentation, Ho et al. 2021, section 4.2).
    pub augmentation: usize,
}

impl LowResolution {
    /// The condition images `[N, H, W, C]` that they make, with noise that `seed` decides.
    pub(super) fn prepare(&self, pipeline: &Pipeline, seed: u64) -> Result<Condition, SampleError> {
        let fault = |text: String| Err(SampleError::Request(text));
        let network = &pipeline.denoiser()?.network;
        let [height, width, channels] = network.image()?;
        let Some(model) = network.super_resolution() else {
            return fault(
                "the model is none of super-resolution: it takes no low-resolution images".to_owned(),
            );
        };
        let ([n, h, w, c], [low_h, low_w]) = (self.images.shape, model.low_size.sides());
        if [h, w, c] != [low_h, low_w, channels] {
            let expected = [n, channels, low_h, low_w];
            return fault(format!(
                "the low-resolution images are {:?}, the model takes {expected:?}",
                [n, c, h, w]
            ));
        }
        let schedule = pipeline.scheduler.schedule().map_err(|error| SampleError::Sampler(error.into()))?;
        let most = schedule.num_train_timesteps();
        if self.augmentation > most {
            return fault(format!(
                "the noise augmentation is {}; the process has {most} steps",
                self.augmentation
            ));
        }
        let enlarged = model.enlarge(&self.images.data, c, [height, width]);
        let mixing = Mixing::at(schedule.alphas_cumprod_after(self.augmentation));
        let elements = enlarged.len() / n.max(1);
        let noised = enlarged.chunks(elements.max(1)).enumerate();
        let noised =
            noised.flat_map(|(index, image)| mixing.mix(image, &forward_noise(seed, index, elements)));
        let condition = Condition::new(elements, Numbers::Floats(noised.collect()));
        condition.map_or_else(|| fault("the low-resolution images are not whole".to_owned()), Ok)
    }
}
