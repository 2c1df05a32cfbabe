//! What is minimised: which loss of an image, and how much each image's counts.

use serde::{Deserialize, Serialize};

use super::{TimestepSampling, TrainError, TrainOptions};
use crate::diffusion::{LossWeighting, Schedule, SchedulerConfig, VarianceType};
use crate::graph::{Graph, GraphError, Phase, TensorType, ValueId};
use crate::ops::{Regression, add, regression_loss, vlb_loss, weighted_mean};

/// How a prediction is compared with what it should be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LossType {
    /// By the squared error.
    #[default]
    Mse,
    /// By the absolute error.
    L1,
    /// By the squared error within `delta`, and the absolute error beyond (Huber 1964).
    Huber {
        /// Where the one becomes the other.
        delta: f32,
    },
}

/// What is minimised.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Objective {
    /// L_simple: the error of what the network predicts (Ho et al. 2020, equation 14).
    #[default]
    Simple,
    /// L_vlb: the variational bound in bits per dimension, but for L_T, which no weight changes (equation 5).
    Vlb,
    /// L_hybrid = L_simple + L_vlb / 1000, whose bound teaches the variance alone (Nichol and Dhariwal 2021,
    /// equation 16).
    Hybrid,
}

impl Objective {
    /// Every objective with its name on the command line.
    pub const ALL: [(&'static str, Self); 3] =
        [("simple", Self::Simple), ("vlb", Self::Vlb), ("hybrid", Self::Hybrid)];

    /// Factor of a term of the bound, for T timesteps: the mean over timesteps, times this, is the sum over them.
    fn vlb_scale(self, timesteps: usize) -> f64 {
        match self {
            Self::Simple => 0.0,
            Self::Vlb => timesteps as f64,
            Self::Hybrid => timesteps as f64 / 1000.0,
        }
    }
}

impl LossType {
    fn regression(self) -> Regression {
        match self {
            Self::Mse => Regression::Mse,
            Self::L1 => Regression::L1,
            Self::Huber { delta } => Regression::Huber { delta },
        }
    }
}

/// Refuses options that do not go together with the process, or with each other.
pub(super) fn check(options: &TrainOptions, scheduler: &SchedulerConfig) -> Result<(), TrainError> {
    let refuse = |names, text: &str| Err(TrainError::setting(names, text));
    let learned = scheduler.variance_type == VarianceType::LearnedRange;
    match options.objective {
        Objective::Simple if learned => {
            return refuse(
                &["objective", "scheduler.variance_type"],
                "a learned variance learns nothing from the objective `simple`, which does not look at the variance; use \
                 the objective `hybrid` or `vlb`",
            );
        }
        Objective::Hybrid if !learned => {
            return refuse(
                &["objective", "scheduler.variance_type"],
                "the objective `hybrid` adds a term that teaches the variance alone; use it with the variance \
                 `learned_range`, or take the objective `simple`",
            );
        }
        Objective::Vlb if options.loss_type != LossType::Mse => {
            return refuse(
                &["objective", "loss_type"],
                "the objective `vlb` is a bound of its own and takes no `loss_type`; use the objective `simple` or `hybrid`",
            );
        }
        Objective::Vlb if options.loss_weighting != LossWeighting::Uniform => {
            return refuse(
                &["objective", "loss_weighting"],
                "the objective `vlb` has the weights of the bound and takes no `loss_weighting`; use the objective \
                 `simple` or `hybrid`",
            );
        }
        _ => {}
    }
    if options.learned_schedule {
        if options.timestep_sampling == TimestepSampling::Importance {
            return refuse(
                &["learned_schedule", "timestep_sampling"],
                "a learned noise schedule and importance sampling of the timesteps both even out the losses of the \
                 timesteps; use one of them",
            );
        }
        if scheduler.rescale_betas_zero_snr {
            return refuse(
                &["learned_schedule", "scheduler.rescale_betas_zero_snr"],
                "a learned noise schedule needs two ends with some of the image left; leave `rescale_betas_zero_snr` out",
            );
        }
        if scheduler.num_train_timesteps < 2 {
            return refuse(
                &["learned_schedule", "scheduler.num_train_timesteps"],
                "a learned noise schedule learns what lies between two ends; take at least 2 timesteps",
            );
        }
    }
    if options.loss_type != LossType::Mse && options.loss_weighting != LossWeighting::Uniform {
        return refuse(
            &["loss_weighting", "loss_type"],
            "`loss_weighting` weights squared errors; leave it out, or use the `loss_type` mse",
        );
    }
    let is_positive = |value: f64| value.is_finite() && value > 0.0;
    if let LossType::Huber { delta } = options.loss_type
        && !is_positive(delta.into())
    {
        let text = format!("the `delta` of the Huber loss is {delta}; it must be above 0");
        return refuse(&["loss_type.delta"], &text);
    }
    match options.loss_weighting {
        LossWeighting::MinSnr { gamma } if !is_positive(gamma) => {
            let text = format!("the `gamma` of the weighting min-SNR is {gamma}; it must be above 0");
            return refuse(&["loss_weighting.min_snr.gamma"], &text);
        }
        LossWeighting::P2 { gamma, .. } if !(gamma.is_finite() && gamma >= 0.0) => {
            let text = format!("the `gamma` of the weighting P2 is {gamma}; it must be at least 0");
            return refuse(&["loss_weighting.p2.gamma"], &text);
        }
        LossWeighting::P2 { k, .. } if !is_positive(k) => {
            return refuse(
                &["loss_weighting.p2.k"],
                &format!("the `k` of the weighting P2 is {k}; it must be above 0"),
            );
        }
        _ => {}
    }
    let checked = options.loss_weighting.check(&scheduler.schedule()?, scheduler.prediction_type);
    checked.or_else(|error| refuse(&["loss_weighting"], &error.to_string()))
}

/// The loss in the graph of a training step.
#[derive(Clone, Copy, Debug)]
pub(super) struct Loss {
    /// `[1]`
    pub(super) loss: ValueId,
    simple: Option<Weighted>,
    bound: Option<Bound>,
    /// Squared error of each sample `[N]`, for a schedule that is learned.
    squared_error: Option<ValueId>,
}

/// Losses of the samples and their weights, both `[N]`.
#[derive(Clone, Copy, Debug)]
struct Weighted {
    per_sample: ValueId,
    weights: ValueId,
}

/// Terms of the bound.
#[derive(Clone, Copy, Debug)]
struct Bound {
    terms: Weighted,
    /// `[N, 5]`
    coefficients: ValueId,
}

impl Loss {
    /// Appends the loss of the network's `output` `[N, H, W, C]`, or `[N, H, W, 2 C]` for a learned variance.
    pub(super) fn build(
        graph: &mut Graph,
        options: &TrainOptions,
        output: ValueId,
        target: ValueId,
        x_start: ValueId,
    ) -> Result<Self, GraphError> {
        let samples = graph.ty(target).shape[0];
        graph.in_phase(Phase::Loss, |graph| {
            let simple = match options.objective {
                Objective::Vlb => None,
                Objective::Simple | Objective::Hybrid => {
                    let kind = options.loss_type.regression();
                    let per_sample = regression_loss(graph, kind, output, target)?;
                    Some(Weighted { per_sample, weights: graph.input("weights", TensorType::f32([samples])) })
                }
            };
            let bound = match options.objective {
                Objective::Simple => None,
                Objective::Vlb | Objective::Hybrid => {
                    let coefficients = graph.input("vlb_coefficients", TensorType::f32([samples, 5]));
                    let freeze_mean = options.objective == Objective::Hybrid;
                    let per_sample = vlb_loss(graph, [output, target, x_start], coefficients, freeze_mean)?;
                    let weights = graph.input("vlb_weights", TensorType::f32([samples]));
                    Some(Bound { terms: Weighted { per_sample, weights }, coefficients })
                }
            };
            let squared_error = match (options.learned_schedule, simple) {
                (false, _) => None,
                (true, Some(simple)) if options.loss_type == LossType::Mse => Some(simple.per_sample),
                (true, _) => Some(regression_loss(graph, Regression::Mse, output, target)?),
            };
            let mut loss = None;
            for Weighted { per_sample, weights } in simple.into_iter().chain(bound.map(|bound| bound.terms)) {
                let term = weighted_mean(graph, per_sample, weights)?;
                loss = Some(match loss {
                    None => term,
                    Some(other) => add(graph, other, term)?,
                });
            }
            let loss = loss.unwrap_or_else(|| unreachable!("every objective has a loss"));
            Ok(Self { loss, simple, bound, squared_error })
        })
    }

    /// Losses of the samples, each `[N]`, without weights; the squared error last, for a schedule that is learned.
    pub(super) fn per_sample(&self) -> Vec<ValueId> {
        let terms = self.simple.into_iter().chain(self.bound.map(|bound| bound.terms));
        terms.map(|weighted| weighted.per_sample).chain(self.squared_error).collect()
    }

    /// What the host writes for images at `timesteps`: weights `[N]` and coefficients `[N, 5]`. The images count
    /// `importance` each because of how the timesteps were drawn.
    pub(super) fn inputs(
        &self,
        options: &TrainOptions,
        scheduler: &SchedulerConfig,
        schedule: &Schedule,
        timesteps: &[usize],
        importance: &[f64],
    ) -> Vec<(ValueId, Vec<f32>)> {
        let mut inputs = Vec::new();
        let weights =
            self.simple.into_iter().chain(self.bound.map(|bound| bound.terms)).map(|kind| kind.weights);
        for (weights, factors) in weights.zip(factors(options, scheduler, schedule, timesteps)) {
            let pairs = factors.iter().zip(importance);
            inputs.push((weights, pairs.map(|(factor, importance)| (factor * importance) as f32).collect()));
        }
        if let Some(Bound { coefficients, .. }) = self.bound {
            let rows = timesteps.iter().flat_map(|&t| {
                let kinds = (scheduler.prediction_type, scheduler.variance_type);
                schedule.vlb_coefficients(t, kinds.0, kinds.1).to_array()
            });
            inputs.push((coefficients, rows.collect()));
        }
        inputs
    }
}

/// For each kind of loss that the objective has, what it counts at each of `timesteps`.
fn factors(
    options: &TrainOptions,
    scheduler: &SchedulerConfig,
    schedule: &Schedule,
    timesteps: &[usize],
) -> Vec<Vec<f64>> {
    let weight =
        |&t: &usize| options.loss_weighting.weight(schedule.alphas_cumprod(t), scheduler.prediction_type);
    let simple = (options.objective != Objective::Vlb).then(|| timesteps.iter().map(weight).collect());
    let scale = options.objective.vlb_scale(schedule.num_train_timesteps());
    let bound = (options.objective != Objective::Simple).then(|| vec![scale; timesteps.len()]);
    simple.into_iter().chain(bound).collect()
}

/// What each image contributes to the objective `[N]`, from the contents of [`Loss::per_sample`].
pub(super) fn contributions(
    options: &TrainOptions,
    scheduler: &SchedulerConfig,
    schedule: &Schedule,
    timesteps: &[usize],
    per_sample: &[Vec<f32>],
) -> Vec<f64> {
    let mut sums = vec![0.0; timesteps.len()];
    for (factors, losses) in factors(options, scheduler, schedule, timesteps).iter().zip(per_sample) {
        for ((sum, factor), &loss) in sums.iter_mut().zip(factors).zip(losses) {
            *sum += factor * f64::from(loss);
        }
    }
    sums
}
