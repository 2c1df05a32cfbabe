//! Every sampler starts from the process that the model was trained on and the user's options.

use super::{Clip, Combination, OUTPUT, Sampler, SamplerError, SamplerOptions, X, X_0};
use crate::diffusion::{
    Mixing, NoiseCurve, PredictionType, Respacing, Schedule, SchedulerConfig, TimestepSpacing,
};

/// A diffusion process, and how it is to be reversed.
#[derive(Clone, Debug)]
pub struct Process<'a> {
    /// The process as diffusers describes it.
    pub config: &'a SchedulerConfig,
    /// What the user chose.
    pub options: &'a SamplerOptions,
    /// Its noise schedule.
    pub schedule: Schedule,
    sampler: Sampler,
    respacing: Respacing,
    spacing: TimestepSpacing,
}

/// A moment of the process: x = alpha x_0 + sigma eps, with alpha^2 + sigma^2 = 1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Level {
    /// The timestep that the network is told, whole or not; of no meaning for the image itself.
    pub timestep: f64,
    /// alpha^2, the paper's alpha-bar: 1 for the image itself.
    pub alpha_cumprod: f64,
    reading: Reading,
}

/// How x_0 and eps are read from the network's output.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Reading {
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
        let strength = options.strength;
        if !(strength > 0.0 && strength <= 1.0) {
            return Err(SamplerError::Strength(strength));
        }
        match options.clip {
            Clip::Clamp(limit) if limit.is_nan() || limit <= 0.0 => {
                return Err(SamplerError::NotPositive { field: "clip", value: limit });
            }
            Clip::Dynamic { ratio, .. } if !(ratio > 0.0 && ratio <= 1.0) => {
                return Err(SamplerError::Quantile(ratio));
            }
            _ => {}
        }
        let all = config.num_train_timesteps;
        let default = || Respacing::Steps(sampler.default_steps.map_or(all, |steps| steps.min(all)));
        let respacing = options.steps.clone().unwrap_or_else(default);
        if options.spacing.is_some() && !matches!(respacing, Respacing::Steps(_)) {
            return Err(SamplerError::SpacingOfList(respacing.to_string()));
        }
        let spacing = options.spacing.unwrap_or(config.timestep_spacing);
        Ok(Self { config, options, schedule: config.schedule()?, sampler: *sampler, respacing, spacing })
    }

    /// The training timesteps to visit, falling.
    ///
    /// # Errors
    /// [`SamplerError::Timesteps`]
    pub fn timesteps(&self) -> Result<Vec<usize>, SamplerError> {
        let all = self.config.num_train_timesteps;
        self.cut(match self.respacing {
            Respacing::Steps(steps) => self.spacing.timesteps(all, steps, self.config.steps_offset)?,
            _ => self.respacing.list(all)?,
        })
    }

    /// The training timesteps to visit, falling, with a last step from the last of them to the image itself.
    ///
    /// # Errors
    /// [`SamplerError::Timesteps`]
    pub fn multistep_timesteps(&self) -> Result<Vec<usize>, SamplerError> {
        let Respacing::Steps(mut steps) = self.respacing else { return self.timesteps() };
        let SchedulerConfig { num_train_timesteps, steps_offset, .. } = *self.config;
        if self.options.steps.is_none() && self.spacing != TimestepSpacing::Trailing {
            // The last step takes a timestep of its own. A model with few timesteps has none left for it.
            steps = steps.min(num_train_timesteps - 1).max(1);
        }
        self.cut(self.spacing.multistep_timesteps(num_train_timesteps, steps, steps_offset)?)
    }

    /// How far apart evenly spaced timesteps lie; `None` where they are listed section by section.
    pub fn stride(&self) -> Option<usize> {
        match self.respacing {
            Respacing::Steps(steps) => Some(self.config.num_train_timesteps / steps.max(1)),
            Respacing::Ddim(steps) => Some(self.config.num_train_timesteps.div_ceil(steps.max(1))),
            Respacing::Sections(_) => None,
        }
    }

    /// The stride, for samplers that need one.
    ///
    /// # Errors
    /// [`SamplerError::Uneven`]
    pub fn even_stride(&self) -> Result<usize, SamplerError> {
        self.stride().ok_or_else(|| self.uneven())
    }

    /// Leaves out the noisiest timesteps, where the user begins on the way.
    fn cut<T>(&self, mut steps: Vec<T>) -> Result<Vec<T>, SamplerError> {
        let left = (steps.len() as f64 * self.options.strength) as usize;
        if left == 0 {
            let strength = self.options.strength;
            return Err(SamplerError::NoStep {
                strength,
                steps: steps.len(),
                least: (1.0 / strength).ceil() as usize,
            });
        }
        Ok(steps.split_off(steps.len() - left))
    }

    fn uneven(&self) -> SamplerError {
        SamplerError::Uneven { sampler: self.sampler.name, steps: self.respacing.to_string() }
    }

    /// The level of noise of a training timestep.
    ///
    /// # Panics
    /// If `t` is not below T.
    pub fn level(&self, t: usize) -> Level {
        let alpha_cumprod = self.schedule.alphas_cumprod(t);
        Level { timestep: t as f64, alpha_cumprod, reading: self.reading() }
    }

    /// The level of the image itself.
    pub fn image(&self) -> Level {
        Level { timestep: 0.0, alpha_cumprod: 1.0, reading: self.reading() }
    }

    /// The levels of these timesteps, and that of the image itself behind them; none is without any image.
    pub fn levels_to_image(&self, timesteps: &[usize]) -> Vec<Level> {
        let visible =
            |&t: &usize| Level { alpha_cumprod: self.schedule.visible_alphas_cumprod(t), ..self.level(t) };
        let levels = timesteps.iter().map(visible);
        levels.chain([self.image()]).collect()
    }

    /// Levels between those of the first and the last timestep that the spacing visits, closer together the less noise is
    /// left (Karras et al. 2022, equation 5, with rho = 7), and that of the image itself behind them.
    ///
    /// # Errors
    /// [`SamplerError::Timesteps`]; [`SamplerError::Uneven`] where timesteps are listed.
    pub fn karras_levels(&self) -> Result<Vec<Level>, SamplerError> {
        const RHO: f64 = 7.0;
        let Respacing::Steps(steps) = self.respacing else { return Err(self.uneven()) };
        let SchedulerConfig { num_train_timesteps, steps_offset, .. } = *self.config;
        let timesteps = self.spacing.timesteps(num_train_timesteps, steps, steps_offset)?;
        let noise = self.noise_levels();
        let end = |t: Option<&usize>| t.map_or(0.0, |&t| noise.at(t as f64).ratio().powf(1.0 / RHO));
        let (most, least) = (end(timesteps.first()), end(timesteps.last()));
        let level = |i: usize| {
            let share = i as f64 / (steps - 1).max(1) as f64;
            noise.of_ratio((most + share * (least - most)).powf(RHO))
        };
        let mut levels = self.cut((0..steps).map(level).collect())?;
        levels.push(self.image());
        Ok(levels)
    }

    /// Levels of noise between the training timesteps.
    pub fn noise_levels(&self) -> NoiseLevels {
        NoiseLevels { curve: NoiseCurve::new(&self.schedule), reading: self.reading() }
    }

    fn reading(&self) -> Reading {
        let is_clipped = self.options.clip != Clip::None;
        Reading { prediction_type: self.config.prediction_type, is_clipped }
    }
}

/// The process between its training timesteps, see [`NoiseCurve`].
#[derive(Clone, Debug)]
pub struct NoiseLevels {
    curve: NoiseCurve,
    reading: Reading,
}

impl NoiseLevels {
    /// The level at a timestep, whole or not, from 0 to T - 1.
    pub fn at(&self, timestep: f64) -> Level {
        self.level(self.curve.clamp(timestep), self.curve.log_ratio(timestep).exp())
    }

    /// The level at which sigma / alpha has this value; outside of the schedule, with the timestep that is nearest.
    pub fn of_ratio(&self, ratio: f64) -> Level {
        self.level(self.curve.timestep(ratio.ln()), ratio)
    }

    fn level(&self, timestep: f64, ratio: f64) -> Level {
        Level { timestep, alpha_cumprod: 1.0 / (1.0 + ratio * ratio), reading: self.reading }
    }
}

impl Level {
    /// Factor of x_0 in x.
    pub fn alpha(self) -> f64 {
        Mixing::at(self.alpha_cumprod).signal
    }

    /// Factor of eps in x: its standard deviation.
    pub fn sigma(self) -> f64 {
        Mixing::at(self.alpha_cumprod).noise
    }

    /// sigma / alpha, the noise level of Karras et al. 2022: 0 for the image itself.
    pub fn ratio(self) -> f64 {
        self.sigma() / self.alpha()
    }

    /// log(alpha / sigma), the lambda of the DPM solvers: infinite for the image itself.
    pub fn log_snr(self) -> f64 {
        -self.ratio().ln()
    }

    /// Factors of x and of the network's output in x_0.
    pub fn x_0(self) -> [f64; 2] {
        self.reading.prediction_type.x_start_factors(self.alpha_cumprod)
    }

    /// eps as the network has it, whether x_0 is clipped or not.
    pub fn eps_of_output(self) -> Combination {
        let [of_x, of_output] = self.reading.prediction_type.eps_factors(self.alpha_cumprod);
        of_x * X + of_output * OUTPUT
    }

    /// eps that belongs to the estimate of x_0: where that is clipped, what leads from it to x.
    pub fn eps(self) -> Combination {
        if self.reading.is_clipped {
            1.0 / self.sigma() * (X - self.alpha() * X_0)
        } else {
            self.eps_of_output()
        }
    }

    /// v = alpha eps - sigma x_0 that belongs to the estimate of x_0.
    pub fn v(self) -> Combination {
        // With x = alpha x_0 + sigma eps for eps.
        if self.reading.is_clipped {
            return 1.0 / self.sigma() * (self.alpha() * X - X_0);
        }
        let [of_x, of_output] = self.x_0();
        1.0 / self.sigma() * ((self.alpha() - of_x) * X - of_output * OUTPUT)
    }
}
