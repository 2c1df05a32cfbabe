//! What steers sampling towards a class.

use super::SampleError;
use crate::diffusion::PredictionType;
use crate::image_size::image_in_words;
use crate::network::Input;
use crate::pipeline::Pipeline;
use crate::sampler::{NoiseLevels, Step, Update};
use crate::setting::SettingError;

/// How the network's output is guided towards the classes asked for.
#[derive(Clone, Debug)]
pub struct Guidance {
    /// Scale of classifier-free guidance (Ho and Salimans 2022) as diffusers counts it: 1 is none; the paper's w is one
    /// less.
    pub scale: f64,
    /// phi of Lin et al. 2023: 0 leaves the guided output as it is, 1 gives it the standard deviation of the unguided
    /// one.
    pub rescale: f64,
    /// A classifier whose gradient is added (Dhariwal and Nichol 2021), and its factor.
    pub classifier: Option<(Pipeline, f64)>,
}

impl Default for Guidance {
    /// None.
    fn default() -> Self {
        Self { scale: 1.0, rescale: 0.0, classifier: None }
    }
}

impl Guidance {
    /// Whether the network is evaluated without a class too.
    pub(super) fn is_classifier_free(&self) -> bool {
        self.scale != 1.0
    }

    /// Refuses what makes no sense or does not fit the model.
    ///
    /// # Errors
    /// [`SampleError::Request`]
    pub fn check(&self, pipeline: &Pipeline) -> Result<(), SampleError> {
        let fault = |text: String| Err(SampleError::Request(text));
        let network = &pipeline.denoiser()?.network;
        if !(self.scale.is_finite() && self.scale >= 0.0) {
            return fault(format!(
                "the guidance scale is {}; it must be at least 0, and 1 is no guidance",
                self.scale
            ));
        }
        if !(0.0..=1.0).contains(&self.rescale) {
            return fault(format!("the guidance rescale is {}; it must be from 0 to 1", self.rescale));
        }
        if self.rescale != 0.0 && !self.is_classifier_free() {
            return fault(
                "guidance is rescaled only where there is some: give a guidance scale other than 1"
                    .to_owned(),
            );
        }
        if self.is_classifier_free() && !network.conditions()?.iter().any(Input::has_unconditional) {
            let message = "classifier-free guidance needs a model that was trained with label dropout; this one has no class \
                           that its file says to mean none: name the class, if one does";
            return Err(SettingError::new(&["label_dropout", "null_class"], message).into());
        }
        let Some((classifier, scale)) = &self.classifier else { return Ok(()) };
        if !scale.is_finite() {
            return fault(format!("the classifier scale is {scale}; it must be a number"));
        }
        let guide = &classifier.classifier()?.network;
        let (known, drawn) = (guide.image()?, network.image()?);
        if known != drawn {
            return fault(format!(
                "the classifier knows images of {}, the model draws {}",
                image_in_words(known),
                image_in_words(drawn)
            ));
        }
        let known = guide.classes_told()?;
        if let Some(classes) = network.num_classes()
            && classes != known
        {
            return fault(format!("the classifier knows {known} classes, the model has {classes}"));
        }
        let [process, of_classifier] =
            [&pipeline.scheduler, &classifier.scheduler].map(|config| config.schedule());
        let (process, of_classifier) = (sampler_error(process)?, sampler_error(of_classifier)?);
        if process.all_alphas_cumprod() != of_classifier.all_alphas_cumprod() {
            let [drawn, known] = [&pipeline.scheduler, &classifier.scheduler];
            let what = known.difference_of_schedule(drawn).unwrap_or_default();
            return fault(format!(
                "the classifier was trained for another noise schedule than the model{what}; train one for the model's"
            ));
        }
        Ok(())
    }
}

fn sampler_error<T>(result: Result<T, crate::diffusion::ScheduleError>) -> Result<T, SampleError> {
    result.map_err(|error| SampleError::Sampler(error.into()))
}

/// What a classifier's gradient moves in a step, and by which factor.
#[derive(Debug)]
pub(super) enum Shift {
    /// The network's output. It moves so that its eps becomes eps - s sqrt(1 - abar) gradient (Dhariwal and Nichol
    /// 2021, algorithm 2). x_0 is estimated and clamped afterwards, so it stays within the range of images.
    Output {
        /// The process.
        levels: NoiseLevels,
        /// What the output stands for.
        prediction_type: PredictionType,
        /// s.
        scale: f64,
    },
    /// The mean of the next x: by s Sigma gradient (algorithm 1), with the step's variance Sigma, learned or not. The
    /// last step has none, and so no guidance.
    Mean {
        /// s.
        scale: f64,
    },
}

impl Shift {
    /// Whether it moves the mean.
    pub(super) fn is_of_mean(&self) -> bool {
        matches!(self, Self::Mean { .. })
    }

    /// The factors of one image that its part of the graph takes: that of the gradient; and for a mean also that of v,
    /// which says what a learned variance is, in an exponent.
    pub(super) fn factors(&self, step: Option<&Step>) -> Vec<f64> {
        match self {
            Self::Output { .. } => vec![step.and_then(|step| step.timestep).map_or(0.0, |t| self.at(t))],
            Self::Mean { scale } => match step.map(|step| &step.update) {
                Some(Update { sigma, log_range, .. }) => vec![scale * sigma * sigma, 2.0 * log_range],
                None => vec![0.0; 2],
            },
        }
    }

    /// The factor of the output's shift at timestep `t`, whole or not.
    fn at(&self, t: f64) -> f64 {
        let Self::Output { levels, prediction_type, scale } = self else { return 0.0 };
        let level = levels.at(t);
        let [_, of_output] = prediction_type.eps_factors(level.alpha_cumprod);
        -scale * level.sigma() / of_output
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests;
