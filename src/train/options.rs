//! What a training run is told.

use std::fmt::Display;
use std::ops::Range;

use serde::{Deserialize, Serialize};

use super::{LossType, Objective, Optimizer, TimestepSampling, TrainError};
use crate::diffusion::LossWeighting;
use crate::network::Precision;
use crate::ops::adamw::AdamW;
use crate::random::Numbering;

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

/// How weights follow gradients.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OptimizerKind {
    /// AdamW: weight decay is apart from the gradient (Loshchilov and Hutter 2019).
    #[default]
    AdamW,
    /// Adam: weight decay is a part of the gradient, as in `torch.optim.Adam` (Kingma and Ba 2015).
    Adam,
}

impl OptimizerKind {
    /// Every optimiser with its name on the command line.
    pub const ALL: [(&'static str, Self); 2] = [("adamw", Self::AdamW), ("adam", Self::Adam)];
}

/// How the moving average of the weights begins, when the weights still move fast: its decay, up to the one asked for,
/// at step t, counted from 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EmaWarmup {
    /// (1 + t) / (10 + t).
    #[default]
    Ratio,
    /// 1 - (1 + t / inv_gamma)^-power, as diffusers' `EMAModel` with `use_ema_warmup`: with 1 and 2/3 the decay is
    /// 0.999 at step 31,600, with 1 and 3/4 at step 10,000.
    Power {
        /// The larger, the longer the average follows closely.
        inv_gamma: f64,
        /// The larger, the sooner the average is long.
        power: f64,
    },
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
    /// Images that are on the device at once, of which `batch_size` is a multiple; `None` for all. The gradients of a
    /// step are added up, so that it is the same but for rounding, and takes the memory of fewer images.
    pub micro_batch_size: Option<usize>,
    /// How weights follow gradients.
    pub optimizer: OptimizerKind,
    /// Learning rate after the warm-up.
    pub learning_rate: f64,
    /// Steps over which the learning rate grows linearly from 0.
    pub warmup_steps: u64,
    /// What the learning rate does after the warm-up.
    pub lr_schedule: LrSchedule,
    /// Decay of the first and second moment.
    pub betas: [f32; 2],
    /// Weight decay.
    pub weight_decay: f32,
    /// Largest norm of all gradients; 0 for no clip.
    pub max_grad_norm: f32,
    /// Largest decay of the moving average of the weights.
    pub ema_decay: f64,
    /// Largest decays of further averages, which a checkpoint keeps beside.
    pub extra_ema_decays: Vec<f64>,
    /// What smaller decays all averages begin with.
    pub ema_warmup: EmaWarmup,
    /// Whether images are mirrored at random.
    pub random_flip: bool,
    /// Pixels by which images are shifted at random, at most, in each direction.
    pub random_shift: usize,
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
    /// Which numbers the streams have that are drawn from the seed. A resumed run keeps its own.
    #[serde(default = "Numbering::of_older_checkpoints")]
    pub random_streams: Numbering,
    /// Whether the reverse pass computes the inside of blocks again instead of keeping it: less memory, the same
    /// results.
    #[serde(default)]
    pub checkpointing: bool,
    /// Patterns of the names of parameters that are not trained; `*` stands for any text.
    pub freeze: Vec<String>,
    /// The model that the first weights are of, in words; `None` where they were drawn from `seed`.
    pub init_from: Option<String>,
}

impl Default for TrainOptions {
    fn default() -> Self {
        Self {
            steps: 10_000,
            batch_size: 64,
            micro_batch_size: None,
            optimizer: OptimizerKind::AdamW,
            learning_rate: 2e-4,
            warmup_steps: 100,
            lr_schedule: LrSchedule::Constant,
            betas: [0.9, 0.999],
            weight_decay: 0.0,
            max_grad_norm: 1.0,
            ema_decay: 0.999,
            extra_ema_decays: Vec::new(),
            ema_warmup: EmaWarmup::Ratio,
            random_flip: false,
            random_shift: 0,
            objective: Objective::Simple,
            loss_type: LossType::Mse,
            loss_weighting: LossWeighting::Uniform,
            learned_schedule: false,
            timestep_sampling: TimestepSampling::Uniform,
            label_dropout: 0.0,
            precision: Precision::F32,
            seed: 0,
            random_streams: Numbering::ByPurpose,
            checkpointing: false,
            freeze: Vec::new(),
            init_from: None,
        }
    }
}

impl TrainOptions {
    /// Refuses settings that make no sense.
    ///
    /// # Errors
    /// [`TrainError::Setting`]
    pub fn check(&self) -> Result<(), TrainError> {
        let refuse = |names, text: String| Err(TrainError::setting(names, text));
        let require =
            |is_right: bool, names: &'static [&'static str; 1], value: &dyn Display, range: &str| {
                let text = || format!("`{}` is {value}; it must be {range}", names[0]);
                if is_right { Ok(()) } else { Err(TrainError::setting(names, text())) }
            };
        let is_share = |value: f64| (0.0..1.0).contains(&value);
        let is_positive = |value: f64| value.is_finite() && value > 0.0;
        const SHARE: &str = "at least 0 and below 1";
        require(self.batch_size > 0, &["batch_size"], &self.batch_size, "at least 1")?;
        if let Some(size) = self.micro_batch_size
            && (size == 0 || !self.batch_size.is_multiple_of(size))
        {
            let all = self.batch_size;
            return refuse(
                &["micro_batch_size", "batch_size"],
                format!(
                    "`micro_batch_size` is {size}; it must divide `batch_size`, which is {all}, without remainder"
                ),
            );
        }
        require(self.steps > 0, &["steps"], &self.steps, "at least 1")?;
        require(is_positive(self.learning_rate), &["learning_rate"], &self.learning_rate, "above 0")?;
        for (index, decay) in self.ema_decays().enumerate() {
            require(is_share(decay), &["ema_decay"], &decay, SHARE)?;
            if self.ema_decays().take(index).any(|other| other == decay) {
                return refuse(
                    &["ema_decay"],
                    format!("two averages have `ema_decay` {decay}; give each decay once"),
                );
            }
        }
        if let EmaWarmup::Power { inv_gamma, power } = self.ema_warmup {
            require(is_positive(inv_gamma), &["ema_warmup.inv_gamma"], &inv_gamma, "above 0")?;
            require(is_positive(power), &["ema_warmup.power"], &power, "above 0")?;
        }
        require(is_share(self.label_dropout), &["label_dropout"], &self.label_dropout, SHARE)?;
        let [beta1, beta2] = self.betas;
        require(is_share(beta1.into()), &["betas[0]"], &beta1, SHARE)?;
        require(is_share(beta2.into()), &["betas[1]"], &beta2, SHARE)?;
        let is_bound = |value: f32| value.is_finite() && value >= 0.0;
        require(is_bound(self.weight_decay), &["weight_decay"], &self.weight_decay, "at least 0")?;
        require(is_bound(self.max_grad_norm), &["max_grad_norm"], &self.max_grad_norm, "at least 0")?;
        // Each step leaves a weight the share 1 - rate * decay of itself: below -1 it grows, whatever the gradients
        // say.
        let shrinks_by = self.learning_rate * f64::from(self.weight_decay);
        if self.optimizer == OptimizerKind::AdamW && shrinks_by > 1.0 {
            return refuse(
                &["weight_decay", "learning_rate"],
                format!(
                    "`weight_decay` is {} and `learning_rate` {}; their product, the share of itself that a weight loses in \
                     a step, is {shrinks_by:.1e}; it must be at most 1",
                    self.weight_decay, self.learning_rate
                ),
            );
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

    /// The numbering of the random streams of a run whose settings a checkpoint keeps so.
    ///
    /// # Errors
    /// [`TrainError::Options`] for a numbering that is not known here.
    pub(super) fn random_streams_of(saved: &serde_json::Value) -> Result<Numbering, TrainError> {
        let Some(name) = saved.get("random_streams") else { return Ok(Numbering::of_older_checkpoints()) };
        serde_json::from_value(name.clone()).map_err(|_| {
            TrainError::Options(format!(
                "the checkpoint's random_streams are {name}, which this version does not know; go on with the version \
                 that wrote it, or start anew"
            ))
        })
    }

    /// The optimiser's constants and the clip.
    pub fn optimizer(&self) -> Optimizer {
        let [beta1, beta2] = self.betas;
        let [weight_decay, l2_penalty] = match self.optimizer {
            OptimizerKind::AdamW => [self.weight_decay, 0.0],
            OptimizerKind::Adam => [0.0, self.weight_decay],
        };
        Optimizer {
            adamw: AdamW { beta1, beta2, eps: 1e-8, weight_decay, l2_penalty },
            extra_emas: self.extra_ema_decays.len(),
            max_grad_norm: (self.max_grad_norm > 0.0).then_some(self.max_grad_norm),
            scales_loss: self.precision == Precision::F16,
            micro_batches: self.micro_batches().len(),
        }
    }

    /// The images of each micro-batch, by their numbers in the batch.
    pub fn micro_batches(&self) -> impl ExactSizeIterator<Item = Range<usize>> + use<> {
        let size = self.images_at_once();
        (0..self.batch_size / size).map(move |index| index * size..(index + 1) * size)
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

    /// Largest decays of all averages, the first one first.
    pub fn ema_decays(&self) -> impl Iterator<Item = f64> {
        std::iter::once(self.ema_decay).chain(self.extra_ema_decays.iter().copied())
    }

    /// Largest decay of any average after step `step`, counted from 0.
    pub fn ema_warmup_at(&self, step: u64) -> f64 {
        let step = step as f64;
        match self.ema_warmup {
            EmaWarmup::Ratio => (1.0 + step) / (10.0 + step),
            EmaWarmup::Power { inv_gamma, power } => 1.0 - (1.0 + step / inv_gamma).powf(-power),
        }
    }

    /// What the optimiser is told of step `step`, counted from 0: see [`AdamW::schedule`]; and the decays of the
    /// further averages.
    pub fn schedule_at(&self, step: u64) -> ([f32; 4], Vec<f32>) {
        let warmup = self.ema_warmup_at(step);
        let adamw = self.optimizer().adamw;
        let schedule = adamw.schedule(step + 1, self.learning_rate_at(step), self.ema_decay.min(warmup));
        (schedule, self.extra_ema_decays.iter().map(|decay| decay.min(warmup) as f32).collect())
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
        let options =
            TrainOptions { ema_decay: 0.995, extra_ema_decays: vec![0.5, 0.9999], ..TrainOptions::default() };
        let decays = |step| {
            let ([_, _, _, first], others) = options.schedule_at(step);
            [first, others[0], others[1]]
        };
        assert_eq!(decays(0), [0.1; 3]);
        assert_eq!(decays(17), [18.0 / 27.0, 0.5, 18.0 / 27.0]);
        assert_eq!(decays(10_000_000), [0.995, 0.5, 0.9999]);
    }

    #[test]
    fn the_power_function_is_that_of_diffusers() {
        // EMAModel(decay=0.9999, use_ema_warmup=True, inv_gamma=..., power=...).get_decay(step + 1), diffusers 0.42
        for (inv_gamma, power, expected) in [
            (
                1.0,
                2.0 / 3.0,
                [0.0, 0.3700394750525634, 0.7845565309968117, 0.9900066611160449, 0.9995358442110055],
            ),
            (1.0, 0.75, [0.0, 0.4053964424986395, 0.8221720589961077, 0.9943808006210502, 0.999822173392694]),
            (
                20.0,
                0.5,
                [0.0, 0.024099927051466796, 0.16954520146260033, 0.8599719915971991, 0.9858592783777347],
            ),
        ] {
            let options =
                TrainOptions { ema_warmup: EmaWarmup::Power { inv_gamma, power }, ..TrainOptions::default() };
            for (step, expected) in [0, 1, 9, 1000, 100_000].into_iter().zip(expected) {
                let decay = options.ema_warmup_at(step).min(0.9999);
                assert!((decay - expected).abs() < 1e-12, "{step}: {decay}, expected {expected}");
            }
        }
    }

    #[test]
    fn a_weight_decay_that_is_larger_than_the_weights_is_refused() {
        let check = |weight_decay, optimizer| {
            let options =
                TrainOptions { weight_decay, optimizer, learning_rate: 1e-3, ..TrainOptions::default() };
            options.check().err().map(|error| error.to_string())
        };
        assert_eq!(check(1000.0, OptimizerKind::AdamW), None);
        assert_eq!(check(1e9, OptimizerKind::Adam), None);
        let error = check(1e9, OptimizerKind::AdamW).unwrap_or_default();
        assert!(error.contains("`weight_decay` is 1000000000") && error.contains("1.0e6"), "{error}");
    }

    #[test]
    fn averages_that_make_no_sense_are_refused() {
        let check = |extra: f64, power: f64| {
            let ema_warmup = EmaWarmup::Power { inv_gamma: 1.0, power };
            let options =
                TrainOptions { extra_ema_decays: vec![extra], ema_warmup, ..TrainOptions::default() };
            options.check().err().map(|error| error.to_string())
        };
        assert_eq!(check(0.9999, 0.75), None);
        for (extra, power, words) in [
            (1.0, 0.75, "`ema_decay` is 1;"),
            (0.999, 0.75, "two averages have `ema_decay` 0.999"),
            (0.9, 0.0, "`ema_warmup.power` is 0;"),
        ] {
            assert!(check(extra, power).is_some_and(|error| error.contains(words)), "{words}");
        }
    }
}
