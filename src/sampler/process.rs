//! What every sampler starts from: the process that the model was trained on, and what the user chose.

use super::{Clip, Sampler, SamplerError, SamplerOptions};
use crate::diffusion::{PredictionType, Schedule, SchedulerConfig};
use crate::ops::reverse_step::{Combination, OUTPUT, X, X_0};

/// A diffusion process, and how it is to be reversed.
#[derive(Clone, Debug)]
pub struct Process<'a> {
    /// The process as diffusers describes it.
    pub config: &'a SchedulerConfig,
    /// What the user chose.
    pub options: &'a SamplerOptions,
    /// Its noise schedule.
    pub schedule: Schedule,
    /// Number of steps to take.
    pub steps: usize,
}

/// A moment of the process: x = alpha x_0 + sigma eps, with alpha^2 + sigma^2 = 1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Level {
    /// alpha^2, the paper's alpha-bar: 1 for the image itself.
    pub alpha_cumprod: f64,
    prediction_type: PredictionType,
    is_clipped: bool,
}

impl<'a> Process<'a> {
    /// Computes the schedule.
    ///
    /// # Errors
    /// [`SamplerError::Schedule`]
    pub fn new(
        sampler: &Sampler,
        config: &'a SchedulerConfig,
        options: &'a SamplerOptions,
    ) -> Result<Self, SamplerError> {
        let all = config.num_train_timesteps;
        let steps =
            options.steps.unwrap_or_else(|| sampler.default_steps.map_or(all, |steps| steps.min(all)));
        Ok(Self { config, options, schedule: config.schedule()?, steps })
    }

    /// The training timesteps to visit, falling.
    ///
    /// # Errors
    /// [`SamplerError::Timesteps`]
    pub fn timesteps(&self) -> Result<Vec<usize>, SamplerError> {
        Ok(self.config.timesteps(self.steps)?)
    }

    /// The level of noise of a training timestep.
    ///
    /// # Panics
    /// If `t` is not below T.
    pub fn level(&self, t: usize) -> Level {
        self.level_of(self.schedule.alphas_cumprod(t))
    }

    /// The level at which alpha-bar has this value.
    pub fn level_of(&self, alpha_cumprod: f64) -> Level {
        let is_clipped = self.options.clip != Clip::None;
        Level { alpha_cumprod, prediction_type: self.config.prediction_type, is_clipped }
    }

    /// The level of the image itself.
    pub fn image(&self) -> Level {
        self.level_of(1.0)
    }
}

impl Level {
    /// Factor of x_0 in x.
    pub fn alpha(self) -> f64 {
        self.alpha_cumprod.sqrt()
    }

    /// Factor of eps in x: its standard deviation.
    pub fn sigma(self) -> f64 {
        (1.0 - self.alpha_cumprod).sqrt()
    }

    /// Factors of x and of the network's output in x_0.
    pub fn x_0(self) -> [f64; 2] {
        self.prediction_type.x_start_factors(self.alpha_cumprod)
    }

    /// eps as the network has it, whether x_0 is clipped or not.
    pub fn eps_of_output(self) -> Combination {
        let [of_x, of_output] = self.prediction_type.eps_factors(self.alpha_cumprod);
        of_x * X + of_output * OUTPUT
    }

    /// eps that belongs to the estimate of x_0: where that is clipped, what leads from it to x.
    pub fn eps(self) -> Combination {
        if self.is_clipped { (1.0 / self.sigma()) * (X - self.alpha() * X_0) } else { self.eps_of_output() }
    }
}
