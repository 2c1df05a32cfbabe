//! Every sampler starts from the process that the model was trained on and the user's options.

use super::levels::between;
use super::{Clip, Combination, OUTPUT, Sampler, SamplerError, SamplerOptions, X, X_0};
use crate::diffusion::{
    BetaSchedule, LevelSpacing, Mixing, NoiseCurve, PredictionType, Respacing, Schedule, SchedulerConfig,
    Solver, TimestepSpacing,
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
    /// The choices within the sampler: those of the config, where it is a config for this sampler.
    pub solver: Solver,
    sampler: Sampler,
    respacing: Respacing,
    spacing: TimestepSpacing,
}

/// The highest order of methods of several orders.
const MOST_ORDER: usize = 3;
/// Their order where nobody says another.
const DEFAULT_ORDER: usize = 2;

/// The timestep that the network is told at a level between two timesteps, as diffusers has it: Karras's and Lu's
/// levels are rounded, others take the timestep below.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// Always.
    Rounded,
    /// But for cosine schedules, where all take the timestep below.
    Multistep,
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
    /// [`SamplerError`] for options out of range, and for a config that cannot be used.
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
        let method = config.method()?;
        let mut solver = if method.sampler == sampler.name { method.solver } else { Solver::default() };
        solver.order = options.solver_order.or(solver.order);
        solver.levels = options.noise_levels.or(solver.levels);
        if let Some(order) = solver.order.filter(|order| !(1..=MOST_ORDER).contains(order)) {
            return Err(SamplerError::Order { sampler: sampler.name, order, most: MOST_ORDER });
        }
        let schedule = config.schedule()?;
        Ok(Self { config, options, schedule, solver, sampler: *sampler, respacing, spacing })
    }

    /// The order of a method of several orders.
    pub fn order(&self) -> usize {
        self.solver.order.unwrap_or(DEFAULT_ORDER)
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
        let SchedulerConfig { num_train_timesteps: all, steps_offset, .. } = *self.config;
        let num_train_timesteps = all - self.clipped_timesteps();
        if num_train_timesteps < all && self.spacing == TimestepSpacing::Trailing {
            // The stride stays that of all timesteps.
            let timesteps = self.spacing.timesteps(all, steps, steps_offset)?.into_iter();
            return self.cut(timesteps.filter_map(|t| (t + num_train_timesteps).checked_sub(all)).collect());
        }
        if self.options.steps.is_none() && self.spacing != TimestepSpacing::Trailing {
            // The last step takes a timestep of its own. A model with few timesteps has none left for it.
            steps = steps.min(num_train_timesteps - 1).max(1);
        }
        if num_train_timesteps < all && steps >= num_train_timesteps.max(2) {
            let lambda_min = self.solver.lambda_min;
            return Err(SamplerError::Clipped { steps, lambda_min, left: num_train_timesteps });
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

    /// So many of the noisiest timesteps are left out, for their log(alpha / sigma) is too small.
    fn clipped_timesteps(&self) -> usize {
        let all = self.schedule.num_train_timesteps();
        let log_snr = |t: usize| self.visible_level(t).log_snr();
        (1..all).rev().take_while(|&t| log_snr(t) < self.solver.lambda_min).count()
    }

    /// The level of a timestep as those see it that need some of the image: none is without any.
    fn visible_level(&self, t: usize) -> Level {
        Level { alpha_cumprod: self.schedule.visible_alphas_cumprod(t), ..self.level(t) }
    }

    /// Where the last step ends.
    fn final_level(&self) -> Level {
        if self.solver.ends_at_first_timestep { self.level(0) } else { self.image() }
    }

    /// The levels that a multistep method visits, and behind them that at which the last step ends; none is without any
    /// image. `told` is how the network is told levels between timesteps.
    ///
    /// # Errors
    /// [`SamplerError::Timesteps`]; [`SamplerError::Uneven`] where timesteps are listed and the levels are between
    /// them.
    pub fn multistep_levels(&self, told: Told) -> Result<Vec<Level>, SamplerError> {
        let spacing = self.solver.levels.unwrap_or(LevelSpacing::Timesteps);
        let timesteps = self.multistep_timesteps()?;
        let mut levels: Vec<Level> = if spacing == LevelSpacing::Timesteps {
            timesteps.iter().map(|&t| self.visible_level(t)).collect()
        } else {
            // Between the ends of the schedule, wherever the first of the timesteps lies.
            let ends = [0, self.schedule.num_train_timesteps() - 1].map(|t| self.visible_level(t).ratio());
            let mut levels = self.levels_between(spacing, ends)?;
            let is_cosine = self.config.beta_schedule == BetaSchedule::SquaredcosCapV2;
            let is_rounded = match (told, spacing) {
                (Told::Multistep, LevelSpacing::Karras | LevelSpacing::Lu) => !is_cosine,
                (Told::Rounded, LevelSpacing::Karras | LevelSpacing::Lu) => true,
                _ => false,
            };
            for level in &mut levels {
                // Where a level is that of a timestep, rounding in the search of it decides nothing.
                let below = || (level.timestep + 1e-6).floor();
                level.timestep = if is_rounded { level.timestep.round_ties_even() } else { below() };
            }
            levels
        };
        levels.push(self.final_level());
        Ok(levels)
    }

    /// Levels for methods on the levels of Karras et al. 2022, and behind them that at which the last step ends. They
    /// lie between those of the first and the last timestep that the spacing visits, as the solver's choice or else
    /// `usual` says; linspace spacing visits timesteps that are not whole.
    ///
    /// # Errors
    /// [`SamplerError::Timesteps`]; [`SamplerError::Uneven`] where timesteps are listed.
    pub fn ratio_levels(&self, usual: LevelSpacing) -> Result<Vec<Level>, SamplerError> {
        let Respacing::Steps(steps) = self.respacing else { return Err(self.uneven()) };
        let SchedulerConfig { num_train_timesteps, steps_offset, .. } = *self.config;
        let timesteps = self.spacing.timesteps(num_train_timesteps, steps, steps_offset)?;
        let even =
            |i: usize| ((num_train_timesteps - 1) * (steps - 1 - i)) as f64 / (steps - 1).max(1) as f64;
        let level = |(i, &t): (usize, &usize)| match self.spacing {
            TimestepSpacing::Linspace => self.level_between(even(i)),
            TimestepSpacing::Leading | TimestepSpacing::Trailing => self.visible_level(t),
        };
        let visited: Vec<Level> = timesteps.iter().enumerate().map(level).collect();
        let mut levels = match self.solver.levels.unwrap_or(usual) {
            LevelSpacing::Timesteps => self.cut(visited)?,
            spacing => {
                let ratio = |level: Option<&Level>| level.map_or(0.0, |level| level.ratio());
                self.levels_between(spacing, [ratio(visited.last()), ratio(visited.first())])?
            }
        };
        levels.push(self.final_level());
        Ok(levels)
    }

    /// As many levels as steps, between the least and the most sigma / alpha, unless the solver has other ends.
    fn levels_between(&self, spacing: LevelSpacing, ends: [f64; 2]) -> Result<Vec<Level>, SamplerError> {
        let Respacing::Steps(steps) = self.respacing else { return Err(self.uneven()) };
        let [least, most] = [0, 1].map(|end| self.solver.level_ends[end].unwrap_or(ends[end]));
        let noise = self.noise_levels();
        let ratios = between(spacing, [least, most], steps);
        self.cut(ratios.into_iter().map(|ratio| noise.of_ratio(ratio)).collect())
    }

    /// The level of a timestep that need not be whole: sigma / alpha lies on a straight line between two of them.
    fn level_between(&self, timestep: f64) -> Level {
        let (low, high) = (timestep.floor(), timestep.ceil());
        let [from, to] = [low, high].map(|t| self.visible_level(t as usize).ratio());
        let ratio = from + (timestep - low) * (to - from);
        Level { timestep, alpha_cumprod: 1.0 / (1.0 + ratio * ratio), ..self.level(low as usize) }
    }

    /// The factor of noise of variance 1 at the beginning, where that is a level's own noise and nothing else.
    pub fn noise_at(&self, first: Level) -> Option<f64> {
        let is_scaled = self.solver.scales_noise && self.spacing != TimestepSpacing::Leading;
        (is_scaled && self.options.strength == 1.0).then(|| first.sigma())
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

    /// Whether this is the image itself, without noise.
    pub fn is_image(self) -> bool {
        self.alpha_cumprod == 1.0
    }

    /// Whether another level has the same noise, but for rounding.
    pub(super) fn is_at(self, other: Self) -> bool {
        (self.ratio() - other.ratio()).abs() <= 1e-9 * self.ratio()
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
