//! What steers sampling towards a class.

use super::SampleError;
use crate::checkpoint::{Classifier, Pipeline};
use crate::diffusion::PredictionType;
use crate::ops::reverse_step::Update;
use crate::sampler::{NoiseLevels, Step};

/// How the network's output is guided towards the classes asked for.
#[derive(Clone, Debug)]
pub struct Guidance {
    /// Scale of classifier-free guidance (Ho and Salimans 2022) as diffusers counts it: 1 is none; the paper's w is one less.
    pub scale: f64,
    /// phi of Lin et al. 2023: 0 leaves the guided output as it is, 1 gives it the standard deviation of the unguided one.
    pub rescale: f64,
    /// A classifier whose gradient is added (Dhariwal and Nichol 2021), and its factor.
    pub classifier: Option<(Classifier, f64)>,
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
        let unet = &pipeline.unet;
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
        if self.is_classifier_free() && unet.null_class().is_none() {
            return fault(
                "classifier-free guidance needs a model that was trained with --label-dropout; this one has no class that \
                 means none"
                    .to_owned(),
            );
        }
        let Some((classifier, scale)) = &self.classifier else { return Ok(()) };
        if !scale.is_finite() {
            return fault(format!("the classifier scale is {scale}; it must be a number"));
        }
        let encoder = &classifier.config.encoder;
        if (encoder.image_size()?, encoder.in_channels) != (unet.image_size()?, unet.image_channels()) {
            let describe = |[h, w]: [usize; 2], c: usize| format!("{w}x{h} with {c} channels");
            return fault(format!(
                "the classifier knows images of {}, the model draws {}",
                describe(encoder.image_size()?, encoder.in_channels),
                describe(unet.image_size()?, unet.image_channels())
            ));
        }
        if let Some(classes) = unet.classes()
            && classes != classifier.config.num_classes
        {
            let known = classifier.config.num_classes;
            return fault(format!("the classifier knows {known} classes, the model has {classes}"));
        }
        let [process, of_classifier] =
            [&pipeline.scheduler, &classifier.scheduler].map(|config| config.schedule());
        let (process, of_classifier) = (sampler_error(process)?, sampler_error(of_classifier)?);
        if process.all_alphas_cumprod() != of_classifier.all_alphas_cumprod() {
            return fault(
                "the classifier was trained with another noise schedule than the model; train it with the same \
                 --beta-schedule"
                    .to_owned(),
            );
        }
        Ok(())
    }
}

fn sampler_error<T>(result: Result<T, crate::diffusion::ScheduleError>) -> Result<T, SampleError> {
    result.map_err(|error| SampleError::Sampler(error.into()))
}

/// What the classifier's gradient is multiplied by before it is added to the network's output.
#[derive(Debug)]
pub(super) struct ShiftFactors {
    pub(super) levels: NoiseLevels,
    pub(super) prediction_type: PredictionType,
    pub(super) scale: f64,
    /// Whether the sampler is DDPM, whose mean is shifted.
    pub(super) is_ddpm: bool,
}

impl ShiftFactors {
    /// The factor in a step that evaluates the network, and that of v in the exponent by which a learned variance changes it.
    ///
    /// In DDPM the mean moves by s sigma^2 gradient (Dhariwal and Nichol 2021, algorithm 1), sigma^2 being what the network says
    /// where it is learned: the output is shifted by what moves the mean so far, as long as x_0 is not clipped. Its last step has
    /// no variance, and so no guidance. In other samplers, see [`ShiftFactors::at`].
    pub(super) fn of(&self, step: &Step) -> [f64; 2] {
        if !self.is_ddpm {
            return [step.timestep.map_or(0.0, |t| self.at(t)), 0.0];
        }
        let Update { x_0: [_, of_output], x, sigma, log_range, .. } = &step.update;
        let mean_of_output = x.x_0 * of_output + x.output;
        let factor = if mean_of_output == 0.0 { 0.0 } else { self.scale * sigma * sigma / mean_of_output };
        [factor, 2.0 * log_range]
    }

    /// The factor at timestep `t`, whole or not, by which eps becomes eps - s sqrt(1 - abar) gradient (algorithm 2): the output
    /// is shifted by what does that to the eps that it stands for.
    fn at(&self, t: f64) -> f64 {
        let alpha_cumprod = self.levels.at(t).alpha_cumprod;
        let [_, of_output] = self.prediction_type.eps_factors(alpha_cumprod);
        -self.scale * (1.0 - alpha_cumprod).sqrt() / of_output
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::diffusion::{SchedulerConfig, VarianceType};
    use crate::sampler::{Process, Steps};

    fn factors(config: &SchedulerConfig, is_ddpm: bool) -> ShiftFactors {
        let ddpm = crate::sampler::by_name("ddpm").unwrap();
        let options = crate::sampler::SamplerOptions::new(config);
        let levels = Process::new(ddpm, config, &options).unwrap().noise_levels();
        ShiftFactors { levels, prediction_type: config.prediction_type, scale: 3.0, is_ddpm }
    }

    /// Whatever the network predicts, the shifted output stands for the shifted eps.
    #[test]
    fn the_shift_of_the_output_is_that_of_eps() {
        let schedule = SchedulerConfig::default().schedule().unwrap();
        for prediction_type in [PredictionType::Epsilon, PredictionType::Sample, PredictionType::VPrediction]
        {
            let factors = factors(&SchedulerConfig { prediction_type, ..SchedulerConfig::default() }, false);
            for t in [0, 10, 500, 999] {
                let abar = schedule.alphas_cumprod(t);
                let [of_x, of_output] = prediction_type.eps_factors(abar);
                let (x, output, gradient) = (0.7, -0.3, 0.2);
                let eps = of_x * x + of_output * output;
                let shifted = of_x * x + of_output * (output + factors.at(t as f64) * gradient);
                let expected = eps - 3.0 * (1.0 - abar).sqrt() * gradient;
                assert!((shifted - expected).abs() < 1e-9, "{prediction_type:?} at {t}");
            }
        }
    }

    /// Algorithm 1 of Dhariwal and Nichol: the mean of each step of DDPM moves by s Sigma gradient, where Sigma may be
    /// learned (Nichol and Dhariwal 2021, equation 15).
    #[test]
    fn the_mean_of_ddpm_moves_by_the_variance_times_the_gradient() {
        let predictions = [PredictionType::Epsilon, PredictionType::Sample, PredictionType::VPrediction];
        let variances = [VarianceType::FixedSmall, VarianceType::FixedLarge, VarianceType::LearnedRange];
        for (prediction_type, variance_type) in
            predictions.into_iter().flat_map(|prediction| variances.map(|variance| (prediction, variance)))
        {
            let config = SchedulerConfig {
                prediction_type,
                variance_type,
                clip_sample: false,
                ..SchedulerConfig::default()
            };
            let factors = factors(&config, true);
            let schedule = config.schedule().unwrap();
            let ddpm = crate::sampler::by_name("ddpm").unwrap();
            let options = crate::sampler::SamplerOptions::new(&config);
            let Steps::Fixed(steps) = ddpm.start(&config, &options).unwrap() else { unreachable!() };
            for step in steps.iter().step_by(111) {
                let posterior = schedule.posterior(step.timestep.unwrap() as usize);
                let (small, large) = (posterior.variance.max(1e-20), posterior.beta);
                let (output, gradient, v) = (-0.3, 0.2, -0.4);
                let sigma = match variance_type {
                    _ if step.timestep == Some(0.0) => 0.0,
                    VarianceType::FixedSmall | VarianceType::FixedSmallLog => small,
                    VarianceType::FixedLarge => large,
                    VarianceType::LearnedRange => (0.3 * large.ln() + 0.7 * small.ln()).exp(),
                };
                let mean = |output: f64| {
                    let [of_x, of_output] = step.update.x_0;
                    step.update.x.value([of_x * 0.7 + of_output * output, 0.7, output], &[])
                };
                let [factor, range] = factors.of(step);
                let moved = mean(output + factor * (range * v).exp() * gradient) - mean(output);
                let expected = 3.0 * sigma * gradient;
                let case = format!("{prediction_type:?}, {variance_type:?}, {:?}", step.timestep);
                assert!((moved - expected).abs() < 1e-12, "{case}: {moved} and {expected}");
            }
        }
    }
}
