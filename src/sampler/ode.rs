//! The probability flow ODE (Song et al. 2021, "Score-Based Generative Modeling through Stochastic Differential
//! Equations", section 4.3), solved by an adaptive Runge-Kutta method (Dormand and Prince 1980).
//!
//! On the circle alpha = cos(angle), sigma = sin(angle) the ODE is dx / d angle = v (Salimans and Ho 2022, appendix D),
//! from nearly pi / 2 to nearly 0. The last step takes the estimate of x_0 there. Each image has step sizes of its own, so
//! that it does not depend on the others.

use std::ops::RangeInclusive;

use super::{
    Adaptive, Choice, Combination, Guided, Level, Measure, Measured, NoiseLevels, Process, Sampler,
    SamplerError, Step, Steps, Update, X, X_0, history,
};
use crate::diffusion::dormand_prince::{ERROR, NODES, STAGES};

pub(super) const SAMPLER: Sampler = Sampler {
    name: "ode",
    description: "the probability flow ODE by an adaptive Runge-Kutta method (Song et al. 2021): \
                  no step errs by more than the tolerance",
    default_steps: None,
    slots: 7,
    measures: true,
    inverts: false,
    guided: Guided::Eps,
    extrapolates: false,
    choices: &[Choice::Strength, Choice::Tolerance],
    steps,
};

/// The tolerance of the authors' code, absolute and relative.
const TOLERANCE: f64 = 1e-5;

/// The tolerances that can be asked for: with less the rounding of f32 decides which steps are taken, and with more
/// nothing does.
pub const TOLERANCES: RangeInclusive<f64> = 1e-7..=1.0;

/// No step is shorter, in radians, except for the last.
const SMALLEST: f64 = 1e-6;

/// The solver gives up after trying so many steps, including those that it repeats with less length. Usual runs take
/// hundreds of times fewer.
const MOST_STEPS: usize = 5000;

/// The x that the step began at; the slots after it hold slopes 1 to 6.
const BEGIN: usize = 0;

fn steps(process: &Process<'_>) -> Result<Steps, SamplerError> {
    let tolerance = process.options.tolerance.unwrap_or(TOLERANCE);
    if !TOLERANCES.contains(&tolerance) {
        return Err(SamplerError::Tolerance { value: tolerance });
    }
    let circle = Circle::new(process);
    if circle.begin <= circle.end {
        // With a single timestep there is no way to go: its estimate of x_0 is all there is.
        let level = circle.level(circle.begin);
        return Ok(Steps::Fixed(vec![Step::at(level.timestep, Update::new(level.x_0(), X_0))]));
    }
    Ok(Steps::Adaptive(Box::new(move |images| {
        Box::new(DormandPrince {
            images: vec![Image { angle: circle.begin, length: (circle.begin - circle.end) / 50.0 }; images],
            circle: circle.clone(),
            tolerance,
            stage: 1,
            tried: 0,
        })
    })))
}

/// The levels of noise between the first timestep and the last, by their angle.
#[derive(Clone, Debug)]
struct Circle {
    begin: f64,
    end: f64,
    noise: NoiseLevels,
}

impl Circle {
    fn new(process: &Process<'_>) -> Self {
        let noise = process.noise_levels();
        let last = (process.config.num_train_timesteps - 1) as f64 * process.options.strength;
        let angle = |t: f64| noise.at(t).ratio().atan();
        Self { begin: angle(last), end: angle(0.0), noise }
    }

    fn level(&self, angle: f64) -> Level {
        self.noise.of_ratio(angle.tan())
    }
}

#[derive(Clone, Copy, Debug)]
struct Image {
    angle: f64,
    /// Of the step under way or to come; 0 at the end.
    length: f64,
}

struct DormandPrince {
    images: Vec<Image>,
    circle: Circle,
    tolerance: f64,
    /// The slope that is evaluated next, 1 to 7; 8 where all seven are known.
    stage: usize,
    /// Steps tried.
    tried: usize,
}

impl Adaptive for DormandPrince {
    fn next(&mut self, measured: &[Measured]) -> Result<Option<Vec<Step>>, SamplerError> {
        let stage = self.stage;
        if stage <= 7 {
            self.stage += 1;
            return Ok(Some(self.images.iter().map(|image| self.evaluation(stage, *image)).collect()));
        }
        self.stage = 2;
        if self.images.iter().all(|image| image.length == 0.0) {
            return Ok(None);
        }
        self.tried += 1;
        if self.tried > MOST_STEPS {
            return Err(self.too_many_steps());
        }
        let pairs = self.images.iter().zip(measured);
        let decided = pairs.map(|(image, measured)| self.decide(*image, measured.value));
        let (images, steps) = decided.collect::<Result<Vec<_>, _>>()?.into_iter().unzip();
        self.images = images;
        if self.images.iter().all(|image| image.length == 0.0) {
            self.stage = 8;
        }
        Ok(Some(steps))
    }

    fn progress(&self) -> f64 {
        let Circle { begin, end, .. } = self.circle;
        let left =
            |image: &Image| if image.length == 0.0 { 0.0 } else { (image.angle - end) / (begin - end) };
        1.0 - self.images.iter().map(left).fold(0.0, f64::max)
    }
}

impl DormandPrince {
    fn too_many_steps(&self) -> SamplerError {
        SamplerError::TooManySteps {
            // Seven slopes, the first of which is the last of the step before.
            evaluations: 6 * self.tried + 1,
            share: 100.0 * self.progress(),
            tolerance: self.tolerance,
        }
    }

    /// The evaluation of slope `stage`, and the way to the point of the next.
    fn evaluation(&self, stage: usize, Image { angle, length }: Image) -> Step {
        let share = if stage == 1 { 0.0 } else { NODES[stage - 1] };
        let level = self.circle.level(angle - share * length);
        let slope = level.v();
        if length == 0.0 {
            return Step::at(level.timestep, Update::none());
        }
        if stage == 7 {
            let error = combined(&ERROR, slope);
            let measure = Measure {
                x_0: level.x_0(),
                value: length * error,
                beside: history(BEGIN),
                absolute: self.tolerance,
                relative: self.tolerance,
                noise: false,
            };
            return Step::at(level.timestep, Update::new(level.x_0(), X)).measuring(measure);
        }
        let begin = if stage == 1 { X } else { history(BEGIN) };
        let point = begin - length * combined(STAGES[stage], slope);
        let update = Update::new(level.x_0(), point).keep(stage, slope);
        Step::at(level.timestep, if stage == 1 { update.keep(BEGIN, X) } else { update })
    }

    /// What becomes of an image whose step has this error, in units of the tolerance.
    fn decide(&self, image: Image, error: f64) -> Result<(Image, Step), SamplerError> {
        if image.length == 0.0 {
            return Ok((image, Step::again(Update::none())));
        }
        let angle = image.angle - image.length;
        let level = self.circle.level(angle);
        // Hairer, Norsett and Wanner 1993, equation II.4.13.
        let factor = (0.9 * error.powf(-0.2)).clamp(0.2, 10.0);
        let is_smallest = image.length <= SMALLEST;
        // A network that says NaN or infinity is not asked for ever: it is x, which holds them, that is then refused.
        if is_smallest && !error.is_finite() {
            return Ok((Image { length: 0.0, ..image }, Step::again(Update::none())));
        }
        if error.is_nan() || error > 1.0 {
            if is_smallest {
                return Err(self.too_many_steps());
            }
            let length = (image.length * if error.is_finite() { factor } else { 0.2 }).max(SMALLEST);
            let again = Update::new(level.x_0(), history(BEGIN) - length * STAGES[1][0] * history(1));
            return Ok((Image { length, ..image }, Step::again(again)));
        }
        if angle <= self.circle.end + 1e-12 {
            return Ok((Image { angle, length: 0.0 }, Step::again(Update::new(level.x_0(), X_0))));
        }
        // The last slope of this step is the first of the next.
        let length = (image.length * factor).max(SMALLEST).min(angle - self.circle.end);
        let slope = level.v();
        let next = Update::new(level.x_0(), X - length * STAGES[1][0] * slope).keep(BEGIN, X).keep(1, slope);
        Ok((Image { angle, length }, Step::again(next)))
    }
}

/// The weighted sum of the slopes in slots 1, 2, ... and of the current slope.
fn combined(weights: &[f64], now: Combination) -> Combination {
    let (last, earlier) = match weights.split_last() {
        Some((last, rest)) => (*last, rest),
        None => (0.0, weights),
    };
    let slopes = earlier.iter().enumerate().map(|(i, &weight)| weight * history(i + 1));
    slopes.fold(last * now, |sum, slope| sum + slope)
}
