//! What a training run is told.

use serde::{Deserialize, Serialize};

use super::{LossType, Objective, Optimizer, TimestepSampling, TrainError};
use crate::diffusion::LossWeighting;
use crate::model::Precision;
use crate::ops::adamw::AdamW;

/// How the learning rate goes on after the warm-up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LrSchedule {
    /// It stays.
    #[default]
    Constant,
    /// It falls to 0 at the last step along half a cosine (Loshchilov and Hutter 2017, equation 5).
    Cosine,
    /// It falls to 0 at the last step along a line.
    Linear,
}

impl LrSchedule {
    /// Every schedule with its name on the command line.
    pub const ALL: [(&'static str, Self); 3] =
        [("constant", Self::Constant), ("cosine", Self::Cosine), ("linear", Self::Linear)];

    /// Share of the full learning rate, for the share of the run that is done, 0 to 1.
    fn factor(self, done: f64) -> f64 {
        match self {
            Self::Constant => 1.0,
            Self::Cosine => 0.5 * (1.0 + (std::f64::consts::PI * done).cos()),
            Self::Linear => 1.0 - done,
        }
    }
}

/// The settings of a training run; saved with every checkpoint.
///
/// What an older checkpoint does not know has its default there: that is what the run did.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct TrainOptions {
    /// Steps in all, those before a resume included.
    pub steps: u64,
    /// Images in a step.
    pub batch_size: usize,
    /// Images that are on the device at once, of which `batch_size` is a multiple; `None` for all. The gradients of a step
    /// are added up, so that it is the same but for rounding, and takes the memory of fewer images.
    pub micro_batch_size: Option<usize>,
    /// AdamW's learning rate after the warm-up.
    pub learning_rate: f64,
    /// Steps over which the learning rate grows linearly from 0.
    pub warmup_steps: u64,
    /// What the learning rate does after the warm-up.
    pub lr_schedule: LrSchedule,
    /// AdamW's decay of the first and second moment.
    pub betas: [f32; 2],
    /// AdamW's weight decay.
    pub weight_decay: f32,
    /// Largest norm of all gradients; 0 for no clip.
    pub max_grad_norm: f32,
    /// Largest decay of the moving average of the weights; early steps use (1 + step) / (10 + step).
    pub ema_decay: f64,
    /// Whether images are mirrored at random.
    pub random_flip: bool,
    /// What is minimised.
    pub objective: Objective,
    /// How a prediction is compared with what it should be, where the objective has such a term.
    pub loss_type: LossType,
    /// How much that term counts at each noise level.
    pub loss_weighting: LossWeighting,
    /// Whether the noise schedule is learned, between the ends of the one that the process has.
    pub learned_schedule: bool,
    /// How timesteps are drawn.
    pub timestep_sampling: TimestepSampling,
    /// Share of the images that are trained on as of no class, for classifier-free guidance.
    pub label_dropout: f64,
    /// How activations are stored; with f16 the loss is scaled.
    pub precision: Precision,
    /// Decides initial weights, order of the data, timesteps, noise and all dropout.
    pub seed: u64,
    /// Whether the reverse pass computes the inside of blocks again instead of keeping it: less memory, the same results.
    #[serde(default)]
    pub checkpointing: bool,
}

impl Default for TrainOptions {
    fn default() -> Self {
        Self {
            steps: 10_000,
            batch_size: 64,
            micro_batch_size: None,
            learning_rate: 2e-4,
            warmup_steps: 100,
            lr_schedule: LrSchedule::Constant,
            betas: [0.9, 0.999],
            weight_decay: 0.0,
            max_grad_norm: 1.0,
            ema_decay: 0.999,
            random_flip: false,
            objective: Objective::Simple,
            loss_type: LossType::Mse,
            loss_weighting: LossWeighting::Uniform,
            learned_schedule: false,
            timestep_sampling: TimestepSampling::Uniform,
            label_dropout: 0.0,
            precision: Precision::F32,
            seed: 0,
            checkpointing: false,
        }
    }
}

impl TrainOptions {
    /// Refuses settings that make no sense.
    ///
    /// # Errors
    /// [`TrainError::Options`] naming the flag.
    pub fn check(&self) -> Result<(), TrainError> {
        let fault = |text: String| Err(TrainError::Options(text));
        if self.batch_size == 0 {
            return fault("--batch-size is 0; it must be at least 1".to_owned());
        }
        if let Some(size) = self.micro_batch_size
            && (size == 0 || !self.batch_size.is_multiple_of(size))
        {
            return fault(format!(
                "--micro-batch-size is {size}; it must divide --batch-size, which is {}, without remainder",
                self.batch_size
            ));
        }
        if self.steps == 0 {
            return fault("--steps is 0; it must be at least 1".to_owned());
        }
        if !(self.learning_rate.is_finite() && self.learning_rate > 0.0) {
            return fault(format!("--learning-rate is {}; it must be above 0", self.learning_rate));
        }
        if !(0.0..1.0).contains(&self.ema_decay) {
            return fault(format!("--ema-decay is {}; it must be at least 0 and below 1", self.ema_decay));
        }
        if !(0.0..1.0).contains(&self.label_dropout) {
            return fault(format!(
                "--label-dropout is {}; it must be at least 0 and below 1",
                self.label_dropout
            ));
        }
        for (flag, value) in [("--adam-beta1", self.betas[0]), ("--adam-beta2", self.betas[1])] {
            if !(0.0..1.0).contains(&value) {
                return fault(format!("{flag} is {value}; it must be at least 0 and below 1"));
            }
        }
        for (flag, value) in [("--weight-decay", self.weight_decay), ("--max-grad-norm", self.max_grad_norm)]
        {
            if !(value.is_finite() && value >= 0.0) {
                return fault(format!("{flag} is {value}; it must be at least 0"));
            }
        }
        Ok(())
    }

    /// The settings as a checkpoint keeps them.
    ///
    /// # Errors
    /// [`TrainError::Options`] for a number that JSON does not have.
    pub fn to_json(&self) -> Result<serde_json::Value, TrainError> {
        serde_json::to_value(self)
            .map_err(|error| TrainError::Options(format!("the settings cannot be saved: {error}")))
    }

    /// AdamW's constants and the clip.
    pub fn optimizer(&self) -> Optimizer {
        let [beta1, beta2] = self.betas;
        Optimizer {
            adamw: AdamW { beta1, beta2, eps: 1e-8, weight_decay: self.weight_decay },
            max_grad_norm: (self.max_grad_norm > 0.0).then_some(self.max_grad_norm),
            scales_loss: self.precision == Precision::F16,
            micro_batches: self.batch_size / self.images_at_once(),
        }
    }

    /// Images that are on the device at once.
    pub fn images_at_once(&self) -> usize {
        self.micro_batch_size.unwrap_or(self.batch_size)
    }

    /// Learning rate of step `step`, counted from 0.
    pub fn learning_rate_at(&self, step: u64) -> f64 {
        if step < self.warmup_steps {
            return self.learning_rate * (step + 1) as f64 / self.warmup_steps as f64;
        }
        let rest = self.steps.saturating_sub(self.warmup_steps).max(1);
        self.learning_rate * self.lr_schedule.factor((step - self.warmup_steps) as f64 / rest as f64)
    }

    /// Decay of the moving average after step `step`, counted from 0.
    pub fn ema_decay_at(&self, step: u64) -> f64 {
        self.ema_decay.min((1.0 + step as f64) / (10.0 + step as f64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_learning_rate_warms_up_and_falls() {
        let options = TrainOptions {
            steps: 110,
            warmup_steps: 10,
            learning_rate: 1.0,
            lr_schedule: LrSchedule::Cosine,
            ..TrainOptions::default()
        };
        let rates = [0, 4, 9, 10, 60, 109].map(|step| options.learning_rate_at(step));
        let expected = [0.1, 0.5, 1.0, 1.0, 0.5, 0.5 * (1.0 + (0.99 * std::f64::consts::PI).cos())];
        for (rate, expected) in rates.into_iter().zip(expected) {
            assert!((rate - expected).abs() < 1e-12, "{rates:?}");
        }
        let constant = TrainOptions { warmup_steps: 0, ..TrainOptions::default() };
        assert_eq!(constant.learning_rate_at(0), constant.learning_rate_at(9999));
    }

    #[test]
    fn the_average_follows_closely_at_first() {
        let options = TrainOptions { ema_decay: 0.995, ..TrainOptions::default() };
        assert_eq!(options.ema_decay_at(0), 0.1);
        assert_eq!(options.ema_decay_at(1_000_000), 0.995);
    }
}
